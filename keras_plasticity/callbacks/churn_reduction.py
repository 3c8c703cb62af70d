"""Churn reduction: what the network says of other examples than those of the batch is kept."""

from __future__ import annotations

import math
import typing

import keras
import tensorflow as tf

from keras_plasticity.batch_loss import scaled_gradients
from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.hooks import StepHooks, StepOutputs
from keras_plasticity.surgery import weights


class ChurnReduction(Intervention):
    """Takes back what an update changed in the outputs on examples outside of its batch.

    Use it where updates on one batch disturb the outputs on others (reinforcement learning,
    small batches). A copy of the network lags behind by one act, and some examples of the batch
    of then are kept:

    ```python
    churn = mean over reference of sum((f(x; w) - f(x; w_before))**2)
    w = w - learning_rate * strength * gradient of churn
    w_before, reference = w, first `examples` of this batch
    ```

    The churn at an act is thus that of the updates since the last one, on a batch that came
    before them. It costs a copy of the weights and, at every act, a forward and a backward pass
    on the reference and a forward pass of the copy. Outputs are those in inference mode. What is
    not finite (overflow in half precision) is not applied.

    At the begin of a task the reference is forgotten: what changes the network there (a fresh
    network, a reset, shrink and perturb) is not taken back, nor is the first update. In
    the midst of a task it counts as churn whatever changed the weights since the last act, a
    reset by another callback included; after `kp.surgery.reinitialize` by hand call
    `on_task_begin`.

    Example:

    ```python
    kp.callbacks.ChurnReduction(1.0)
    ```

    Args:
        strength: float, at least 0; with 0 the run is the plain one. Default 1.0.
        period: int, steps from one act to the next; None for never. Default 1.
        examples: int, of the batch that are kept; of a smaller batch some stand there twice.
            Default 32.

    Raises:
        ValueError: an argument is out of its range, or the model has several inputs.

    Reference:
        Tang et al., "Mitigating Plasticity Loss in Continual Reinforcement Learning by Reducing
        Churn", 2025, https://arxiv.org/abs/2506.00592.

    Deviations:
        It is decoupled: the penalty is no part of the loss, does not pass through the moments of
        the optimizer, and is taken after the update that caused the churn; in the paper it acts
        on the churn of the update before. The strength is fixed; the paper sets it so that the
        penalty stands in a given ratio to the loss. Outputs are what the model returns.
    """

    def __init__(self, strength: float = 1.0, period: int | None = 1, examples: int = 32):
        super().__init__(period, "step")
        if not (isinstance(strength, (int, float)) and 0 <= strength < math.inf):
            raise ValueError(f"`strength` must be at least 0. Received: strength={strength!r}")
        if not isinstance(examples, int) or examples < 1:
            raise ValueError(
                f"`examples` must be a whole number above 0. Received: examples={examples!r}"
            )
        self.strength, self.examples = strength, examples

    def build(self, model):
        super().build(model)
        inputs = keras.tree.flatten(model.input_shape)
        if any(isinstance(part, (list, tuple, dict)) for part in _parts(model.input_shape)):
            raise ValueError(
                "`ChurnReduction` keeps examples of one input. "
                f"Received: a model of several, {model.input_shape}"
            )
        shape, dtype = (self.examples, *inputs[1:]), model.inputs[0].dtype
        if None in shape:
            raise ValueError(
                "`ChurnReduction` keeps examples of one shape. "
                f"Received: a model of input shape {model.input_shape}"
            )
        self._weights = weights.Borrowed(model.trainable_variables)
        self._before = [weights.copy_of(variable) for variable in self._weights]
        self._reference = keras.Variable(
            tf.zeros(shape, dtype), dtype=dtype, trainable=False, name="reference"
        )
        self._known = keras.Variable(False, dtype="bool", trainable=False, name="known")
        self.count(["network"])

    @property
    def uses_task_boundaries(self) -> bool:
        return self.acts

    def on_task_begin(self, task, model):
        super().on_task_begin(task, model)
        if self.acts and getattr(task, "index", task) > 0:
            StepHooks.of(model).build(self)
            self._known.assign(False)

    @property
    def acts(self) -> bool:
        return super().acts and self.strength > 0

    def act(self, outputs: StepOutputs):
        variables = list(self._weights)
        gradients = churn_gradients(self.model, variables, self._before, self._reference.value)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        rate = tf.cast(self.model.optimizer.learning_rate, tf.float32) * self.strength
        for variable, before, gradient in zip(variables, self._before, gradients, strict=True):
            step = tf.where(finite & self._known.value, rate * gradient, tf.zeros_like(gradient))
            variable.assign_sub(tf.cast(step, variable.dtype))
            before.assign(variable.value)
        rows = tf.range(self.examples) % tf.shape(outputs.x)[0]
        self._reference.assign(tf.cast(tf.gather(outputs.x, rows), self._reference.dtype))
        self.counts.assign_add([tf.cast(self._known.value, self.counts.dtype)])
        self._known.assign(True)

    def get_config(self) -> dict:
        return {"strength": self.strength, "period": self.period, "examples": self.examples}


def churn_gradients(
    model: keras.Model, variables: list, before: list, x: typing.Any
) -> list[tf.Tensor]:
    """Returns the float32 gradients of the churn on some inputs.

    Args:
        model: compiled `keras.Model`.
        variables: its trainable weights.
        before: other values of them.
        x: inputs.
    """
    others = [variable.value for variable in model.non_trainable_variables]
    old, _ = model.stateless_call([v.value for v in before], others, x, training=False)

    def churn() -> tf.Tensor:
        new = model(x, training=False)
        pairs = zip(keras.tree.flatten(new), keras.tree.flatten(old), strict=True)
        apart = [tf.cast(a, tf.float32) - tf.cast(b, tf.float32) for a, b in pairs]
        total = tf.add_n([tf.reduce_sum(tf.square(a)) for a in apart])
        return total / tf.cast(tf.shape(x)[0], tf.float32)

    return scaled_gradients(model, variables, churn)


def _parts(shape: typing.Any) -> typing.Iterable:
    return shape.values() if isinstance(shape, dict) else shape
