"""Transforms of the targets of a regression."""

# ruff: noqa: D102  (what a method of Transform does is said there)

from __future__ import annotations

import dataclasses
import math
import typing

import numpy as np

from keras_plasticity.streams.transforms import Data, Transform


@dataclasses.dataclass(frozen=True)
class RedrawTargets(Transform):
    """Gives each training row a random target, `offset + deviation * N(0, 1)`, at every task.

    Use it to see what large targets do: the noise has to be memorised, the offset is the same
    for all rows and all tasks. It makes a regression of any data set; test rows keep a target,
    the offset, and are reported as not meaningful.

    Args:
        offset: float, mean of the targets. Default 0.
        deviation: float, at least 0. Default 1.
        hold: int, tasks that the first targets last, so that they can be learned well before
            the first change. Default 1.

    Raises:
        ValueError: an argument is not finite or out of its range.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762: targets c + noise, c on a grid.
    """

    needs_inputs: typing.ClassVar[bool] = False
    selects_rows: typing.ClassVar[bool] = False

    offset: float = 0.0
    deviation: float = 1.0
    hold: int = 1

    def __post_init__(self) -> None:
        for name in ("offset", "deviation"):
            value = getattr(self, name)
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or (name == "deviation" and value < 0):
                kind = "a finite number" + (" of at least 0" if name == "deviation" else "")
                raise ValueError(f"`{name}` must be {kind}. Received: {name}={value!r}")

        if not isinstance(self.hold, int) or self.hold < 1:
            raise ValueError(f"`hold` must be at least 1. Received: hold={self.hold!r}")

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        drawn_at = task if task >= self.hold else 0
        noise = self.generator(seed, drawn_at).standard_normal(len(data.y_train))
        train = (self.offset + self.deviation * noise).astype(np.float32)
        test = None
        if data.y_test is not None:
            test = np.full(len(data.y_test), self.offset, np.float32)
        return dataclasses.replace(
            data, y_train=train, y_test=test, num_classes=None, test_labels_meaningful=False
        )
