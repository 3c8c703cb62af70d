"""What a mechanism of plasticity loss is described by."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Indicator:
    """A number that shows a mechanism.

    Attributes:
        name: str, unique in the table.
        meaning: str, what is measured, in words.
        formula: str, in code.
        unit: str, such as "share of units".
        warning: float, from here on (or down, where `failing` is smaller) it is a warning.
        failing: float, from here on it fails.
        source: str, where definition and thresholds come from.
        probe: str, name of the probe in the rows of a run that measures it, or "".
        logarithmic: bool, whether between the thresholds the logarithm counts.
    """

    name: str
    meaning: str
    formula: str
    unit: str
    warning: float
    failing: float
    source: str
    probe: str = ""
    logarithmic: bool = False

    def severity(self, value: float) -> float:
        """Returns how bad a value is: 1 at the warning threshold, 2 at the failing one.

        0 of NaN. Linear in the value, or in its logarithm; clipped to [0, 10].
        """
        if math.isnan(value):
            return 0.0
        v, w, f = value, self.warning, self.failing
        if self.logarithmic:
            v, w, f = (math.log(max(t, 1e-30)) for t in (v, w, f))
        return min(max(1 + (v - w) / (f - w), 0.0), 10.0)


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Something that acts on a mechanism.

    Attributes:
        what: str, in words.
        code: str, the line to add.
    """

    what: str
    code: str


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """One way in which a network stops learning.

    Attributes:
        name: str, unique; keys of reports.
        title: str, for people.
        what: str, one sentence.
        indicators: tuple of `Indicator`; the worst one decides.
        leads_to: tuple of names of mechanisms that it can bring about.
        remedies: tuple of `Remedy`.
    """

    name: str
    title: str
    what: str
    indicators: tuple[Indicator, ...]
    leads_to: tuple[str, ...] = ()
    remedies: tuple[Remedy, ...] = ()
