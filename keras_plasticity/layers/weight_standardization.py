"""A wrapper that standardises the kernel of a layer."""

from __future__ import annotations

import math
import typing

import keras

_KINDS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


@keras.saving.register_keras_serializable(package="keras_plasticity")
class WeightStandardization(keras.layers.Wrapper):
    """Uses a layer with its kernel standardised: mean 0, sum of squares 1 for each unit.

    ```python
    mean, var = moments(kernel, all axes but that of the units)
    used = gain * (kernel - mean) / sqrt(var * fan_in + epsilon)  # fan_in weights per unit
    ```

    It wraps a layer as `keras.layers.SpectralNormalization` does. The layer's own kernel is
    what is trained, decayed and saved; it is standardised at each call, in training and in
    inference alike, so its scale and its mean have no effect on the outputs. Give an
    activation that is to be normalised, probed or replaced a layer of its own.

    Example:
    >>> layer = WeightStandardization(keras.layers.Conv2D(8, 3, padding="same"))
    >>> layer(np.ones((1, 5, 5, 3), "float32")).shape
    TensorShape([1, 5, 5, 8])

    Args:
        layer: `Dense`, `Conv1D`, `Conv2D` or `Conv3D`.
        gain: bool, whether each unit learns a factor, from 1. Default True.
        epsilon: float, keeps the root from zero. Default 1e-4.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        ValueError: an argument is none of these.

    Reference:
        Qiao et al., "Micro-Batch Training with Batch-Channel Normalization and Weight
        Standardization", 2019, https://arxiv.org/abs/1903.10520; the scale and the gain: Brock
        et al., "Characterizing Signal Propagation to Close the Performance Gap in Unnormalized
        ResNets", 2021, https://arxiv.org/abs/2101.08692.

    Deviations:
        Qiao et al. scale to variance 1 (`fan_in` times ours) and learn no gain: a
        normalisation follows and takes the factor out. Brock et al. take `max(var * fan_in,
        epsilon)` for the sum and multiply by a constant of the nonlinearity that follows.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        gain: bool = True,
        epsilon: float = 1e-4,
        **kwargs: typing.Any,
    ) -> None:
        if not isinstance(layer, _KINDS):
            names = ", ".join(kind.__name__ for kind in _KINDS)
            raise ValueError(f"`layer` must be one of {names}. Received: layer={layer!r}")
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon!r}")
        super().__init__(layer, **kwargs)
        self.use_gain, self.epsilon = gain, epsilon
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        super().build(input_shape)
        kernel = self.layer.kernel
        if not isinstance(kernel, keras.Variable) or not keras.backend.is_float_dtype(kernel.dtype):
            raise ValueError(
                "`layer` must hold its kernel as one variable of floats, without LoRA and not "
                f"quantized. Received: layer={self.layer!r}"
            )
        self.gain = None
        if self.use_gain:
            self.gain = self.add_weight(
                name="gain", shape=kernel.shape[-1:], initializer="ones", autocast=False
            )
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        kernel = self.layer.kernel
        used = standardized(kernel, self.gain, self.epsilon)
        # The layer reads its kernel and finds this tensor; gradients go through it. The other
        # variables are named as well: a scope hides the one around it, as of `stateless_call`.
        values = [(v, v.value) for v in self.layer.variables if v is not kernel]
        values.append((kernel, keras.ops.cast(used, kernel.dtype)))
        with keras.StatelessScope(values, collect_losses=True) as scope:
            outputs = self.layer(inputs)
        for penalty in scope.losses:  # on activations; the layer itself could not keep them
            self.add_loss(penalty)
        return outputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "gain": self.use_gain, "epsilon": self.epsilon}


def standardized(kernel: typing.Any, gain: typing.Any, epsilon: float) -> typing.Any:
    """Returns `gain * (kernel - mean) / sqrt(var * fan_in + epsilon)` for each unit.

    Args:
        kernel: floating-point tensor, shape `(..., units)`.
        gain: floating-point tensor of shape `(units,)`, or None for 1.
        epsilon: float.

    Returns:
        A tensor of the kernel's shape, in float32 or better.
    """
    ops = keras.ops
    w = ops.cast(kernel, keras.backend.result_type(kernel.dtype, "float32"))
    axes = tuple(range(len(w.shape) - 1))
    mean, variance = ops.moments(w, axes=axes, keepdims=True)
    scale = ops.rsqrt(variance * math.prod(kernel.shape[:-1]) + epsilon)
    return (w - mean) * (scale if gain is None else scale * ops.cast(gain, w.dtype))
