"""How much time probing may take, and what is left out for it."""

from __future__ import annotations

import collections
import collections.abc
import time


class Budget:
    """Share of the time since it was made that probing may take.

    Args:
        share: float, or None for no limit.

    Attributes:
        spent: float, seconds spent on probing so far.
        skipped: Counter, how often each measurement was left out.
    """

    def __init__(self, share: float | None) -> None:
        self.share, self.spent = share, 0.0
        self.skipped: collections.Counter[str] = collections.Counter()
        self._begun = time.perf_counter()
        self._last: dict[str, float] = {}

    @property
    def spent_share(self) -> float:
        """Share of the time so far that was spent on probing."""
        return self.spent / max(time.perf_counter() - self._begun, 1e-9)

    def choose(
        self, names: collections.abc.Iterable[str], prices: collections.abc.Mapping[str, float]
    ) -> list[str]:
        """Returns what fits into the budget now, the longest unmeasured first.

        Of what has no price yet one at a time is chosen, when nothing is owed.

        Args:
            names: what is due.
            prices: seconds that it took when it was measured last.
        """
        names = list(names)
        if self.share is None:
            return names
        now = time.perf_counter()
        left = self.share * (now - self._begun) - self.spent
        chosen = []
        for name in sorted(names, key=lambda name: self._last.get(name, -1.0)):
            price = prices.get(name, left)
            if left > 0 and price <= left:
                chosen.append(name)
                self._last[name] = now
                left -= price
        return chosen

    def summary(self) -> str:
        """Returns what was left out, in words."""
        most = ", ".join(f"{name} {count} times" for name, count in self.skipped.most_common(5))
        more = f" and {len(self.skipped) - 5} more" if len(self.skipped) > 5 else ""
        return (
            f"left out to stay within budget={self.share:g}: {most}{more}; "
            f"{100 * self.spent_share:.1f} % of the time was spent on probing"
        )
