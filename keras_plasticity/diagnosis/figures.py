"""Figures of a diagnosis as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import io
import re
import typing

from keras_plasticity.diagnosis.findings import Diagnosis, Evidence
from keras_plasticity.diagnosis.mechanisms import BY_NAME, INDICATORS

if typing.TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Drawn in these, and replaced by the page's variables so that dark pages are readable.
INK, WARNING, FAILING, WELL, LINE = "#010203", "#010204", "#010205", "#010206", "#010207"
VARIABLES = {
    INK: "--ink",
    WARNING: "--warning",
    FAILING: "--failing",
    WELL: "--healthy",
    LINE: "--line",
}
_LONGEST = 24  # layers in a figure: the worst ones
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")


def severities(diagnosis: Diagnosis) -> matplotlib.figure.Figure:
    """How far each mechanism is from its thresholds: 1 is the warning, 2 failing."""
    shown = [f for f in diagnosis.findings if f.status != "not applicable"]
    figure, axes = _figure(7.2, 0.9 + 0.34 * max(len(shown), 1))
    for place, finding in enumerate(shown):
        colour = {"failing": FAILING, "warning": WARNING, "healthy": WELL}[finding.status]
        value = min(finding.severity, 4.0)
        axes.barh(
            place,
            value,
            height=0.62,
            color=colour if not finding.follows_from else "none",
            edgecolor=colour,
            linewidth=1.4,
            hatch=None if not finding.follows_from else "////",
        )
        if finding.severity > 4:
            axes.text(4.03, place, f"{finding.severity:.0f}", va="center", color=INK, fontsize=9)
    axes.set_yticks(range(len(shown)), [f.row.title for f in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 4.35)
    axes.set_xticks([0, 1, 2, 3, 4], ["0", "warning", "failing", "", "4 and more"])
    for at in (1, 2):
        axes.axvline(at, color=INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlabel("severity (hatched: follows from another)")
    return figure


def layers(evidence: Evidence) -> matplotlib.figure.Figure:
    """The values of an indicator by layer, with its thresholds."""
    import matplotlib.ticker

    row = INDICATORS[evidence.indicator]
    values = evidence.layers
    if len(values) > _LONGEST:
        worst = sorted(values, key=lambda n: -row.severity(values[n]))[:_LONGEST]
        values = {name: value for name, value in values.items() if name in worst}
    figure, axes = _figure(7.2, 1.1 + 0.27 * len(values))
    colours = [
        FAILING if row.severity(v) >= 2 else WARNING if row.severity(v) >= 1 else WELL
        for v in values.values()
    ]
    axes.barh(range(len(values)), list(values.values()), height=0.62, color=colours)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.invert_yaxis()
    largest = max([*values.values(), 1e-12])
    if row.logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min([0.5, *values.values()]) * 0.9, max(largest, row.failing) * 1.3)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    else:
        axes.set_xlim(0, max(largest, row.warning, row.failing) * 1.1)
    for at, text in ((row.warning, "warning"), (row.failing, "failing")):
        axes.axvline(at, color=INK, linewidth=1.1, linestyle=(0, (3, 2)))
        axes.text(at, -0.7, text, color=INK, fontsize=7.5, ha="center")
    axes.set_xlabel(f"{row.name}, {row.unit}: {row.formula}", fontsize=8)
    return figure


def over_time(story: dict[str, typing.Any]) -> matplotlib.figure.Figure:
    """Online accuracy, and below it the severities of the indicators, over the steps."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(7.2, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.7))
    for axes in (top, bottom):
        _style(axes)
    if story["accuracy"]:
        top.plot(*zip(*story["accuracy"], strict=True), color=INK, linewidth=1.3)
    top.set_ylabel("online accuracy")
    worst: dict[str, list] = {}
    for indicator, points in story["series"].items():
        row = INDICATORS[indicator]
        owner = next(
            (c["mechanism"] for c in story["crossings"] if c["indicator"] == indicator), ""
        )
        if not owner:
            continue
        scored = [(step, min(row.severity(value), 4.0)) for step, value in points]
        if owner not in worst or max(s for _, s in scored) > max(s for _, s in worst[owner]):
            worst[owner] = scored
    for (name, points), mark in zip(worst.items(), _MARKS, strict=False):
        steps, values = zip(*points, strict=True)
        bottom.plot(
            steps,
            values,
            color=INK,
            linewidth=1.1,
            marker=mark,
            markersize=4,
            markevery=max(1, len(steps) // 12),
            markerfacecolor="none",
            label=BY_NAME[name].title,
        )
    for at, colour in ((1, WARNING), (2, FAILING)):
        bottom.axhline(at, color=colour, linewidth=1, linestyle=(0, (3, 2)))
    if story["fall"]:
        for axes in (top, bottom):
            axes.axvline(story["fall"]["step"], color=FAILING, linewidth=1)
        top.set_title("line: accuracy had fallen", fontsize=8, loc="right", color=INK)
    bottom.set_yticks([0, 1, 2, 3, 4], ["0", "warning", "failing", "", "4"])
    bottom.set_xlabel("step (updates)")
    if worst:
        legend = figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=3)
        for label in legend.get_texts():
            label.set_color(INK)
    return figure


def svg(figure: matplotlib.figure.Figure, label: str) -> str:
    """Returns a figure as an `<svg>` element in the page's colours.

    Args:
        figure: figure drawn in `VARIABLES`.
        label: str, what a screen reader says; must need no escaping.
    """
    import matplotlib

    salt = "".join(character for character in label if character.isalnum())
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    # names are unique in the page, not in the figure alone
    text = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', text)
    text = re.sub(r'"#([\w.-]+)"', rf'"#{salt}-\1"', text)
    text = re.sub(r"url\(#([\w.-]+)\)", rf"url(#{salt}-\1)", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _figure(width: float, height: float) -> tuple:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _style(axes)
    return figure, axes


def _style(axes: matplotlib.axes.Axes) -> None:
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LINE)
