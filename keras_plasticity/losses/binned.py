"""What losses have in common that turn a regression into a classification of bins."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops

from keras_plasticity.losses.shapes import aligned, at_least_float32
from keras_plasticity.losses.target_transforms import TRANSFORMS


class Binned(keras.losses.Loss):
    """Cross-entropy between a target spread over bins and the softmax of logits.

    Subclasses say where the bins are (`_grid`) and how a target is spread (`_spread`).

    Args:
        low: float, the lowest target that can be represented, in units of the targets.
        high: float, the highest.
        bins: int, at least 2: number of bins, and of outputs of the network.
        transform: None, `"symlog"` or `"sqrt"`.
        reduction: as in Keras.
        name: str.
        dtype: as in Keras.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        low: float,
        high: float,
        bins: int,
        transform: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: typing.Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not -math.inf < low < high < math.inf:
            raise ValueError(
                f"`low` must be less than `high`, both finite. Received: low={low!r}, high={high!r}"
            )
        if isinstance(bins, bool) or not isinstance(bins, int) or bins < 2:
            raise ValueError(f"`bins` must be an int of at least 2. Received: bins={bins!r}")
        if transform not in TRANSFORMS:
            raise ValueError(
                f"`transform` must be None, 'symlog' or 'sqrt'. Received: transform={transform!r}"
            )
        self.low, self.high, self.bins, self.transform = low, high, bins, transform
        self._forward, self._inverse = TRANSFORMS[transform]
        self._ends = [
            float(self._forward(ops.convert_to_tensor(x, "float32"))) for x in (low, high)
        ]
        self._first, self._width = self._grid(*self._ends)

    def _grid(self, low: float, high: float) -> tuple[float, float]:
        """Returns the centre of the first bin and the distance of bins, transformed."""
        raise NotImplementedError

    def _spread(self, position: typing.Any) -> typing.Any:
        """Returns probabilities of bins, shape `(..., bins)`.

        Args:
            position: shape `(..., 1)`, the target counted in bins: 0 is the first centre.
        """
        raise NotImplementedError

    @property
    def centres(self) -> typing.Any:
        """Centres of the bins in units of the targets, shape `(bins,)`."""
        return self._inverse(self._first + self._width * ops.arange(self.bins, dtype="float32"))

    def encode(self, y: typing.Any) -> typing.Any:
        """Returns probabilities of the bins, shape `(..., bins)`.

        Args:
            y: targets, shape `(...,)`, any dtype. Those outside of the range are clipped.
        """
        z = self._forward(at_least_float32(y))
        z = ops.clip(z, *self._ends)
        return self._spread(ops.expand_dims((z - self._first) / self._width, -1))

    def decode(self, logits: typing.Any) -> typing.Any:
        """Returns values in units of the targets, shape `(...,)`, at least float32.

        Args:
            logits: outputs of the network, shape `(..., bins)`.
        """
        probabilities = ops.softmax(at_least_float32(logits), axis=-1)
        places = ops.arange(self.bins, dtype=probabilities.dtype)
        mean = ops.sum(probabilities * places, axis=-1)
        return self._inverse(self._first + self._width * mean)

    def call(self, y_true: typing.Any, y_pred: typing.Any) -> typing.Any:
        """Returns the cross-entropy of each target, shape `(...,)`.

        Args:
            y_true: targets, shape `(...,)` or `(..., 1)`.
            y_pred: logits, shape `(..., bins)`.
        """
        logits = at_least_float32(y_pred)
        if logits.shape[-1] != self.bins:
            raise ValueError(
                f"{type(self).__name__} needs a network with {self.bins} outputs (`bins`). "
                f"Received: outputs of shape {tuple(logits.shape)}"
            )
        log_probabilities = ops.log_softmax(logits, axis=-1)
        y, _ = aligned(y_true, log_probabilities[..., 0])
        return -ops.sum(self.encode(y) * log_probabilities, axis=-1)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "bins": self.bins,
            "transform": self.transform,
        }
