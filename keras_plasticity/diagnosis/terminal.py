"""A diagnosis as a table in the terminal."""

from __future__ import annotations

import io

import rich.box
import rich.console
import rich.table
import rich.text

from keras_plasticity.diagnosis.findings import Diagnosis, Evidence, Finding
from keras_plasticity.diagnosis.mechanisms import BY_NAME

WIDTH = 100
_STYLE = {
    "failing": "bold red",
    "warning": "yellow",
    "healthy": "green",
    "not applicable": "dim",
}


def text(diagnosis: Diagnosis) -> str:
    """Returns the table as plain text, 100 columns wide."""
    console = rich.console.Console(
        file=io.StringIO(), width=WIDTH, force_terminal=False, color_system=None
    )
    console.print(renderable(diagnosis))
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def renderable(diagnosis: Diagnosis) -> rich.console.Group:
    """Returns what a `rich` console prints: headline, table, what to do, notes."""
    table = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("mechanism", min_width=20)
    table.add_column("status", no_wrap=True)
    table.add_column("certainty", no_wrap=True)
    table.add_column("evidence", overflow="fold")
    for finding in diagnosis.findings:
        table.add_row(
            finding.row.title,
            rich.text.Text(finding.status, style=_STYLE[finding.status]),
            finding.certainty,
            _evidence(finding),
        )
    parts: list = [rich.text.Text(headline(diagnosis), style="bold"), "", table]
    for finding in diagnosis.causes:
        parts += ["", rich.text.Text(f"Against {finding.row.title.lower()}:")]
        for remedy in finding.row.remedies:
            parts.append(rich.text.Text(f"  {remedy.what}"))
            parts.append(rich.text.Text(f"    {remedy.code}", style="cyan"))
    if diagnosis.story:
        parts += ["", *map(rich.text.Text, diagnosis.story.get("lines", ()))]
    if diagnosis.notes:
        parts += ["", *(rich.text.Text(f"Note: {note}") for note in diagnosis.notes)]
    return rich.console.Group(*parts)


def headline(diagnosis: Diagnosis) -> str:
    """Returns the outcome in one sentence."""
    of = f"{diagnosis.model}, {diagnosis.examples:,} examples" if diagnosis.examples else None
    of = of or diagnosis.model
    if diagnosis.healthy:
        return f"{of}: no mechanism of plasticity loss is at work."
    causes = " and ".join(f.row.title.lower() for f in diagnosis.causes)
    return f"{of}: {causes}."


def number(value: float, unit: str = "") -> str:
    """Returns a value with the digits that matter; shares in per cent."""
    if unit.startswith("share") and "per" not in unit:
        return f"{value:.1%}" if abs(value) < 0.1 else f"{value:.0%}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def line(evidence: Evidence) -> str:
    """Returns evidence in one line: value, layer, thresholds."""
    value = number(evidence.value, evidence.unit)
    unit = "" if evidence.unit.startswith("share") else f" {evidence.unit}"
    where = f" in {evidence.layer}" if evidence.layer else ""
    limits = ""
    if evidence.warning is not None and evidence.failing is not None:
        limits = (
            f" (warning {number(evidence.warning, evidence.unit)},"
            f" failing {number(evidence.failing, evidence.unit)})"
        )
    return f"{value}{unit}{where}: {evidence.text}{limits}"


def _evidence(finding: Finding) -> rich.text.Text:
    if finding.status == "not applicable":
        return rich.text.Text(finding.reason, style="dim")
    worst = max(finding.evidence, key=lambda e: e.severity)
    shown = [e for e in finding.evidence if e is worst or (finding.at_work and e.severity >= 1)]
    lines = [line(e) for e in shown]
    if finding.follows_from:
        names = " and ".join(BY_NAME[name].title.lower() for name in finding.follows_from)
        lines.append(f"follows from {names}: {finding.reason}")
    return rich.text.Text("\n".join(lines))
