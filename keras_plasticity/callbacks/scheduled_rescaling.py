"""Kernels are scaled toward the norm they began with, and biases with them."""

from __future__ import annotations

import typing

import keras
import tensorflow as tf

from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.hooks import StepOutputs
from keras_plasticity.layers import (
    CenterScale,
    NormalizedConv2D,
    NormalizedDense,
    NormalizedLogits,
    WeightStandardization,
)
from keras_plasticity.surgery import weights

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
    NormalizedLogits,
)
# Layers that divide their kernel by its norm or deviation.
_SCALE_FREE = (NormalizedConv2D, NormalizedDense, WeightStandardization)


class ScheduledRescaling(Intervention):
    """Scales kernels toward the norm they began with, and biases so that ReLU nets only scale.

    Use it in networks without normalisation, where kernels grow and outputs are to stay what
    they are but for their size:

    ```python
    c_l = (rate * norm(W_l at the start) + (1 - rate) * norm(W_l)) / norm(W_l)
    W_l = c_l * W_l
    b_l = c_1 * ... * c_l * b_l  # all layers up to this one
    ```

    With homogeneous activations (ReLU, leaky ReLU, linear) in a chain of layers the outputs are
    those of before times the product of all `c_l`, so no decision changes. With branches, other
    activations and attention they are so nearly; the product is then over all layers before in
    the order of the model. Behind a normalisation the product begins anew: what comes out of it
    does not feel the scales before it. Kernels whose own norm is divided out
    (`kp.layers.NormalizedDense`, `NormalizedConv2D`, `NormalizedLogits`,
    `WeightStandardization`) are left alone and count as not scaled. What the optimizer keeps is
    unchanged.

    Example:

    ```python
    kp.callbacks.ScheduledRescaling(1e-3)  # at every step
    kp.callbacks.ScheduledRescaling(0.5, period=1, unit="task")
    ```

    Args:
        rate: float in [0, 1], how far the norm goes back at once; with 0 the run is the plain
            one. Default 1e-3.
        period: int, `unit`s from one act to the next; None for never. Default 1.
        unit: `"step"`, `"epoch"` or `"task"`. Default `"step"`.
        layers: names of layers, others are left alone and count as not scaled. Default: all
            with weights.

    Raises:
        ValueError: an argument is out of its range, or no layer has weights.

    Reference:
        Oh et al., "Recovering Plasticity of Neural Networks via Soft Weight Rescaling", 2025,
        https://arxiv.org/abs/2507.04683.

    Deviations:
        The default rate is ours. Scales and offsets of normalisations are left alone, and the
        product begins anew behind them. A kernel of zeros, now or at the start, is left alone.
    """

    def __init__(
        self,
        rate: float = 1e-3,
        period: int | None = 1,
        unit: str = "step",
        layers: typing.Sequence[str] | None = None,
    ):
        super().__init__(period, unit)
        if not 0 <= rate <= 1:
            raise ValueError(f"`rate` must lie in [0, 1]. Received: rate={rate!r}")
        self.rate, self.layers = rate, layers

    def build(self, model):
        super().build(model)
        chosen = weights.select_layers(model, self.layers)
        self._plan = weights.Borrowed()  # of ("kernel" | "bias" | "norm", weight)
        for layer in weights._layers(model, set()).values():
            if _is_norm(layer):
                self._plan.append(("norm", None))
            elif any(layer is one for one in chosen.values()):
                own = weights.float_variables(layer, trainable=True)
                self._plan += [("kernel", v) for v in own if _is_scaled(layer, v)]
                self._plan += [("bias", v) for v in own if v.name == "bias"]
        kernels = [v for kind, v in self._plan if kind == "kernel"]
        norms = [float(tf.norm(tf.cast(v.value, tf.float32))) for v in kernels]
        self._norms = keras.Variable(norms, dtype="float32", trainable=False, name="norms")
        self.count(list(chosen))
        self._sizes = [
            weights.entries(v for v in layer.trainable_variables if _is_scaled(layer, v))
            for layer in chosen.values()
        ]

    @property
    def acts(self) -> bool:
        return super().acts and self.rate > 0

    def act(self, outputs: StepOutputs | None):
        if not self.rate:
            return
        norms = iter(tf.unstack(self._norms.value))
        product = tf.constant(1.0)
        for kind, variable in self._plan:
            if kind == "norm":
                product = tf.constant(1.0)
                continue
            if kind == "kernel":
                factor = rescaling(variable.value, next(norms), self.rate)
                product *= factor
            else:
                factor = product
            variable.assign(variable.value * tf.cast(factor, variable.dtype))
        self.counts.assign_add(self._sizes)

    def get_config(self) -> dict:
        return {
            "rate": self.rate,
            "period": self.period,
            "unit": self.unit,
            "layers": self.layers,
        }


def _is_norm(layer: typing.Any) -> bool:
    """Whether what comes out of a layer does not feel the scale of what enters."""
    if isinstance(layer, CenterScale):
        return layer.scale_axis is not None
    return isinstance(layer, _NORMS)


def _is_scaled(layer: typing.Any, variable: keras.Variable) -> bool:
    """Whether a weight is a kernel whose scale has an effect on the outputs."""
    free = isinstance(layer, _SCALE_FREE) or _is_norm(layer)
    return weights.is_kernel(variable) and not free


def rescaling(kernel: tf.Tensor, norm: tf.Tensor, rate: float) -> tf.Tensor:
    """Returns `(rate * norm + (1 - rate) * norm(kernel)) / norm(kernel)`; 1 where one is 0."""
    size = tf.norm(tf.cast(kernel, tf.float32))
    known = (size > 0) & (norm > 0)
    factor = (rate * norm + (1 - rate) * size) / tf.where(known, size, 1.0)
    return tf.where(known, factor, 1.0)
