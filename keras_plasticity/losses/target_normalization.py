"""A loss on targets from which a constant is taken and that are divided by another."""

from __future__ import annotations

import typing

import keras
import numpy as np
from keras import ops

from keras_plasticity.losses.shapes import at_least_float32


@keras.saving.register_keras_serializable(package="keras_plasticity")
class TargetNormalization(keras.losses.Loss):
    """Computes another loss on `(y - mean) / deviation`.

    Use it where targets have a large offset or scale that is known or can be measured
    beforehand. With `deviation=1` only a constant is subtracted, the simplest treatment there
    is, and the control for every other. For statistics that follow the targets use
    `kp.layers.PopArt`, with `preserve_outputs=False` if outputs shall move with them.

    ```python
    value = loss((y - mean) / deviation, outputs)
    decode(outputs) = mean + deviation * outputs  # units of the targets
    ```

    Example:

    ```python
    loss = kp.losses.TargetNormalization.of(y_train)
    model.compile("adam", loss, metrics=[kp.losses.DecodedMeanSquaredError(loss)])
    values = loss.decode(model.predict(x))
    ```

    Args:
        mean: float, or a list with one per target dimension, in units of the targets. Default
            0.0.
        deviation: float above 0, or a list. Default 1.0.
        loss: the loss of normalised targets: an instance of a Keras loss, `TwoHot` and
            `HLGauss` included, or a name. Default `"mean_squared_error"`.
        reduction: as in Keras. Default `"sum_over_batch_size"`.
        name: str. Default `"target_normalization"`.
        dtype: as in Keras. Default None.

    Attributes:
        bins: int, outputs that the inner loss needs for a target, or None.

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762, on regression to targets with an offset.
    """

    def __init__(
        self,
        mean: float | typing.Sequence[float] = 0.0,
        deviation: float | typing.Sequence[float] = 1.0,
        loss: typing.Any = "mean_squared_error",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "target_normalization",
        dtype: typing.Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.mean, self.deviation = _numbers(mean), _numbers(deviation)
        if not np.all(np.isfinite(self.mean)):
            raise ValueError(f"`mean` must be finite. Received: mean={mean!r}")
        if not np.all(np.isfinite(self.deviation)) or not np.all(np.greater(self.deviation, 0)):
            raise ValueError(f"`deviation` must be positive. Received: deviation={deviation!r}")
        self.loss = keras.losses.get(loss)
        if self.loss is None:
            raise ValueError(f"`loss` must be a loss or the name of one. Received: loss={loss!r}")

    @classmethod
    def of(cls, y: typing.Any, **options: typing.Any) -> TargetNormalization:
        """Makes one with the mean and the deviation of an array.

        Args:
            y: targets, shape `(examples,)` or `(examples, dimensions)`.
            **options: further arguments of the constructor.

        Raises:
            ValueError: a dimension has but one value.
        """
        y = np.asarray(y, np.float64)
        return cls(y.mean(0).tolist(), y.std(0).tolist(), **options)

    @property
    def bins(self) -> int | None:
        """Outputs that the inner loss needs for a target, or None."""
        return getattr(self.loss, "bins", None)

    def call(self, y_true: typing.Any, y_pred: typing.Any) -> typing.Any:
        """Returns what the inner loss returns.

        Args:
            y_true: targets.
            y_pred: outputs of the network.
        """
        y = at_least_float32(y_true)
        y = (y - ops.cast(self.mean, y.dtype)) / ops.cast(self.deviation, y.dtype)
        values = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        return values(y, at_least_float32(y_pred))

    def decode(self, outputs: typing.Any) -> typing.Any:
        """Returns values in units of the targets, at least float32.

        Args:
            outputs: of the network.
        """
        inner = self.loss.decode(outputs) if hasattr(self.loss, "decode") else outputs
        values = at_least_float32(inner)
        return values * ops.cast(self.deviation, values.dtype) + ops.cast(self.mean, values.dtype)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "mean": self.mean,
            "deviation": self.deviation,
            "loss": keras.saving.serialize_keras_object(self.loss),
        }

    @classmethod
    def from_config(cls, config: dict) -> TargetNormalization:
        """Makes one from `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config))


def _numbers(values: typing.Any) -> float | list[float]:
    return np.asarray(values, np.float64).tolist()
