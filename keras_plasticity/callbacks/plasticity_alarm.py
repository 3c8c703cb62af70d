"""Warns, calls back or stops when a mechanism crosses a limit."""

from __future__ import annotations

import logging
import math
import typing

import keras
import numpy as np

from keras_plasticity import probes
from keras_plasticity.callbacks.monitor import Monitor

_LOG = logging.getLogger("keras_plasticity")
_SIDES = ("above", "below")


class PlasticityAlarm(keras.callbacks.Callback):
    """Warns, calls back or stops when what a `Monitor` measures crosses a limit.

    A probe crosses its limit when its worst layer does, at `patience` records in a row; a value
    that is not finite crosses any limit. Each probe raises the alarm once, and again after it
    has come back.

    The action `"stop"` ends `fit` at once, and `experiment.run` after the task that is under
    way. Such a run is finished: called again it returns its rows. A run that is killed between
    the alarm and the task's end, and resumed, ends there too. `fit` called again goes on, until
    the next alarm.

    Example:

    ```python
    monitor = kp.callbacks.Monitor("logs", reference_data=(x[:1000], y[:1000]))
    alarm = kp.callbacks.PlasticityAlarm(monitor, {"dead_fraction": 0.5, "effective_rank": 5})
    model.fit(x, y, callbacks=[monitor, alarm])
    ```

    Args:
        monitor: `Monitor` in the same list of callbacks; it must measure the probes.
        limits: dict from the name of a probe to a float, or to `("above", float)` or
            `("below", float)`. A float alone is the side that the probe calls worse.
        action: `"warn"`, a line in the log; `"stop"`, which also ends training; or a function of a
            dict with `probe`, `layer`, `value`, `limit` and `step`. Default `"warn"`.
        patience: int, records in a row. Default 1.

    Attributes:
        alarms: list of the dicts of all alarms so far; of a resumed run, of those since then.
        stopped: bool, whether an alarm has ended training.

    Raises:
        ValueError: a probe is not measured, has no worse side, or an argument is no such thing.
    """

    uses_task_boundaries = False

    def __init__(
        self,
        monitor: Monitor,
        limits: typing.Mapping[str, float | tuple[str, float]],
        action: str | typing.Callable[[dict], object] = "warn",
        patience: int = 1,
    ):
        super().__init__()
        if not isinstance(monitor, Monitor):
            raise ValueError(f"`monitor` must be a `Monitor`. Received: monitor={monitor!r}")
        if action not in ("warn", "stop") and not callable(action):
            raise ValueError(
                f"`action` must be 'warn', 'stop' or a function. Received: action={action!r}"
            )
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(f"`patience` must be at least 1. Received: patience={patience!r}")
        known = {about["name"]: about for about in map(probes.describe, monitor.probes)}
        self.limits = {name: _limit(name, limits[name], known) for name in limits}
        self.monitor, self.action, self.patience = monitor, action, patience
        self.alarms: list[dict] = []
        zeros = np.zeros(len(limits))
        self._crossed = keras.Variable(zeros, dtype="int32", trainable=False, name="crossed")
        self._stopped = keras.Variable(False, dtype="bool", trainable=False, name="stopped")
        monitor.listeners.append(self._check)

    @property
    def variables(self) -> list[keras.Variable]:
        """What is saved with a run."""
        return [self._crossed, self._stopped]

    @property
    def stopped(self) -> bool:
        """Whether an alarm has ended training."""
        return bool(np.asarray(self._stopped))

    def _check(self, row: dict) -> None:
        if row["step"] == 1:  # the begin of a run, or of another one
            self.alarms.clear()
            self._crossed.assign(np.zeros(len(self.limits)))
            self._stopped.assign(False)
        crossed, new = np.array(self._crossed), []
        for i, (name, (side, limit)) in enumerate(self.limits.items()):
            values = row["probes"].get(name)
            if not values:
                continue
            sign = 1 if side == "above" else -1
            values = {k: sign * math.inf if v is None else v for k, v in values.items()}
            worst, layer = max((sign * value, key) for key, value in values.items())
            if worst <= sign * limit:
                crossed[i] = 0
                continue
            crossed[i] += 1
            if crossed[i] == self.patience:
                alarm = {"probe": name, "layer": layer, "value": values[layer]}
                new.append(alarm | {"side": side, "limit": limit, "step": row["step"]})
        self._crossed.assign(crossed)
        for alarm in new:
            self._raise(alarm)

    def _raise(self, alarm: dict) -> None:
        self.alarms.append(alarm)
        if callable(self.action):
            self.action(alarm)
            return
        stop = self.action == "stop"
        _LOG.warning(
            "PlasticityAlarm: %s of %s is %.4g, %s its limit %.4g, at step %d%s",
            *(alarm[key] for key in ("probe", "layer", "value", "side", "limit", "step")),
            "; training stops" if stop else "",
        )
        if stop:
            self._stopped.assign(True)
            if not self.monitor.in_run:
                self.model.stop_training = True

    def get_config(self) -> dict:
        action = self.action if isinstance(self.action, str) else "function"
        return {"limits": self.limits, "action": action, "patience": self.patience}


def _limit(name: str, given: typing.Any, known: dict[str, dict]) -> tuple[str, float]:
    """The side and the number of a limit."""
    if name not in known:
        raise ValueError(
            f"`limits` must name probes that the monitor measures: {sorted(known)}. "
            f"Received: {name!r}"
        )
    side = {"lower": "above", "higher": "below"}.get(known[name]["better"])
    side, number = given if isinstance(given, (tuple, list)) else (side, given)
    if side not in _SIDES or not isinstance(number, (int, float)) or math.isnan(number):
        raise ValueError(
            "A limit must be a number, or ('above', number) or ('below', number) for a probe that "
            f"calls no side worse. Received: limits[{name!r}]={given!r}"
        )
    return side, float(number)
