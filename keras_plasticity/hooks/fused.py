"""Many optimizer updates in one call, on data that stays on the device."""

from __future__ import annotations

import bisect
import math

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.hooks.callback import Clock
from keras_plasticity.hooks.step import StepHooks
from keras_plasticity.surgery.slots import innermost


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
        optimizer = innermost(model.optimizer)
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise ValueError(
                "Fused steps and gradient accumulation do not go together. Use an optimizer "
                "without gradient accumulation. Received: "
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
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
            cut: int, blocks end at multiples of it; or a sequence of int, the updates after
                which blocks end. Default: never.

        Returns:
            A `tf.data.Dataset` of `(indices, position)`: int32 of shape
            `(steps, batch)` and `(4,)`; `position` is (updates in this block,
            task, first update, updates per epoch).
        """
        total = len(order)
        stops = range(cut, total, cut) if isinstance(cut, int) else sorted(cut or ())
        firsts, first = [], start
        while first < total:
            after = bisect.bisect_right(stops, first)
            limit = min(total, stops[after]) if after < len(stops) else total
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
                names.extend(_log_names(model, batch(indices[0])))

            states = [v for metric in model.metrics for v in metric.variables]
            before = [tf.convert_to_tensor(state) for state in states]

            def clock(i):
                at = first + i
                return Clock(task, at // epoch_steps, at, epoch_steps)

            def body(i, values, sums):
                model.reset_metrics()
                logs = step.update(batch(tf.gather(indices, i)), clock(i))
                row = tf.stack([tf.cast(logs[name], tf.float32) for name in names])
                sums = [total + state for total, state in zip(sums, states, strict=True)]
                return i + 1, tf.tensor_scatter_nd_update(values, [[i]], row[None]), sums

            def stretch(i, values, sums):  # up to the next update after which to act
                limit = tf.minimum(count, i + step.steps_until_due(clock(i)))
                loop = tf.while_loop(lambda i, *_: i < limit, body, (i, values, sums))
                i, values, sums = loop

                def last():
                    logs = dict(zip(names, tf.unstack(tf.gather(values, i - 1)), strict=True))
                    return logs, batch(tf.gather(indices, i - 1))

                step.act(last, clock(i - 1))
                return i, values, sums

            start = (tf.constant(0), tf.zeros([indices.shape[0], len(names)]), before)
            part = stretch if step.acting else body
            _, values, sums = tf.while_loop(lambda i, *_: i < count, part, start)
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


def _log_names(model, data) -> list[str]:
    """Names of the logs that a training step returns."""
    if type(model).train_step is keras.Model.train_step:
        return sorted(model.get_metrics_result())
    spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, data)
    traced = tf.function(model.train_step).get_concrete_function(spec)
    return sorted(traced.structured_outputs)
