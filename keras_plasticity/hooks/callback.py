"""Callbacks whose code is compiled into the training step."""

from __future__ import annotations

import dataclasses
import typing

import keras
import tensorflow as tf

if typing.TYPE_CHECKING:
    from keras_plasticity.units import UnitGroup


class Clock(typing.NamedTuple):
    """Where training stands. Outside `experiment.run` only Keras knows, and all are -1.

    Attributes:
        task: int32 scalar, index of the task.
        epoch: int32 scalar, epoch within the task.
        step: int32 scalar, optimizer updates finished before this one, in the task.
        epoch_steps: int32 scalar, updates per epoch.
    """

    task: tf.Tensor
    epoch: tf.Tensor
    step: tf.Tensor
    epoch_steps: tf.Tensor


@dataclasses.dataclass(frozen=True)
class StepOutputs:
    """What one training step hands to the code that runs after it.

    Attributes:
        logs: dict of scalar tensors, what `train_step` returned.
        x: inputs of the batch, as `train_step` saw them.
        y: targets of the batch.
        sample_weight: weights of the batch, or None.
        task: int32 scalar, index of the task; -1 outside `experiment.run`.
        epoch: int32 scalar, epoch within the task; -1 outside `experiment.run`.
        step: int32 scalar, optimizer updates finished before this step, within the
            task; -1 outside `experiment.run`.
        epoch_steps: int32 scalar, updates per epoch; -1 outside `experiment.run`.
        units: activations of units in the forward pass of this very step, as a mapping
            from the groups that a callback of the step asked for (`taps`) to float
            tensors of shape `(..., size)`. Empty in `act`. Where a model's own `train_step`
            hides its forward pass they come from a second one, in inference mode.
    """

    logs: dict
    x: typing.Any
    y: typing.Any
    sample_weight: typing.Any
    task: tf.Tensor
    epoch: tf.Tensor
    step: tf.Tensor
    epoch_steps: tf.Tensor
    units: typing.Mapping[UnitGroup, tf.Tensor] = dataclasses.field(default_factory=dict)


class InGraphCallback(keras.callbacks.Callback):
    """A callback whose `after_step` and `act` are compiled into the training step.

    `build(model)` makes every `keras.Variable` the callback needs and is called once
    per model, before the step is traced; `bind_optimizer(model)` after it and after each
    `compile`. `before_step(x, y, sample_weight)` and `after_step(outputs)` are
    traced, not called: they see tensors of constant shape and write variables. They
    work in plain `fit`, with any `steps_per_execution`, and inside fused steps.

    What is done now and then belongs into `act`: it runs after the steps for which
    `due` is true. `steps_until_due` says how many steps surely pass before `due` has
    to be looked at again; fused steps do not look in between, so `act` costs
    nothing while it rests.

    Example:

    ```python
    class CountSteps(InGraphCallback):
        def build(self, model):
            self.count = keras.Variable(0, dtype="int32", trainable=False)

        def after_step(self, outputs):
            self.count.assign_add(1)
    ```

    Attributes:
        variables: list of `keras.Variable`s that hold the callback's state. They
            are written to checkpoints and restored from them.
        taps: sequence of `UnitGroup`s whose activations `after_step` reads.
    """

    taps: typing.Sequence[UnitGroup] = ()

    def set_model(self, model):
        from keras_plasticity.hooks.step import StepHooks

        super().set_model(model)
        StepHooks.of(model).arm(self)

    def on_test_begin(self, logs=None):
        self._disarm()  # `evaluate` sets the model and trains nothing

    def on_predict_begin(self, logs=None):
        self._disarm()

    def _disarm(self):
        from keras_plasticity.hooks.step import StepHooks

        StepHooks.of(self.model).disarm(self)

    def build(self, model):
        """Makes the callback's variables. Called once per model."""

    def bind_optimizer(self, model):
        """Takes what it needs of `model.optimizer`, after `build` and whenever it is a new one."""

    def before_step(self, x, y, sample_weight):
        """Traced before each optimizer update, with the batch it is about to see."""

    def after_step(self, outputs: StepOutputs):
        """Traced after each optimizer update."""

    def due(self, clock: Clock) -> tf.Tensor:
        """Returns whether `act` runs after the update at `clock`: a bool scalar."""
        return tf.constant(True)

    def steps_until_due(self, clock: Clock) -> tf.Tensor:
        """Returns how many updates, the next at `clock`, to run before asking `due` again.

        All but the last of them are surely not due. An int32 scalar, at least 1.
        """
        return tf.constant(1)

    def act(self, outputs: StepOutputs):
        """Traced once, runs after the updates that are due."""

    @property
    def acts(self) -> bool:
        """Whether `act` does anything."""
        return type(self).act is not InGraphCallback.act

    @property
    def variables(self) -> list:
        own = {key: value for key, value in vars(self).items() if key != "_model"}
        leaves = keras.tree.flatten(own)
        states = [x.state if isinstance(x, keras.random.SeedGenerator) else x for x in leaves]
        return [x for x in states if isinstance(x, keras.Variable)]


def when(due: tf.Tensor, act: typing.Callable[[], object]) -> None:
    """Runs `act` where `due` is true, in the graph.

    A loop of at most one pass: unlike `tf.cond`, which copies the variables that pass
    through it, XLA runs it in place.
    """

    def body(i):
        act()
        return (i + 1,)

    tf.while_loop(lambda i: i < tf.cast(due, tf.int32), body, (tf.constant(0),))
