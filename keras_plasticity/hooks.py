"""Code inside the training step, and fused steps.

This is the only file that puts code into Keras' training step. It is for the
TensorFlow backend alone. One `StepHooks` per model owns the step while callbacks
of this library take part in `fit`; the next `fit` without them is a plain one.
"""

from __future__ import annotations

import dataclasses
import math
import typing
import weakref

import keras
import numpy as np

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_plasticity.hooks runs inside TensorFlow's training step and needs "
        'the TensorFlow backend (KERAS_BACKEND="tensorflow"). '
        f"Received: backend={keras.backend.backend()!r}"
    )

import tensorflow as tf

_KEPT_FUNCTIONS = 4  # of a model; each holds its callbacks and a compiled step


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
    """

    logs: dict
    x: typing.Any
    y: typing.Any
    sample_weight: typing.Any
    task: tf.Tensor
    epoch: tf.Tensor
    step: tf.Tensor


class InGraphCallback(keras.callbacks.Callback):
    """A callback whose `after_step` is compiled into the training step.

    `build(model)` makes every `keras.Variable` the callback needs and is called
    once, before the step is traced. `after_step(outputs)` is traced, not called:
    it sees tensors of constant shape and writes variables. Both work in plain
    `fit`, with any `steps_per_execution`, and inside fused steps.

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
    """

    def set_model(self, model):
        super().set_model(model)
        StepHooks.of(model).arm(self)

    def on_test_begin(self, logs=None):
        StepHooks.of(self.model).disarm(self)  # `evaluate` sets the model and trains nothing

    def on_predict_begin(self, logs=None):
        StepHooks.of(self.model).disarm(self)

    def build(self, model):
        """Makes the callback's variables. Called once per model."""

    def after_step(self, outputs: StepOutputs):
        """Traced after each optimizer update."""

    @property
    def variables(self) -> list:
        own = {key: value for key, value in vars(self).items() if key != "_model"}
        leaves = keras.tree.flatten(own)
        states = [x.state if isinstance(x, keras.random.SeedGenerator) else x for x in leaves]
        return [x for x in states if isinstance(x, keras.Variable)]


class StepHooks:
    """The one owner of a model's training step.

    It stands in for `model.make_train_function`, on the instance. Each callback of
    this library arms it in `set_model`, which `fit` calls just before
    `make_train_function`. When nobody armed it, it removes itself and gives the
    model its plain function back, so also the `fit` after an exception or Ctrl-C
    is a plain one. One function is kept per set of callbacks: task after task runs
    without tracing anew.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self._armed: list = []
        self._functions: dict = {}
        self._plain = model.train_function
        self._current = model.train_function

    @classmethod
    def of(cls, model: keras.Model) -> StepHooks:
        """Returns the model's hooks, installing them if need be."""
        hooks = vars(model).get("make_train_function")
        if hooks is None:
            hooks = vars(model)["make_train_function"] = cls(model)
        elif not isinstance(hooks, cls):
            raise ValueError(
                "`make_train_function` of this model was replaced by other code, "
                "and only one owner is possible. Restore it before `fit`. "
                f"Received: model.make_train_function={hooks!r}"
            )
        return hooks

    def arm(self, callback):
        """Makes `callback` part of the next training function."""
        if not any(callback is armed for armed in self._armed):
            self._armed.append(callback)

    def disarm(self, callback):
        """Takes `callback` out of the next training function."""
        self._armed = [armed for armed in self._armed if armed is not callback]

    def build(self, callback: InGraphCallback):
        """Makes the callback's variables, the first time it is asked to."""
        built = getattr(callback, "_built_for", lambda: None)
        if built() is not self.model:
            callback.build(self.model)
            callback._built_for = weakref.ref(self.model)

    def __call__(self, force: bool = False):
        """Stands in for `keras.Model.make_train_function`."""
        model = self.model
        armed, self._armed = tuple(self._armed), []
        if model.train_function is not self._current:  # compiled anew since
            self._functions.clear()
            self._plain = self._current = model.train_function
        if not armed:
            self.release()
            return model.make_train_function(force=force)
        if force or armed not in self._functions:
            self._functions[armed] = self._make(armed)
        for old in list(self._functions)[:-_KEPT_FUNCTIONS]:
            del self._functions[old]
        self._current = model.train_function = self._functions[armed]

    def release(self):
        """Gives the model its own training function back and forgets all others."""
        if vars(self.model).get("make_train_function") is self:
            del vars(self.model)["make_train_function"]
            self.model.train_function = self._plain

    def _make(self, armed: tuple):
        model = self.model
        if model.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "Callbacks that run inside the training step work on one device. "
                "Train without a distribution strategy. Received: "
                f"{model.distribute_strategy.num_replicas_in_sync} replicas"
            )
        feeds = [c for c in armed if isinstance(c, FusedSteps)]
        if len(feeds) > 1:
            raise ValueError(
                f"Pass one `FusedSteps` callback to `fit`. Received: {len(feeds)} of them"
            )
        hooks = [c for c in armed if isinstance(c, InGraphCallback)]
        for hook in hooks:
            self.build(hook)

        def step(data, task=-1, epoch=-1, step=-1):
            logs = model.train_step(data)
            if hooks:
                outputs = StepOutputs(
                    logs,
                    *keras.utils.unpack_x_y_sample_weight(data),
                    *(tf.convert_to_tensor(i, tf.int32) for i in (task, epoch, step)),
                )
                for hook in hooks:
                    hook.after_step(outputs)
            return logs

        return feeds[0].make_function(model, step) if feeds else model._make_function(step)


class FusedSteps(keras.callbacks.Callback):
    """Runs many optimizer updates in one call, on data that stays on the device.

    `fit` is fed with blocks of indices instead of examples. A block is a loop
    inside one compiled call: gather a batch, cast and scale it, `train_step`, the
    hooks of other callbacks. A block may hold fewer updates than its size, so a
    task of any length runs without tracing anew.

    `step_logs` holds the logs of every update by itself. Other callbacks see what Keras
    shows them: metrics over the epoch so far. For that the states of the metrics are
    added up over updates, which is right for all metrics that count or average.

    Args:
        x: inputs, shape `(examples, ...)`, any dtype; integers are multiplied by
            `scale` after the cast to float32.
        y: targets, shape `(examples, ...)`.
        scale: float, factor for integer inputs. Default 1/255.

    Attributes:
        step_logs: dict of float32 arrays of shape `(updates,)`, the logs of each
            update of the last call, in order.

    Raises:
        ValueError: the optimizer accumulates gradients: its updates are not the steps
            that a block counts.
    """

    def __init__(self, x, y, scale: float = 1 / 255):
        super().__init__()
        self.x = tf.Variable(x, trainable=False)
        self.y = tf.Variable(y, trainable=False)
        self.scale = scale
        self.step_logs: dict[str, np.ndarray] = {}
        self._sources = (x, y)

    def assign(self, x, y):
        """Replaces the data by others of the same shape; no tracing."""
        for variable, new, old in ((self.x, x, self._sources[0]), (self.y, y, self._sources[1])):
            if new is not old:
                variable.assign(new)
        self._sources = (x, y)

    def set_model(self, model):
        super().set_model(model)
        if getattr(model.optimizer, "gradient_accumulation_steps", None):
            raise ValueError(
                "Fused steps and gradient accumulation do not go together. Use an optimizer "
                "without gradient accumulation. Received: "
                f"gradient_accumulation_steps={model.optimizer.gradient_accumulation_steps}"
            )
        StepHooks.of(model).arm(self)

    @staticmethod
    def blocks(order: np.ndarray, steps: int, *, task=0, start=0, epoch_steps=None, cut=None):
        """Returns the data set of index blocks that `fit` is fed with.

        Args:
            order: int32, shape `(updates, batch)`, rows of `x` and `y`.
            steps: int, size of a block in optimizer updates.
            task: int, index of the task, handed to hooks.
            start: int, first update to run; updates before it are left out.
            epoch_steps: int, updates per epoch. Default: all of them are one epoch.
            cut: int, blocks end at multiples of it. Default: never.

        Returns:
            A `tf.data.Dataset` of `(indices, position)`: int32 of shape
            `(steps, batch)` and `(4,)`; `position` is (updates in this block,
            task, first update, updates per epoch).
        """
        total = len(order)
        firsts, first = [], start
        while first < total:
            limit = total if not cut else min(total, (first // cut + 1) * cut)
            firsts.append((first, min(steps, limit - first)))
            first += firsts[-1][1]
        indices = np.zeros((len(firsts), steps, order.shape[1]), np.int32)
        for row, (first, count) in zip(indices, firsts, strict=True):
            row[:count] = order[first : first + count]
        position = [(count, task, first, epoch_steps or total) for first, count in firsts]
        return tf.data.Dataset.from_tensor_slices((indices, np.asarray(position, np.int32)))

    def make_function(self, model, step):
        """Returns a training function that takes blocks of indices."""

        def batch(indices):
            return to_float(tf.gather(self.x, indices), self.scale), tf.gather(self.y, indices)

        names: list[str] = []  # of the logs, known once the step is traced

        def fused(data):
            indices, position = data
            count, task, first, epoch_steps = tf.unstack(position)
            if not names:
                names.extend(_log_names(model, step, batch(indices[0])))

            states = [v for metric in model.metrics for v in metric.variables]
            before = [tf.convert_to_tensor(state) for state in states]

            def body(i, values, sums):
                model.reset_metrics()
                at = first + i
                logs = step(batch(tf.gather(indices, i)), task, at // epoch_steps, at)
                row = tf.stack([tf.cast(logs[name], tf.float32) for name in names])
                sums = [total + state for total, state in zip(sums, states, strict=True)]
                return i + 1, tf.tensor_scatter_nd_update(values, [[i]], row[None]), sums

            start = [tf.constant(0), tf.zeros([indices.shape[0], len(names)]), before]
            _, values, sums = tf.while_loop(lambda i, *_: i < count, body, start)
            for state, total in zip(states, sums, strict=True):
                state.assign(total)
            means = tf.unstack(tf.reduce_sum(values, 0) / tf.cast(count, tf.float32))
            logs = dict(zip(names, means, strict=True)) | model.get_metrics_result()
            return {name: logs[name] for name in names}, values, count

        if not model.run_eagerly:
            fused = tf.function(fused, jit_compile=model.jit_compile, autograph=False)

        @tf.function(autograph=False)
        def block(iterator):
            return fused(iterator.get_next())

        def train_function(iterator):
            calls: list[np.ndarray] = []
            while len(calls) < model.steps_per_execution:
                try:
                    eager = model.run_eagerly
                    logs, values, count = fused(next(iterator)) if eager else block(iterator)
                except (StopIteration, tf.errors.OutOfRangeError):
                    if calls:
                        break
                    raise
                calls.append(values.numpy()[: int(count)])
            self.step_logs = dict(zip(names, np.concatenate(calls).T, strict=True))
            return logs

        return train_function


def steps_per_call(model: keras.Model, batch_size: int) -> int:
    """Returns how many updates to fuse: about a tenth of a second's work, 2500 at most.

    The work of an update is taken as `6 * batch_size * multiply-adds` of a forward
    pass on one example, a call's as 2e10 operations. A function of the network alone,
    so a resumed run finds the same number.
    """
    multiply_adds = 0
    for layer in model._flatten_layers(include_self=False):
        if list(layer._flatten_layers(include_self=False)):
            continue  # its parts are counted
        shape = getattr(getattr(layer, "output", None), "shape", None) or ()
        positions = math.prod(n for n in shape[1:-1] if n)
        multiply_adds += positions * sum(math.prod(w.shape) for w in layer.trainable_weights)
    return max(1, min(2500, int(2e10 / (6 * batch_size * max(1, multiply_adds)))))


def to_float(x, scale: float):
    """Casts integers to float32 and multiplies them by `scale`; floats pass."""
    return tf.cast(x, tf.float32) * scale if x.dtype.is_integer else x


def _log_names(model, step, data) -> list[str]:
    """Names of the logs that a training step returns."""
    if type(model).train_step is keras.Model.train_step:
        return sorted(model.get_metrics_result())
    spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, data)
    return sorted(tf.function(lambda d: step(d)).get_concrete_function(spec).structured_outputs)
