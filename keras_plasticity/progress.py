"""Progress of tasks: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

import rich.console
import rich.progress


class Progress:
    """Shows tasks done, accuracy and time left, on standard error.

    Args:
        title: what is under way.
        total: int, number of tasks.
        done: number of tasks that were done before, fractions allowed.
        enabled: bool. Default True.
        seconds_between_lines: float, where there is no terminal. Default 5.
    """

    def __init__(
        self, title: str, total: int, done: float = 0.0, enabled=True, seconds_between_lines=5.0
    ):
        self.title, self.total, self.first, self.enabled = title, total, done, enabled
        self.seconds_between_lines = seconds_between_lines
        self._started = self._last = time.monotonic()
        console = rich.console.Console(stderr=True)
        self._bar, self._ended = None, False
        if enabled and console.is_terminal:
            self._bar = rich.progress.Progress(
                "{task.description}",
                rich.progress.BarColumn(),
                "{task.fields[count]}/{task.total} tasks",
                "{task.fields[note]}",
                rich.progress.TimeRemainingColumn(),
                console=console,
            )
            self._id = self._bar.add_task(
                title, total=total, completed=int(done), count=int(done), note=""
            )

    def __enter__(self):
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_):
        if self._bar:
            self._bar.stop()

    def update(self, done: float, note: str = "") -> None:
        """Shows that `done` of the tasks are done."""
        if self._bar:
            self._bar.update(self._id, completed=done, count=int(done), note=note)
            return
        now = time.monotonic()
        finished = done >= self.total
        early = now - self._last < self.seconds_between_lines and not finished
        if not self.enabled or early or self._ended:
            return
        self._last, self._ended = now, finished
        self.line(f"{int(done)}/{self.total} tasks  {note}  {self._left(done, now)}".rstrip())

    def resize(self, total: int) -> None:
        """Sets the number of tasks, where it becomes known on the way."""
        self.total = total
        if self._bar:
            self._bar.update(self._id, total=total)

    def line(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, highlight=False)
        elif self.enabled:
            rich.console.Console(stderr=True, width=120).print(
                f"{self.title}: {text}", highlight=False, markup=False
            )

    def _left(self, done: float, now: float) -> str:
        if done <= self.first or done >= self.total:
            return f"{now - self._started:.0f} s"
        rate = (now - self._started) / (done - self.first)
        return f"{rate * (self.total - done):.0f} s left"
