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
from keras_plasticity.probes.budget import Budget
from keras_plasticity.probes.examples import first_examples, task_examples
from keras_plasticity.probes.measurements import Measurements, finite, split
from keras_plasticity.units import UnitGroup
from keras_plasticity.writers import METRICS, PROBE, EventWriter, RowWriter

_LOG = logging.getLogger("keras_plasticity")
_CHEAP = "cheap"  # all probes that are not expensive, at once
_HISTOGRAMS = 200  # of a run at most
_FROZEN = 256  # frozen examples of a run: enough for shifts, and units have those of the task


class Monitor(keras.callbacks.Callback):
    """Measures mechanisms of plasticity loss while a model trains.

    Leave it on: the default probes cost about a pass over `examples` at each record, and
    nothing in between. Training is the same, bit for bit, with and without it.

    At the begin of a task after the first only what its examples are needed for is measured, if
    nothing has changed the weights since the end of the task before. The begin stands at the step
    of the first update, and takes its place: with `every=1` the record after it is left out.

    Each record holds the values of all probes by layer, on examples of the present task, and
    for probes that compare with an earlier time on examples that stay the same for the whole
    run. The beginning is the state of the network when training begins. Records go to

    - `metrics.jsonl`, as rows of the kind "probe"; the first names the layers' units and the
      kernels of the outputs,
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
            that must be called at epochs, a record of a run falls on the end of the call of
            the step that is under way.
        reference_data: the examples that stay the same, `(x, y)` or x or a `tf.data.Dataset`
            of batches, one of its own: reading it moves the order of a shuffled one on.
            Default: 256 of the first task.
        slow_every: when to measure the expensive probes, like `every`, besides at the begin
            and the end of the run: `"task"` at the end of each task and `fit`, `"run"` never in
            between. Default `"task"`.
        budget: float, share of the time since training began that may be spent on probing,
            tracing included: what would exceed it is left out, and said at the end; what was
            never measured is taken when nothing is owed. None for no limit. Default None.
        examples: int, of each set that are used at most. Default 1000: fewer do not tell rarely
            active units from dead ones.
        groups: `UnitGroup`s made by hand, for a model without a graph.

    Attributes:
        latest: dict, the newest value of each probe: `{"dead_fraction": {"dense_0": 0.1}}`.
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
        split(probes or ())  # fails early
        self.probes = tuple(kp_probes.DEFAULT if probes is None else probes)
        self._fast, self._slow = Schedule(every), Schedule(slow_every)
        self.every, self.slow_every, self.budget = self._fast.every, self._slow.every, budget
        self.examples, self.groups = examples, groups
        self._reference = (
            None if reference_data is None else first_examples(reference_data, examples)
        )
        self.listeners: list[typing.Callable[[dict], None]] = []
        self._run: typing.Any = None  # the run that it is part of
        self._rows: RowWriter | None = None
        self._events: EventWriter | None = None
        self._task_data: tuple | None = None
        self._reset()

    def _reset(self):
        """Forgets all records."""
        self.latest: dict[str, dict[str, float]] = {}
        self._measurements: Measurements | None = None
        self._watched: list[int] = []  # the weights that are trained
        self._budget = Budget(self.budget)
        self._task, self._task_start, self._step, self._epoch = 0, 0, 0, 0
        self._recorded = {"fast": -1, "slow": -1}  # steps
        self._histograms = 0

    @property
    def skipped(self) -> int:
        """Measurements that were left out so far to stay within `budget`."""
        return self._budget.skipped.total()

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
        self._reset()
        self._run = run
        self.set_model(model)
        count = min(self.examples, _FROZEN)
        self._measure(model, self._reference or task_examples(task, count))

    @property
    def in_run(self) -> bool:
        """Whether it is part of an `experiment.run`."""
        return self._run is not None

    def leave(self) -> None:
        """Ends being part of a run."""
        if self._budget.skipped:
            _LOG.warning("Monitor: %s", self._budget.summary())
        self._run = self._measurements = None

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

    def begin_task(self, task, step: int, done: int, same_weights: bool) -> None:
        """Takes the examples of a task; records if none of its `done` updates is done.

        Args:
            task: `Task`.
            step: int, updates of the run before this task.
            done: int, updates of this task that are done.
            same_weights: bool, whether nothing has changed them since the task before.
        """
        self._task, self._task_start = task.index, step
        assert self._measurements is not None
        self._measurements.set_task(*task_examples(task, self.examples))
        self._seen = done
        if done == 0:
            first = step == 0
            self._record(step + 1, 0, 0, first, same_weights=same_weights and not first)

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
        self._epoch = 0
        if data is not None:
            self._task_data = first_examples(data, self.examples)
            if self._measurements is not None:
                self._measurements.set_task(*self._task_data)

    def on_train_begin(self, logs=None):
        if self._run is not None:
            return
        watched = [id(v) for v in self.model.trainable_variables]
        if self._measurements is None or watched != self._watched:  # another model, or unfrozen
            self._start()
        self._open()
        self._fit_start, self._epoch_start = self._step, self._step
        if self._events is not None:
            self._events.task_begin(self._task, time.time())
        first = self._recorded["slow"] < 0
        self._record(self._step + 1, self._step - self._task_start, self._epoch, first)

    def on_train_batch_end(self, batch, logs=None):
        if self._run is not None:
            return
        done = min(batch + 1, self.params.get("steps") or batch + 1)  # not beyond the epoch's end
        before, self._step = self._step, self._epoch_start + done
        since = max(self._task_start, self._fit_start)
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
        if epoch + 1 == self.params.get("epochs"):  # `on_train_end` comes after the logs
            fast = slow = True
        if fast or slow:
            self._record(self._step, self._step - self._task_start, self._epoch, slow, fast)
        self._epoch += 1
        if logs is not None:
            names = (self._measurements.descriptions if self._measurements else {}) | self.latest
            logs.update({name: _mean(self.latest.get(name, {})) for name in names})

    def on_train_end(self, logs=None):
        if self._run is not None:
            return
        epoch = max(self._epoch - 1, 0)
        self._record(self._step, self._step - self._task_start, epoch, True)
        if self._events is not None:
            self._events.task_end(self._task, self._step, epoch, time.time())
        if self._budget.skipped:
            _LOG.warning("Monitor: %s", self._budget.summary())

    # What

    def _start(self):
        if self._reference is None:
            raise ValueError(
                "`Monitor` needs examples to probe with outside `experiment.run`: pass "
                "`reference_data=(x, y)`. Received: reference_data=None"
            )
        self._measure(self.model, self._reference)
        if self._task_data is not None:
            self._measurements.set_task(*self._task_data)

    def _measure(self, model, reference):
        begun = time.perf_counter()
        asked = self.probes not in (kp_probes.DEFAULT, kp_probes.ALL)
        self._measurements = Measurements(model, self.probes, reference, self.groups, asked)
        self._watched = [id(v) for v in model.trainable_variables]
        self._budget.spent += time.perf_counter() - begun

    def _open(self):
        if self.log_dir is None:
            return
        if self._rows is None:
            if (self.log_dir / METRICS).exists():
                raise ValueError(
                    "`log_dir` must hold no records yet: delete them or name another directory; "
                    f"{self.log_dir / METRICS} is there. "
                    f"Received: log_dir={str(self.log_dir)!r}"
                )
            self.log_dir.mkdir(parents=True, exist_ok=True)
            self._rows = RowWriter(self.log_dir)
        if self._events is None:
            info = {"intervention": "", "seed": None, "group": "", "hparams": {}}
            self._events = EventWriter(self.log_dir, info, (), self.descriptions, replace=False)

    def _record(self, step, done, epoch, slow, fast=True, same_weights=False):
        """Measures and writes what is not recorded at this step and fits into the budget.

        Args:
            step: int, of the run.
            done: int, updates of the task that are done.
            epoch: int, of the task.
            slow: bool, whether expensive probes are due.
            fast: bool, whether the others are.
            same_weights: bool, whether the weights are those of the record before.
        """
        fast, slow = fast and step > self._recorded["fast"], slow and step > self._recorded["slow"]
        if not (fast or slow):
            return
        measurements = self._measurements
        assert measurements is not None
        due = ([_CHEAP] if fast else []) + (list(measurements.expensive) if slow else [])
        chosen = self._budget.choose(due, measurements.seconds)
        if fast and self._recorded["fast"] < 0 and _CHEAP not in chosen:
            chosen.append(_CHEAP)  # the beginning is always recorded
        self._budget.skipped.update(name for name in due if name not in chosen)
        self._recorded |= {kind: step for kind, it in (("fast", fast), ("slow", slow)) if it}
        if not chosen:
            return
        begun = time.perf_counter()
        names = [name for name in chosen if name != _CHEAP]
        values = measurements.record(names, _CHEAP in chosen, same_weights)
        row = {"kind": PROBE, "task": self._task, "step": step, "step_in_task": done}
        row |= {"epoch": epoch, "probes": finite(values)}
        if step == 1:
            row["layers"] = measurements.layers
        if slow and self._histograms < _HISTOGRAMS and self._wants_histograms():
            row["histograms"] = {"preactivation": measurements.histograms()}
            self._histograms += 1
        seconds = time.perf_counter() - begun
        row |= {"seconds": round(seconds, 6), "wall_time": round(time.time(), 3)}
        self.latest |= values
        if self._run is not None:
            self._run.write_probes(row)
        elif self._rows is not None:
            self._rows.append(row, sync=False)
            self._events.probe(row)
        self._budget.spent += time.perf_counter() - begun
        for listener in self.listeners:
            listener(row)

    def _wants_histograms(self) -> bool:
        return any(getattr(p, "__name__", "").startswith("preactivation") for p in self.probes)

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
    """Of layers; the value of the whole model where there is one; NaN of none."""
    if not values:
        return float("nan")
    if kp_probes.MODEL in values:
        return values[kp_probes.MODEL]
    return float(np.mean(list(values.values())))
