"""The one owner of a model's training step."""

from __future__ import annotations

import functools
import logging
import typing
import weakref

import keras
import tensorflow as tf

from keras_plasticity.hooks.callback import Clock, InGraphCallback, StepOutputs, when
from keras_plasticity.units import capture

_LOG = logging.getLogger("keras_plasticity")
_KEPT_FUNCTIONS = 4  # of a model; each holds its callbacks and a compiled step


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
        self.fused = False  # whether the present function runs fused steps
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

    def build(self, callback: InGraphCallback) -> bool:
        """Makes the callback's variables, once per model, and shows it each new optimizer.

        Returns:
            Whether there was anything to make: functions traced before are stale.
        """
        model, optimizer = getattr(callback, "_built_for", (lambda: None, lambda: None))
        new = model() is not self.model
        if new:
            callback.build(self.model)
        bind = new or optimizer() is not self.model.optimizer
        if bind:
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            callback.bind_optimizer(self.model)
        callback._built_for = weakref.ref(self.model), weakref.ref(self.model.optimizer)
        return bind

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
        self._check_strategy()
        for callback in armed:
            if isinstance(callback, InGraphCallback) and self.build(callback):
                stale = [key for key in self._functions if callback in key]
                for key in stale:
                    del self._functions[key]
        if force or armed not in self._functions:
            self._functions[armed] = self._make(armed)
        for old in list(self._functions)[:-_KEPT_FUNCTIONS]:
            del self._functions[old]
        self.fused = any(hasattr(callback, "make_function") for callback in armed)
        self._current = model.train_function = self._functions[armed]

    def release(self):
        """Gives the model its own training function back and forgets all others."""
        if vars(self.model).get("make_train_function") is self:
            del vars(self.model)["make_train_function"]
            if self.model.train_function is self._current:  # not compiled anew since
                self.model.train_function = self._plain

    def _check_strategy(self):
        replicas = self.model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "Callbacks that run inside the training step work on one device. "
                f"Train without a distribution strategy. Received: {replicas} replicas"
            )

    def _make(self, armed: tuple):
        model = self.model
        feeds = [c for c in armed if hasattr(c, "make_function")]
        if len(feeds) > 1:
            raise ValueError(
                f"Pass one `FusedSteps` callback to `fit`. Received: {len(feeds)} of them"
            )
        step = Step(model, [c for c in armed if isinstance(c, InGraphCallback)])
        if feeds:
            return feeds[0].make_function(model, step)

        def plain(data):
            unknown = Clock(*(tf.constant(-1) for _ in Clock._fields))
            logs = step.update(data, unknown)
            step.act(lambda: (logs, data), unknown)
            return logs

        return model._make_function(plain)


class Step:
    """One training step of a model with what callbacks add to it.

    Args:
        model: `keras.Model`.
        hooks: list of built `InGraphCallback`s, in the order they were given to `fit`.
    """

    def __init__(self, model: keras.Model, hooks: list[InGraphCallback]):
        self.model, self.hooks = model, hooks
        self.acting = [hook for hook in hooks if hook.acts]
        self._taps = [group for hook in hooks for group in hook.taps]

    def update(self, data, clock: Clock) -> dict:
        """Traces every `before_step`, `train_step` and every `after_step`; returns the logs."""
        for hook in self.hooks:
            hook.before_step(*keras.utils.unpack_x_y_sample_weight(data))
        with capture(self._taps) as captured:
            logs = self.model.train_step(data)
        if self.hooks:
            missing = [group for group in self._taps if group not in captured]
            units = {group: captured[group] for group in self._taps if group in captured}
            if missing:  # the model's own step hides its forward pass
                _LOG.info("%r: activations are read in a second forward pass", self.model.name)
                with capture(missing) as again:
                    self.model(keras.utils.unpack_x_y_sample_weight(data)[0], training=False)
                units |= {group: again[group] for group in missing}
            outputs = self._outputs(logs, data, clock, units)
            for hook in self.hooks:
                hook.after_step(outputs)
        return logs

    def act(self, last: typing.Callable[[], tuple], clock: Clock) -> None:
        """Traces every `act`, which runs where it is due.

        Args:
            last: function that returns logs and data of the update at `clock`.
            clock: of the last update.
        """
        for hook in self.acting:
            when(hook.due(clock), functools.partial(self._act, hook, last, clock))

    def _act(self, hook: InGraphCallback, last, clock: Clock) -> None:
        logs, data = last()
        hook.act(self._outputs(logs, data, clock))

    def steps_until_due(self, clock: Clock) -> tf.Tensor:
        """Returns how many updates may run, the next at `clock`, before `act` is due."""
        until = [hook.steps_until_due(clock) for hook in self.acting]
        return tf.maximum(1, tf.reduce_min(tf.stack(until)))

    def _outputs(self, logs, data, clock: Clock, units=None) -> StepOutputs:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return StepOutputs(logs, x, y, sample_weight, *clock, units or {})
