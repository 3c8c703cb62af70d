"""What a diagnosis says."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import typing

from keras_plasticity.diagnosis.mechanism import Mechanism
from keras_plasticity.diagnosis.mechanisms import BY_NAME, INDICATORS

STATUS = ("healthy", "warning", "failing", "not applicable")
FORMAT = 1  # of the JSON


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A number and the thresholds it is held against.

    Attributes:
        indicator: str, name in the table of mechanisms, or of a mere remark.
        value: float, what was measured.
        layer: str, the layer it is of; "" where it is of the whole model.
        warning: float or None; None where the number is a remark and does not judge.
        failing: float or None.
        text: str, what is measured, in words.
        unit: str.
        layers: dict from layers to their values, for figures.
    """

    indicator: str
    value: float
    layer: str = ""
    warning: float | None = None
    failing: float | None = None
    text: str = ""
    unit: str = ""
    layers: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def severity(self) -> float:
        """1 at the warning threshold, 2 at the failing one; 0 of a remark."""
        known = INDICATORS.get(self.indicator)
        return known.severity(self.value) if known and self.warning is not None else 0.0


def judged(indicator: str, value: float, layer: str = "", layers: dict | None = None) -> Evidence:
    """Returns the evidence of an indicator of the table."""
    row = INDICATORS[indicator]
    return Evidence(
        indicator, value, layer, row.warning, row.failing, row.meaning, row.unit, layers or {}
    )


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is known of one mechanism.

    Attributes:
        mechanism: str, name in the table.
        status: `"healthy"`, `"warning"`, `"failing"` or `"not applicable"`.
        severity: float, of the worst indicator: 1 at its warning threshold, 2 at failing.
        evidence: tuple of `Evidence`.
        certainty: `"high"`, `"medium"`, `"low"`, or "" where it does not apply.
        follows_from: tuple of names of mechanisms that explain this one; empty for causes.
        reason: str, why it does not apply, or how it follows.
    """

    mechanism: str
    status: str
    severity: float = 0.0
    evidence: tuple[Evidence, ...] = ()
    certainty: str = ""
    follows_from: tuple[str, ...] = ()
    reason: str = ""

    @property
    def row(self) -> Mechanism:
        """The mechanism's row in the table: title, remedies."""
        return BY_NAME[self.mechanism]

    @property
    def at_work(self) -> bool:
        """Whether it is failing or at the warning."""
        return self.status in ("warning", "failing")

    @property
    def is_cause(self) -> bool:
        """Whether it is at work and nothing else that is explains it."""
        return self.at_work and not self.follows_from


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The findings on a network, the likely cause first.

    Prints as a table.

    Attributes:
        model: str, name of the model, or of the run directory.
        findings: tuple of `Finding`, one for each mechanism: causes, the worst first; then what
            follows from them; then what is healthy; then what does not apply.
        examples: int, how many were looked at.
        notes: tuple of str, what a reader should know.
        story: dict, see `story.tell`, where a run directory was given; else empty.
    """

    model: str
    findings: tuple[Finding, ...]
    examples: int = 0
    notes: tuple[str, ...] = ()
    story: dict[str, typing.Any] = dataclasses.field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether no mechanism is failing or at the warning."""
        return not any(finding.at_work for finding in self.findings)

    @property
    def causes(self) -> tuple[Finding, ...]:
        """Findings at work that nothing else explains, the worst first."""
        return tuple(finding for finding in self.findings if finding.is_cause)

    def __getitem__(self, mechanism: str) -> Finding:
        for finding in self.findings:
            if finding.mechanism == mechanism:
                return finding
        raise KeyError(
            f"There is no mechanism of this name. Received: {mechanism!r}, not one of "
            f"{[finding.mechanism for finding in self.findings]}"
        )

    def to_json(self) -> str:
        """Returns everything as JSON; `from_json` reads it. What is not finite becomes null."""
        return json.dumps({"format": FORMAT, **_plain(dataclasses.asdict(self))}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Diagnosis:
        """Returns the diagnosis that `to_json` wrote.

        Raises:
            ValueError: the text is no such JSON.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            findings = []
            for finding in values.pop("findings"):
                evidence = [
                    Evidence(**{**item, "value": _number(item["value"])})
                    for item in finding.pop("evidence")
                ]
                follows = tuple(finding.pop("follows_from"))
                findings.append(Finding(**finding, evidence=tuple(evidence), follows_from=follows))
            notes = tuple(values.pop("notes"))
            return cls(findings=tuple(findings), notes=notes, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"`text` must be what `Diagnosis.to_json` returned. Received: {text[:60]!r} "
                f"({type(error).__name__}: {error})"
            ) from error

    def to_html(self, path: str | os.PathLike) -> pathlib.Path:
        """Writes one HTML page with figures, without links to anything else.

        Args:
            path: file to write; folders above it are made.
        """
        from keras_plasticity.checkpoint import write_whole
        from keras_plasticity.diagnosis.page import page

        file = pathlib.Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, page(self).encode())
        return file

    def __str__(self) -> str:
        from keras_plasticity.diagnosis.terminal import text

        return text(self)

    def __rich__(self) -> typing.Any:
        from keras_plasticity.diagnosis.terminal import renderable

        return renderable(self)


def _plain(value: typing.Any) -> typing.Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
