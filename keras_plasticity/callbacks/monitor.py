"""Measures mechanisms of plasticity loss while a model trains."""

from __future__ import annotations

import logging
import pathlib
import time
import typing

import keras
import numpy as np

from keras_plasticity import probes as kp_probes
from keras_plasticity.callbacks.schedule import Schedule, passed
from keras_plasticity.probes.examples import first_examples, task_examples
from keras_plasticity.probes.measurements import Measurements, finite, split
from keras_plasticity.units import UnitGroup
from keras_plasticity.writers import METRICS, PROBE, EventWriter, RowWriter

_LOG = logging.getLogger("keras_plasticity")
_HISTOGRAMS = 200  # of a run at most


class Monitor(keras.callbacks.Callback):
    """Measures mechanisms of plasticity loss while a model trains.

    Leave it on: the default probes cost about a pass over `examples` at each record, and
    nothing in between. Training is the same, bit for bit, with and without it.

    Each record holds the values of all probes by layer, on examples of the present task, and
    for probes that compare with an earlier time on examples that stay the same for the whole
    run. The beginning is the state of the network when training begins. Records go to

    - `metrics.jsonl`, as rows of the kind "probe",
    - TensorBoard, as tensors `plasticity/<probe>` with a value per layer,
    - Keras' logs at the end of each epoch, averaged over layers.

    Example:

    ```python
    monitor = kp.callbacks.Monitor("logs/run_1", reference_data=(x[:1000], y[:1000]))
    model.fit(x, y, epochs=20, callbacks=[monitor])
    ```

    In `experiment.run` and gin files no arguments are needed: it takes examples from the
    stream and writes to the run's directory. With `fit` task after task, call
    `monitor.on_task_begin(index, model, data=(x, y))` before each.

    Args:
        log_dir: directory for files, which must hold no records. Default: in
            `experiment.run` the run's, elsewhere nothing is written.
        probes: probes to measure. Default `kp.probes.DEFAULT`; `kp.probes.ALL` are all.
        every: when to record, besides at the begin and the end of each task and each `fit`:
            int, every so many optimizer updates; a sequence of int, after these updates of a
            task, or of a `fit` where no task is announced; `"epoch"`; or `"task"`, not at all
            in between. Default: `"task"` in `experiment.run`, elsewhere `"epoch"`. Beside callbacks
            that must be called at epochs, a record of a run falls on the end of the epoch.
        reference_data: the examples that stay the same, `(x, y)` or x or a `tf.data.Dataset`
            of batches. Default: those of the first task.
        slow_every: when to measure the expensive probes, like `every`, besides at the begin
            and the end of the run: `"task"` at the end of each task and `fit`, `"run"` never in
            between. Default `"task"`.
        budget: float, share of the time since training began that may be spent on probing: a
            record that would exceed it is left out, and how many is said at the end. None for
            no limit. Default None.
        examples: int, of each set that are used. Default 1000: fewer do not tell rarely active
            units from dead ones.
        groups: `UnitGroup`s made by hand, for a model without a graph.

    Attributes:
        latest: dict, the newest value of each probe: `{"dead_fraction": {"dense_0": 0.1}}`.
        skipped: int, measurements that were left out so far to stay within `budget`.
        listeners: list of functions that are called with each row that is recorded.

    Raises:
        ValueError: an argument is out of its range; `fit` without `reference_data`; `log_dir`
            holds records.
    """

    uses_task_boundaries = False  # it watches

    def __init__(
        self,
        log_dir: str | pathlib.Path | None = None,
        probes: typing.Sequence | None = None,
        every: int | str | typing.Sequence[int] | None = None,
        reference_data: typing.Any = None,
        *,
        slow_every: int | str | typing.Sequence[int] = "task",
        budget: float | None = None,
        examples: int = 1000,
        groups: typing.Sequence[UnitGroup] | None = None,
    ):
        super().__init__()
        if budget is not None and not 0 < budget <= 1:
            raise ValueError(f"`budget` must lie in (0, 1]. Received: budget={budget}")
        if not isinstance(examples, int) or examples < 1:
            raise ValueError(f"`examples` must be at least 1. Received: examples={examples!r}")
        self.log_dir = None if log_dir is None else pathlib.Path(log_dir)
        self.probes = tuple(kp_probes.DEFAULT if probes is None else probes)
        split(self.probes)  # fails early
        self.every, self.slow_every, self.budget = every, slow_every, budget
        self._fast, self._slow = Schedule(every), Schedule(slow_every)
        self.examples, self.groups = examples, groups
        self._reference = (
            None if reference_data is None else first_examples(reference_data, examples)
        )
        self.latest: dict[str, dict[str, float]] = {}
        self.skipped = 0
        self.listeners: list[typing.Callable[[dict], None]] = []
        self._run: typing.Any = None  # the run that it is part of
        self._measurements: Measurements | None = None
        self._rows: RowWriter | None = None
        self._events: EventWriter | None = None
        self._task, self._task_start = 0, 0
        self._step, self._epoch, self._recorded, self._left_out = 0, 0, -1, -1
        self._histograms = 0
        self._spent, self._begun = 0.0, time.perf_counter()

    # In `experiment.run`, which calls these

    def join(self, run: typing.Any, model: keras.Model, task: typing.Any) -> None:
        """Becomes part of a run: `run.write_probes(row)` takes the records.

        Args:
            run: `Training`.
            model: the model, with the weights it starts with.
            task: `Task`, the first of the stream.
        """
        if self.log_dir is not None:
            raise ValueError(
                "In a run a `Monitor` writes to the run's directory. "
                f"Received: log_dir={str(self.log_dir)!r}"
            )
        self._run = run
        self.set_model(model)
        reference = self._reference or task_examples(task, self.examples)
        self._measurements = self._timed(
            lambda: Measurements(model, self.probes, reference, self.groups)
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """What is saved with a run."""
        return self._measurements.variables if self._measurements else []

    @property
    def descriptions(self) -> dict[str, dict]:
        """What the probes say of themselves."""
        return self._measurements.descriptions if self._measurements else {}

    def stops(self, task) -> set[int]:
        """Updates of a task after which a record is due."""
        schedules = (self._fast.or_else("task"), self._slow)
        return set().union(*(s.stops(task.steps, task.steps_per_epoch) for s in schedules))

    def begin_task(self, task, step: int, done: int) -> None:
        """Takes the examples of a task; records if none of its `done` updates is done.

        Args:
            task: `Task`.
            step: int, updates of the run before this task.
            done: int, updates of this task that are done.
        """
        self._task, self._task_start = task.index, step
        assert self._measurements is not None
        self._measurements.set_task(*task_examples(task, self.examples))
        self._seen = done
        if done == 0:
            self._record(step + 1, 0, 0, self._measurements.expensive if step == 0 else ())

    def after_updates(self, task, done: int) -> None:
        """Records if it came due since the last call, `done` updates of the task are done."""
        seen, self._seen = self._seen, done
        end, last = done == task.steps, task.index == self._run.last_task
        fast, slow = (
            (end and (s.every != "run" or last))
            or passed(s.stops(task.steps, task.steps_per_epoch), seen, done)
            for s in (self._fast.or_else("task"), self._slow)
        )
        if fast or slow:
            epoch = (done - 1) // task.steps_per_epoch
            self._record(self._task_start + done, done, epoch, slow, fast)

    # In `fit`

    def on_task_begin(self, task, model, data=None):
        """Notes that a task begins, with `data` as its examples, for who calls `fit` by hand.

        Args:
            task: `Task` or int, its index.
            model: the model.
            data: `(x, y)` or a data set, as `reference_data`. Default: the examples stay.
        """
        if self._run is not None:
            return
        self._task, self._task_start = getattr(task, "index", task), self._step
        if data is not None:
            self._task_data = first_examples(data, self.examples)
            if self._measurements is not None:
                self._measurements.set_task(*self._task_data)

    def on_train_begin(self, logs=None):
        if self._run is not None:
            return
        if self._measurements is None or self._model_measured is not self.model:
            self._start()
        self._open()
        self._fit_start, self._epoch_start = self._step, self._step
        if self._events is not None:
            self._events.task_begin(self._task, time.time())
        first = self._recorded < 0
        self._record(self._step + 1, self._step - self._task_start, self._epoch, first)

    def on_train_batch_end(self, batch, logs=None):
        if self._run is not None:
            return
        before, self._step = self._step, self._epoch_start + batch + 1
        since = self._task_start if self._task_start >= self._fit_start else self._fit_start
        fast, slow = (
            s.passed(before - since, self._step - since)
            for s in (self._fast.or_else("epoch"), self._slow)
        )
        if fast or slow:
            self._record(self._step, self._step - self._task_start, self._epoch, slow, fast)

    def on_epoch_end(self, epoch, logs=None):
        if self._run is not None:
            return
        self._epoch_start = self._step
        fast, slow = (s.every == "epoch" for s in (self._fast.or_else("epoch"), self._slow))
        if fast or slow:
            self._record(self._step, self._step - self._task_start, self._epoch, slow, fast)
        self._epoch += 1
        if logs is not None:
            logs.update({name: _mean(values) for name, values in self.latest.items()})

    def on_train_end(self, logs=None):
        if self._run is not None:
            return
        epoch = max(self._epoch - 1, 0)
        self._record(self._step, self._step - self._task_start, epoch, True)
        if self._events is not None:
            self._events.task_end(self._task, self._step, epoch, time.time())
            self._events.close()
            self._events = None
        self.say_skipped()

    def say_skipped(self) -> None:
        """Logs how much was left out to stay within the budget."""
        if self.skipped:
            _LOG.warning(
                "Monitor: %d measurements were left out to stay within budget=%g; %.1f %% of the "
                "time was spent on probing",
                self.skipped,
                self.budget,
                100 * self._spent / max(time.perf_counter() - self._begun, 1e-9),
            )

    # What

    def _start(self):
        if self._reference is None:
            raise ValueError(
                "`Monitor` needs examples to probe with outside `experiment.run`: pass "
                "`reference_data=(x, y)`. Received: reference_data=None"
            )
        if not self.model.built:
            self.model.build(keras.tree.map_structure(np.shape, self._reference[0]))
        self._begun = time.perf_counter()
        self._measurements = self._timed(
            lambda: Measurements(self.model, self.probes, self._reference, self.groups)
        )
        self._model_measured = self.model
        data = getattr(self, "_task_data", None)
        if data is not None:
            self._measurements.set_task(*data)

    def _open(self):
        if self.log_dir is None:
            return
        if self._rows is None:
            if (self.log_dir / METRICS).exists():
                raise ValueError(
                    f"`log_dir` must hold no records yet; {self.log_dir / METRICS} is there. "
                    f"Received: log_dir={str(self.log_dir)!r}"
                )
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._rows = RowWriter(self.log_dir)
        if self._events is None:
            info = {"intervention": "", "seed": None, "group": "", "hparams": {}}
            self._events = EventWriter(self.log_dir, info, (), self.descriptions, replace=False)

    def _record(self, step, done, epoch, slow, fast=True):
        """Measures and writes, unless this step is recorded or the budget is spent.

        Args:
            step: int, of the run.
            done: int, updates of the task that are done.
            epoch: int, of the task.
            slow: bool, whether expensive probes are due, or names of those that are.
            fast: bool, whether the others are.
        """
        if step <= self._recorded:
            return
        measurements = self._measurements
        assert measurements is not None
        due = list(measurements.expensive) if slow is True else list(slow or ())
        cheap, names = self._affordable(fast, due)
        if step > self._left_out:
            self.skipped += (fast and not cheap) + len(due) - len(names)
            self._left_out = step
        if not (cheap or names):
            return
        begun = time.perf_counter()
        values = measurements.record(names, cheap)
        row = {"kind": PROBE, "task": self._task, "step": step, "step_in_task": done}
        row |= {"epoch": epoch, "probes": finite(values)}
        if slow is True and self._histograms < _HISTOGRAMS and self._wants_histograms():
            row["histograms"] = {"preactivation": measurements.histograms()}
            self._histograms += 1
        seconds = time.perf_counter() - begun
        row |= {"seconds": round(seconds, 6), "wall_time": round(time.time(), 3)}
        self._recorded = step
        self.latest |= values
        if self._run is not None:
            self._run.write_probes(row)
        elif self._rows is not None:
            self._rows.append(row, sync=False)
            self._events.probe(row)
        self._spent += time.perf_counter() - begun
        for listener in self.listeners:
            listener(row)

    def _wants_histograms(self) -> bool:
        return any(getattr(p, "__name__", "").startswith("preactivation") for p in self.probes)

    def _affordable(self, cheap: bool, names: list[str]) -> tuple[bool, list[str]]:
        """What of that which is due fits into the budget, the longest unmeasured first."""
        if self.budget is None:
            return cheap, names
        measurements = self._measurements
        assert measurements is not None
        left = self.budget * (time.perf_counter() - self._begun) - self._spent
        if cheap:
            cost = measurements.seconds.get("cheap", 0.0)
            cheap = cost <= left
            left -= cost if cheap else 0
        chosen = []
        waiting = sorted(names, key=lambda name: self._measured_at.get(name, -1))
        for name in waiting:
            price = measurements.seconds.get(name, left)  # at first it is not known
            if left > 0 and price <= left:
                chosen.append(name)
                self._measured_at[name] = time.perf_counter()
                left -= price
        return cheap, chosen

    def _timed(self, function):
        begun = time.perf_counter()
        result = function()
        self._measured_at: dict[str, float] = {}
        self._spent += time.perf_counter() - begun
        return result

    def get_config(self) -> dict:
        return {
            "probes": [kp_probes.describe(p)["name"] for p in self.probes],
            "every": self.every,
            "slow_every": self.slow_every,
            "budget": self.budget,
            "examples": self.examples,
            "reference_data": self._reference is not None,
        }


def _mean(values: dict[str, float]) -> float:
    """Of layers; the value of the whole model where there is one."""
    if kp_probes.MODEL in values:
        return values[kp_probes.MODEL]
    return float(np.mean(list(values.values())))
