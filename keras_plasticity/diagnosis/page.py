"""A diagnosis as one HTML page that needs nothing else."""

from __future__ import annotations

import html

from keras_plasticity.diagnosis import figures
from keras_plasticity.diagnosis.findings import Diagnosis, Evidence, Finding
from keras_plasticity.diagnosis.mechanisms import BY_NAME, INDICATORS
from keras_plasticity.diagnosis.terminal import headline, number

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1c1f; --soft: #5b6067;
  --line: #c9ccd1; --panel: #f5f6f7; --failing: #b3261e; --warning: #9a6200; --healthy: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e8e9eb;
  --soft: #a3a8b0; --line: #43474e; --panel: #202328; --failing: #ff8a80; --warning: #f2b84b;
  --healthy: #6fcf97; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .6rem 0; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
pre { background: var(--panel); padding: .5rem .7rem; overflow-x: auto; margin: .2rem 0 .8rem;
  border-radius: 4px; font-size: .85rem; }
.failing { color: var(--failing); font-weight: 600; }
.warning { color: var(--warning); font-weight: 600; }
.healthy { color: var(--healthy); } .soft, .not.applicable { color: var(--soft); }
svg { width: 100%; height: auto; max-width: 46rem; } svg text { fill: var(--ink); }
td:first-child { min-width: 15rem; } .wide { overflow-x: auto; }
summary { cursor: pointer; color: var(--soft); }
"""


def page(diagnosis: Diagnosis) -> str:
    """Returns the whole page as text."""
    looked = [f for f in diagnosis.findings if f.status != "not applicable"]
    parts = [
        f"<h1>{_text(headline(diagnosis))}</h1>",
        f'<p class="soft">{_text(_summary(diagnosis))}</p>',
        *(f"<p>Note: {_text(note)}.</p>" for note in diagnosis.notes),
        _overview(diagnosis),
    ]
    if looked:
        parts.append(figures.svg(figures.severities(diagnosis), "severity of each mechanism"))
    if diagnosis.story:
        parts.append(_story(diagnosis))
    parts += [_section(finding) for finding in looked]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Diagnosis of {_text(diagnosis.model)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text)


def _summary(diagnosis: Diagnosis) -> str:
    counts = {s: sum(f.status == s for f in diagnosis.findings) for s in ("failing", "warning")}
    consequences = sum(bool(f.follows_from) for f in diagnosis.findings)
    return (
        f"{counts['failing']} failing and {counts['warning']} at a warning; consequences of others "
        f"among them: {consequences}. Severity 1 is the warning threshold, 2 the failing one."
    )


def _overview(diagnosis: Diagnosis) -> str:
    rows = []
    for finding in diagnosis.findings:
        why = finding.reason
        if finding.follows_from:
            names = " and ".join(BY_NAME[n].title.lower() for n in finding.follows_from)
            why = f"follows from {names}: {finding.reason}"
        elif finding.at_work:
            why = "a cause"
        severity = "" if finding.status == "not applicable" else f"{finding.severity:.1f}"
        rows.append(
            f'<tr><td>{_text(finding.row.title)}</td><td class="{finding.status}">'
            f'{finding.status}</td><td class="number">{severity}</td>'
            f"<td>{finding.certainty}</td><td>{_text(why)}</td></tr>"
        )
    return (
        '<div class="wide"><table><thead><tr><th>mechanism</th><th>status</th>'
        '<th class="number">severity</th><th>certainty</th><th>why</th></tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div>"
    )


def _story(diagnosis: Diagnosis) -> str:
    lines = "".join(f"<li>{_text(line)}</li>" for line in diagnosis.story["lines"])
    figure = figures.svg(figures.over_time(diagnosis.story), "mechanisms over time")
    return f"<h2>What moved before accuracy fell</h2><ul>{lines}</ul>{figure}"


def _section(finding: Finding) -> str:
    row = finding.row
    parts = [
        f'<h2>{_text(row.title)}: <span class="{finding.status}">{finding.status}</span></h2>',
        f"<p>{_text(row.what)}</p>",
        _numbers(finding.evidence),
    ]
    shown = [e for e in finding.evidence if len(e.layers) > 1 and e.warning is not None]
    if shown:
        worst = max(shown, key=lambda e: e.severity)
        figure = figures.svg(figures.layers(worst), f"{finding.mechanism} by layer")
        parts.append(figure if finding.at_work else _folded("by layer", figure))
    if row.remedies:
        remedies = "".join(
            f"<p>{_text(r.what)}</p><pre>{_text(r.code)}</pre>" for r in row.remedies
        )
        parts.append(remedies if finding.is_cause else _folded("what acts on it", remedies))
    return "\n".join(parts)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _numbers(evidence: tuple[Evidence, ...]) -> str:
    rows = []
    for item in evidence:
        limits = ["", ""]
        source = formula = ""
        if item.warning is not None and item.failing is not None:
            limits = [number(v, item.unit) for v in (item.warning, item.failing)]
            known = INDICATORS[item.indicator]
            source, formula = known.source, f"<br><code>{_text(known.formula)}</code>"
        where = f" ({item.layer})" if item.layer else ""
        rows.append(
            f"<tr><td>{_text(item.text + where)}{formula}</td>"
            f'<td class="number">{number(item.value, item.unit)}</td>'
            f'<td class="number">{limits[0]}</td><td class="number">{limits[1]}</td>'
            f'<td class="soft">{_text(source)}</td></tr>'
        )
    return (
        '<div class="wide"><table><thead><tr><th>what was measured</th><th class="number">value'
        '</th><th class="number">warning</th><th class="number">failing</th><th>source of the '
        f"thresholds</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
