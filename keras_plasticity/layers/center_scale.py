"""Normalisation whose mean and whose deviation may be taken along different axes."""

from __future__ import annotations

import typing

import keras

AXES = ("batch", "feature", "group")


@keras.saving.register_keras_serializable(package="keras_plasticity")
class CenterScale(keras.layers.Layer):
    """Subtracts a mean along one axis and divides by a deviation along the same or another.

    ```python
    outputs = (x - mean(x, center_axis)) / sqrt(variance(x, scale_axis) + epsilon)
    outputs = gamma * outputs + beta  # with affine=True, one of each per channel
    ```

    `variance` is that of the inputs `x` about their own mean along `scale_axis`, also where
    another mean is subtracted: "the mean over the batch, the deviation over the features".
    With `center_axis=None` no mean is taken anywhere, and it is `mean(square(x), scale_axis)`.

    | `center_axis` | `scale_axis` | is |
    | --- | --- | --- |
    | `"feature"` | `"feature"` | layer normalisation |
    | `"batch"` | `"batch"` | batch normalisation |
    | None | `"feature"` | RMS normalisation |
    | `"group"` | `"group"` | group normalisation |
    | `"batch"` | `"feature"` | the hybrid of Lyle et al. |
    | None | None | the inputs |

    - `"batch"`: one statistic per channel, over the batch and all positions.
    - `"feature"`: one per example, over (height, width, channels) of an image or a volume;
      of vectors and tokens over the channels, at each position apart.
    - `"group"`: one per example and group of neighbouring channels, over all positions.

    In inference, and when the layer is frozen, statistics over the batch are running ones,
    `moving = momentum * moving + (1 - momentum) * batch`, as in `BatchNormalization`. They
    are carried over from one task to the next; `kp.callbacks.StatisticsReset` says otherwise.

    Example:
    >>> layer = CenterScale("batch", "feature")
    >>> outputs = layer(np.random.normal(size=(8, 16)).astype("float32"), training=True)

    Args:
        center_axis: `"batch"`, `"feature"`, `"group"` or None, along what the mean is taken
            that is subtracted.
        scale_axis: likewise, for the deviation.
        affine: bool, whether to learn a scale and an offset per channel. Default False.
        groups: int, how many groups of channels, for `"group"` and only for it.
        momentum: float in [0, 1], weight of the running statistics. Default 0.99.
        epsilon: float, keeps the root from zero. Default 1e-3.
        axis: int, of the channels. Default -1.
        **kwargs: further arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: floating-point tensor of shape (batch, ..., channels).
        training: bool, whether statistics over the batch are those of this batch, and the
            running ones move. Default False.

    Raises:
        ValueError: an argument is out of its range, or the groups do not divide the channels.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762, the comparison of axes in the appendix.

    Deviations:
        The paper prints no formula for its hybrid; that the deviation is taken about the mean
        along its own axis is our reading. From `BatchNormalization`: masks pass through and no
        position is left out; there is neither renormalisation nor synchronisation of devices.
        From `LayerNormalization`: images are normalised as a whole, as by
        `kp.models.normalization`. All is computed in float32 or better.
    """

    def __init__(
        self,
        center_axis: str | None = "feature",
        scale_axis: str | None = "feature",
        affine: bool = False,
        groups: int | None = None,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        axis: int = -1,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("center_axis", center_axis), ("scale_axis", scale_axis)):
            if value is not None and value not in AXES:
                raise ValueError(f"`{name}` must be one of {(*AXES, None)}. Received: {value!r}")
        if ("group" in (center_axis, scale_axis)) != (groups is not None):
            raise ValueError(
                '`groups` must be given where an axis is "group", and only there. Received: '
                f"groups={groups!r}, center_axis={center_axis!r}, scale_axis={scale_axis!r}"
            )
        if groups is not None and (not isinstance(groups, int) or groups < 1):
            raise ValueError(f"`groups` must be a positive integer. Received: groups={groups!r}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must be in [0, 1]. Received: momentum={momentum!r}")
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon!r}")
        self.center_axis, self.scale_axis = center_axis, scale_axis
        self.affine, self.groups = affine, groups
        self.momentum, self.epsilon, self.axis = float(momentum), float(epsilon), axis
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        rank = len(input_shape)
        if rank < 2 or not -rank <= self.axis < rank or self.axis % rank == 0:
            raise ValueError(
                "`axis` must be one of the inputs' axes behind the first, which is the batch. "
                f"Received: axis={self.axis}, input_shape={input_shape}"
            )
        channels = input_shape[self.axis]
        if self.groups is not None and (channels is None or channels % self.groups):
            raise ValueError(
                "`groups` must divide the channels. "
                f"Received: groups={self.groups}, channels={channels}"
            )
        self.gamma = self.beta = self.moving_mean = self.moving_variance = None
        if self.affine:
            self.gamma = self._per_channel("gamma", "ones", channels)
            self.beta = self._per_channel("beta", "zeros", channels)
        if self.center_axis == "batch":
            self.moving_mean = self._per_channel("moving_mean", "zeros", channels, False)
        if self.scale_axis == "batch":
            self.moving_variance = self._per_channel("moving_variance", "ones", channels, False)
        self.built = True

    def _per_channel(
        self, name: str, initializer: str, channels: int, trainable: bool = True
    ) -> keras.Variable:
        options: dict = {"name": name, "initializer": initializer, "trainable": trainable}
        return self.add_weight(shape=(channels,), autocast=False, **options)

    def call(self, inputs: typing.Any, training: bool = False) -> typing.Any:
        """Computes the outputs."""
        ops = keras.ops
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        live = bool(training) and self.trainable
        kinds = [kind for kind in (self.center_axis, self.scale_axis) if kind is not None]
        found = {kind: self._statistics(x, kind, live) for kind in dict.fromkeys(kinds)}
        outputs = x
        if self.center_axis is not None:
            outputs = outputs - found[self.center_axis][0]
        if self.scale_axis is not None:
            outputs = outputs * ops.rsqrt(found[self.scale_axis][1] + self.epsilon)
        if self.affine:
            outputs = outputs * self._along_channels(self.gamma, x)
            outputs = outputs + self._along_channels(self.beta, x)
        return ops.cast(outputs, self.compute_dtype)

    def _statistics(self, x: typing.Any, kind: str, live: bool) -> tuple:
        """Mean and variance along one kind of axis, as they are broadcast over `x`."""
        about_mean = self.center_axis is not None
        if kind != "batch":
            groups = self.groups if kind == "group" else None
            return moments(x, reduced(kind, len(x.shape), self.axis), about_mean, self.axis, groups)
        kept = self.moving_mean, self.moving_variance
        if not live:
            return tuple(None if v is None else self._along_channels(v, x) for v in kept)
        now = moments(x, reduced(kind, len(x.shape), self.axis), about_mean)
        for variable, value in zip(kept, now, strict=True):
            if variable is not None:
                value = keras.ops.cast(keras.ops.reshape(value, variable.shape), variable.dtype)
                variable.assign(variable * self.momentum + value * (1 - self.momentum))
        return now

    def _along_channels(self, variable: typing.Any, x: typing.Any) -> typing.Any:
        shape = [1] * len(x.shape)
        shape[self.axis] = -1
        return keras.ops.reshape(keras.ops.cast(variable, x.dtype), shape)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return input_shape

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        names = ("center_axis", "scale_axis", "affine", "groups", "momentum", "epsilon", "axis")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def reduced(kind: str, rank: int, axis: int) -> tuple[int, ...]:
    """Returns the axes that a statistic is taken over, those of positions within groups."""
    axis %= rank
    if kind == "feature":
        return tuple(range(1, rank)) if rank > 3 else (axis,)
    others = range(rank) if kind == "batch" else range(1, rank)
    return tuple(a for a in others if a != axis)


def moments(
    x: typing.Any,
    axes: tuple[int, ...],
    about_mean: bool = True,
    axis: int = -1,
    groups: int | None = None,
) -> tuple[typing.Any, typing.Any]:
    """Returns mean and variance over some axes, in shapes that are broadcast over `x`.

    Args:
        x: floating-point tensor.
        axes: tuple of int, the axes.
        about_mean: bool, else the mean is None and the variance is about zero. Default True.
        axis: int, of the channels.
        groups: int, the statistics are taken over each group of channels as well.
            Default None: channels as in `axes`.
    """
    ops, rank = keras.ops, len(x.shape)
    if groups is None:
        if about_mean:
            return ops.moments(x, axes=axes, keepdims=True)
        return None, ops.mean(ops.square(x), axis=axes, keepdims=True)
    axis %= rank
    size = x.shape[axis] // groups
    shape = [ops.shape(x)[a] if n is None else n for a, n in enumerate(x.shape)]
    split = ops.reshape(x, (-1, *shape[1:axis], groups, size, *shape[axis + 1 :]))
    inner = tuple(a if a < axis else a + 1 for a in axes)
    found = moments(split, tuple(sorted((*inner, axis + 1))), about_mean)
    mean, variance = (
        None if v is None else ops.repeat(ops.squeeze(v, axis + 1), size, axis) for v in found
    )
    return mean, variance
