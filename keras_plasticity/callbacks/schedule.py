"""When something is due: every so many updates, after some, at epochs or tasks."""

from __future__ import annotations

import bisect
import dataclasses
import numbers
import typing


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When something is due besides the begin and the end of tasks.

    Args:
        every: int, every so many optimizer updates; a sequence of int, after these updates;
            `"epoch"`; `"task"`, never in between; `"run"`, not at tasks either; or None, not
            decided.

    Raises:
        ValueError: it is none of these.
    """

    every: int | str | typing.Sequence[int] | None

    def __post_init__(self) -> None:
        every: typing.Any = self.every
        if every is None or (isinstance(every, str) and every in ("epoch", "task", "run")):
            return
        single = isinstance(every, numbers.Integral)
        try:
            steps = [every] if single else list(every)
            whole = all(isinstance(n, numbers.Integral) and int(n) >= 0 for n in steps)
        except TypeError:
            whole = False
        if not whole or isinstance(every, (str, bool)) or (single and every == 0):
            raise ValueError(
                "`every` must be a positive number of updates, a sequence of updates, 'epoch', "
                f"'task' or 'run'. Received: every={every!r}"
            )
        object.__setattr__(self, "every", int(every) if single else tuple(map(int, steps)))

    def or_else(self, every: str) -> Schedule:
        """Returns this schedule, or that of `every` if it is not decided."""
        return Schedule(every) if self.every is None else self

    def stops(self, steps: int, epoch_steps: int) -> typing.Sequence[int]:
        """Returns the updates of a task after which something is due, before its end.

        Args:
            steps: int, updates of the task.
            epoch_steps: int, updates of an epoch.
        """
        if self.every in ("task", "run", None):
            return ()
        if not isinstance(self.every, (int, str)):
            return sorted(step for step in self.every if 0 < step < steps)
        period = epoch_steps if self.every == "epoch" else self.every
        return range(int(period), steps, int(period))

    def passed(self, before: int, now: int) -> bool:
        """Returns whether something came due after update `before` and up to `now`.

        Epochs are not counted here.
        """
        if isinstance(self.every, int):
            return now // self.every > before // self.every
        if self.every is None or isinstance(self.every, str):
            return False
        return passed(sorted(self.every), before, now)


def passed(stops: typing.Sequence[int], before: int, now: int) -> bool:
    """Returns whether one of the sorted `stops` is later than `before` and at most `now`."""
    return bisect.bisect_right(stops, now) > bisect.bisect_right(stops, before)
