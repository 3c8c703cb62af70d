"""Regression as a classification of bins: a target between two bins is shared by them."""

from __future__ import annotations

import typing

import keras
from keras import ops

from keras_plasticity.losses.binned import Binned


@keras.saving.register_keras_serializable(package="keras_plasticity")
class TwoHot(Binned):
    """Cross-entropy of bins, each target on the two bins it lies between.

    Use it in place of the squared error where targets are large or move: neither the loss
    nor its gradient grows with the targets, and a common offset needs no large feature.
    The network has `bins` outputs without an activation, its logits: with a builder of
    `kp.models` that is `num_outputs=bins`, and `kp.experiment.run` asks for them by itself.
    Where all targets are close to zero the squared error is more exact.

    ```python
    h = {None: y, "symlog": sign(y) * log(1 + |y|),
         "sqrt": sign(y) * (sqrt(|y| + 1) - 1) + 0.001 * y}
    z = linspace(h(low), h(high), bins)
    p[k] = (z[k + 1] - h(y)) / (z[k + 1] - z[k]),  p[k + 1] = 1 - p[k]  # z[k] <= h(y) <= z[k + 1]
    loss = -sum(p * log_softmax(logits))
    value = h_inverse(sum(softmax(logits) * z))  # decode: y again, inside the range
    ```

    Example:

    ```python
    loss = kp.losses.TwoHot(-10.0, 10.0, 51)
    model = kp.models.mlp((8,), num_outputs=loss.bins)
    model.compile("adam", loss, metrics=[kp.losses.DecodedMeanSquaredError(loss)])
    values = loss.decode(model.predict(x))
    ```

    Args:
        low: float, the lowest target, in units of the targets; below it they are clipped.
        high: float, the highest target; above it they are clipped.
        bins: int, at least 2.
        transform: None, `"symlog"` or `"sqrt"`: bins of equal width in `h(y)`, which are wide
            where targets are large. Default None: of equal width in the targets.
        reduction: as in Keras. Default `"sum_over_batch_size"`.
        name: str. Default `"two_hot"`.
        dtype: as in Keras. Default None. Computed in float32 at least.

    Raises:
        ValueError: an argument is out of its range; later, logits and targets do not fit.

    References:
        Two-hot targets and the transform `"sqrt"`: Schrittwieser et al., "Mastering Atari, Go,
        Chess and Shogi by Planning with a Learned Model", 2020,
        https://arxiv.org/abs/1911.08265, appendix F. `"symlog"`: Hafner et al., "Mastering
        Diverse Domains through World Models", 2023, https://arxiv.org/abs/2301.04104. Against
        loss of plasticity: Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural
        Networks", 2024, https://arxiv.org/abs/2402.18762.

    Deviations:
        Hafner et al. share targets between bins of unequal width and take the mean in units of
        the targets; here both happen in `h(y)`, as Schrittwieser et al. do. With noisy targets
        and a transform the value is therefore nearer to their median than to their mean.
    """

    def __init__(
        self,
        low: float,
        high: float,
        bins: int,
        transform: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "two_hot",
        dtype: typing.Any = None,
    ) -> None:
        super().__init__(low, high, bins, transform, reduction, name, dtype)

    def _grid(self, low: float, high: float) -> tuple[float, float]:
        return low, (high - low) / (self.bins - 1)

    def _spread(self, position: typing.Any) -> typing.Any:
        places = ops.arange(self.bins, dtype=position.dtype)
        return ops.relu(1 - ops.abs(position - places))
