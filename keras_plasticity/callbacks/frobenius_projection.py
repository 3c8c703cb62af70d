"""Normalise and project: hidden kernels keep the norm they began with."""

from __future__ import annotations

import logging
import typing

import keras
import tensorflow as tf

from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.hooks import StepOutputs
from keras_plasticity.surgery import weights

_LOG = logging.getLogger("keras_plasticity")


class FrobeniusProjection(Intervention):
    """Puts hidden kernels back to the norm they began with; the output layer is left alone.

    Use it in networks with a normalisation before every nonlinearity (`kp.fortify`), where the
    size of a kernel changes nothing but the effective learning rate, which falls as the kernel
    grows:

    ```python
    W = norm_0 * W / norm(W)  # Frobenius; norm_0: when training began
    ```

    **It needs a learning rate schedule.** Without it growing norms anneal the step by
    themselves; with it the effective learning rate is what the optimizer is told. Keras'
    `CosineDecay` with warm-up is the schedule of the paper's runs, and `OptimizerReset` begins
    it anew at every task:

    ```python
    rate = keras.optimizers.schedules.CosineDecay(
        1e-8, decay_steps=50_000, alpha=1.6e-3, warmup_target=6.25e-4, warmup_steps=1000)
    model.compile(keras.optimizers.Adam(rate), loss)
    callbacks = [kp.callbacks.FrobeniusProjection(), kp.callbacks.OptimizerReset()]
    ```

    Weight decay of the kernels is undone by it. Biases before a normalisation are redundant:
    leave them out. Scales and offsets of normalisations are not projected: leave them out
    (`affine=False`) or let them decay (`kp.optimizers.DecayPolicy("gamma|scale", "initial")`).
    Without normalisations it changes what the network computes and harms training.

    The norms are those when the callback first meets the network; they are saved with a run.
    A kernel of zeros has no norm to go back to and is left alone, with a line in the log.

    Args:
        period: int, `unit`s from one projection to the next; None for never. Default 1.
        unit: `"step"`, `"epoch"` or `"task"`. Default `"step"`.
        layers: names of layers, others are left alone. Default: all with kernels but those that
            compute the model's outputs.

    Raises:
        ValueError: an argument is out of its range, or no kernel is left.

    Reference:
        Lyle et al., "Normalization and effective learning rates in reinforcement learning",
        2024, https://arxiv.org/abs/2407.01800. Every step is about as good as every 1000.

    Deviations:
        Scales and offsets of normalisations are left alone; the paper projects or regularises
        them as well.
    """

    def __init__(
        self,
        period: int | None = 1,
        unit: str = "step",
        layers: typing.Sequence[str] | None = None,
    ):
        super().__init__(period, unit)
        self.layers = layers

    def build(self, model):
        super().build(model)
        from keras_plasticity.diagnosis.growth import output_kernels

        last = output_kernels(model) if self.layers is None else set()
        chosen = {}
        for name, layer in weights.select_layers(model, self.layers).items():
            kernels = [v for v in layer.trainable_variables if weights.is_kernel(v)]
            kernels = [v for v in kernels if v.path not in last]
            kept = [v for v in kernels if float(tf.norm(v.value))]
            if len(kept) < len(kernels):
                _LOG.warning("%r is skipped: a kernel of zeros has no norm to keep", name)
            if kept:
                chosen[name] = kept
        if not chosen:
            raise ValueError(
                f"`layers` leaves no kernel of {model.name!r} to project. "
                f"Received: layers={self.layers!r}"
            )
        self._kernels = weights.Borrowed(v for group in chosen.values() for v in group)
        norms = [float(tf.norm(tf.cast(v.value, tf.float32))) for v in self._kernels]
        self._norms = keras.Variable(norms, dtype="float32", trainable=False, name="norms")
        self.count(list(chosen))
        self._sizes = [len(group) for group in chosen.values()]

    def act(self, outputs: StepOutputs | None):
        for kernel, norm in zip(self._kernels, tf.unstack(self._norms.value), strict=True):
            kernel.assign(projected(kernel.value, norm))
        self.counts.assign_add(self._sizes)

    def get_config(self) -> dict:
        return {"period": self.period, "unit": self.unit, "layers": self.layers}


def projected(kernel: tf.Tensor, norm: tf.Tensor) -> tf.Tensor:
    """Returns a kernel scaled to a Frobenius norm, float32; one of zeros stays."""
    size = tf.norm(tf.cast(kernel, tf.float32))
    return kernel * tf.cast(tf.math.divide_no_nan(norm, size), kernel.dtype)
