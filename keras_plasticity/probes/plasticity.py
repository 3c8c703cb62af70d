"""What one optimizer step does: to the loss of its sample, and to other outputs."""

from __future__ import annotations

import collections.abc
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.batch_loss import batch_loss
from keras_plasticity.probes.copies import (
    assign_weights,
    copy_network,
    copy_optimizer,
    optimizer_key,
)
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.per_example import half_scale
from keras_plasticity.probes.probe import NotApplicableError, probe
from keras_plasticity.surgery.slots import innermost


@probe("share", better="higher", expensive=True)
def sample_plasticity(
    inputs: ProbeInputs, examples: int = 64, epsilon: float = 1e-8
) -> dict[str, float]:
    """Share of a sample's loss that one update on this sample removes, averaged over samples.

    Use it as a quick measure of plasticity on the current task; `trainability_gap` is the
    thorough one. Each sample starts from the same weights.

    ```python
    mean(clip(1 - loss(after, sample) / max(loss(before, sample), epsilon), 0, 1))
    ```

    Example:
    >>> kp.probes.sample_plasticity(inputs)
    {'model': 0.37}

    Args:
        inputs: `ProbeInputs` with targets, of a compiled model.
        examples: int, the first ones of the inputs. Default 64.
        epsilon: float, least loss to divide by. Default 1e-8.

    Raises:
        NotApplicableError: there is no loss, or the model cannot be copied.

    Reference:
        Elsayed and Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in
        Continual Learning", 2024, https://arxiv.org/abs/2404.00781, section 4.

    Deviations:
        The update is one of a fresh optimizer of the class and configuration of the compiled
        one, in inference mode, on the loss and the model's penalties; the measured loss has no
        penalties. The paper measures the updates of training itself.
    """
    losses = sample_losses(inputs, examples)
    shares = 1 - losses[:, 1] / np.maximum(losses[:, 0], epsilon)
    return {MODEL: float(np.mean(np.clip(shares, 0, 1)))}


def sample_losses(inputs: ProbeInputs, examples: int = 64) -> np.ndarray:
    """Returns the loss of each sample before and after one update on it.

    Args:
        inputs: `ProbeInputs` with targets, of a compiled model.
        examples: int, the first ones of the inputs. Default 64.

    Returns:
        float64 array of shape `(examples, 2)`.

    Raises:
        NotApplicableError: there is no loss, or the model cannot be copied.
    """
    stepper = _stepper(inputs)
    x, y = inputs.batch(slice(0, min(inputs.examples, examples)))
    return inputs.once(("sample_losses", examples), lambda: stepper.samples(x, y))


@probe("distance", better="lower", expensive=True)
def churn_of_step(inputs: ProbeInputs, examples: int = 512) -> dict[str, float]:
    """How far one optimizer step on some examples moves the outputs of others.

    Use it for interference: churn grows as gradients of examples become collinear.

    ```python
    mean(abs(f(x_other; after a step on x, y) - f(x_other; before)))
    ```

    Example:
    >>> kp.probes.churn_of_step(inputs)
    {'model': 0.031}

    Args:
        inputs: `ProbeInputs` with targets and two examples or more, of a compiled model.
        examples: int, the first ones of the inputs; the step is on those at even places,
            the outputs are of those at odd ones. Default 512.

    Returns:
        The mean over examples and outputs, in the unit of the outputs.

    Raises:
        NotApplicableError: there is no loss, one example, or the model cannot be copied.

    Reference:
        Tang et al., "Mitigating Plasticity Loss in Continual Reinforcement Learning by Reducing
        Churn", 2025, https://arxiv.org/abs/2506.00592

    Deviations:
        The step is one of a fresh optimizer of the class and configuration of the compiled one,
        in inference mode.
    """
    if min(inputs.examples, examples) < 2:
        raise NotApplicableError("churn needs two examples or more")
    stepper = _stepper(inputs)
    data = inputs.batch(slice(0, examples))
    x, y = keras.tree.map_structure(lambda a: a[0::2], data)
    other, _ = keras.tree.map_structure(lambda a: a[1::2], data)
    return {MODEL: stepper.churn(x, y, other)}


class _Stepper:
    """A copy of a network and of its optimizer, that take a step from where the network is."""

    def __init__(self, model: keras.Model) -> None:
        self.model, self.network, self.optimizer = model, copy_network(model), copy_optimizer(model)
        # The scale of single samples is no mean's; a step that overflows would be skipped.
        self.optimizer = innermost(self.optimizer)
        self._scale = half_scale(model)
        self.optimizer.build(self.network.trainable_variables)
        self._fresh = [tf.identity(v.value) for v in self.optimizer.variables]
        self._samples = _compiled(self._each_sample)
        self._churn = _compiled(self._one_step)

    def samples(self, x: typing.Any, y: typing.Any) -> np.ndarray:
        """Returns losses before and after a step on each sample."""
        assign_weights(self.network, self.model.weights)
        start = [tf.identity(v.value) for v in self.network.trainable_variables]
        return self._samples(x, y, start, self._fresh).numpy().astype(np.float64)

    def churn(self, x: typing.Any, y: typing.Any, other: typing.Any) -> float:
        """Returns the mean change of the outputs of `other` by a step on `x` and `y`."""
        assign_weights(self.network, self.model.weights)
        for variable, value in zip(self.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        return float(self._churn(x, y, other))

    def _each_sample(self, x: typing.Any, y: typing.Any, start: list, fresh: list) -> tf.Tensor:
        variables = [*self.network.trainable_variables, *self.optimizer.variables]

        def sample(i: tf.Tensor) -> tf.Tensor:
            for variable, value in zip(variables, [*start, *fresh], strict=True):
                variable.assign(value)
            one = keras.tree.map_structure(lambda a: tf.gather(a, i[None]), (x, y))
            before = self._step(*one)
            after = self._loss(*one)
            return tf.stack([tf.cast(before, tf.float32), tf.cast(after, tf.float32)])

        rows = tf.range(tf.shape(keras.tree.flatten(x)[0])[0])
        return tf.map_fn(sample, rows, parallel_iterations=1, fn_output_signature=tf.float32)

    def _one_step(self, x: typing.Any, y: typing.Any, other: typing.Any) -> tf.Tensor:
        before = self._outputs(other)
        self._step(x, y)
        return tf.reduce_mean(tf.abs(self._outputs(other) - before))

    def _outputs(self, x: typing.Any) -> tf.Tensor:
        parts = keras.tree.flatten(self.network(x, training=False))
        return tf.concat([tf.reshape(tf.cast(o, tf.float32), [-1]) for o in parts], 0)

    def _loss(self, x: typing.Any, y: typing.Any) -> tf.Tensor:
        # The loss is the model's, so that the copy need not be compiled; it keeps no state.
        return batch_loss(self.model, x, y, predictions=self.network(x, training=False))

    def _step(self, x: typing.Any, y: typing.Any) -> tf.Tensor:
        """Takes a step and returns the loss before it."""
        network, optimizer = self.network, self.optimizer
        with tf.GradientTape() as tape:
            loss = self._loss(x, y)
            penalties = [tf.cast(tf.reduce_sum(p), loss.dtype) for p in network.losses]
            total = tf.add_n([loss, *penalties]) * self._scale
        variables = network.trainable_variables
        gradients = tape.gradient(total, [v.value for v in variables])
        pairs = zip(gradients, variables, strict=True)
        known = [(tf.convert_to_tensor(g) / self._scale, v) for g, v in pairs if g is not None]
        optimizer.apply([g for g, _ in known], [v for _, v in known])
        return loss


def _stepper(inputs: ProbeInputs) -> _Stepper:
    inputs.need_loss()
    version = optimizer_key(inputs.model)
    return inputs.kept("stepper", lambda: _Stepper(inputs.model), version)


def _compiled(function: collections.abc.Callable) -> collections.abc.Callable:
    return tf.function(function, autograph=False, reduce_retracing=True)
