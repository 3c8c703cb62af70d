"""Where a run stands, and the training on one of its tasks."""

from __future__ import annotations

import collections
import math
import pathlib
import time
import typing
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity import checkpoint
from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.callbacks.monitor import Monitor
from keras_plasticity.evaluation import Evaluation, Evaluator
from keras_plasticity.hooks import FusedSteps, InGraphCallback, StepHooks
from keras_plasticity.progress import Progress
from keras_plasticity.streams import Stream, Task
from keras_plasticity.writers import METRICS, EventWriter, RowWriter

_EPOCH = ("on_epoch_begin", "on_epoch_end")
_BATCH = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite."""


class Training:
    """Where a run stands: what `experiment.run` trains, saves and restores.

    Args:
        stream: `Stream`, the tasks.
        model: compiled and built `keras.Model`.
        callbacks: Keras callbacks.
        loss: loss without penalties, for the evaluation.
        size: int, optimizer updates per call.
        run_dir: directory of the run.

    Attributes:
        task_index: int, the task that is under way.
        step: int, optimizer updates done in this task.
        first_step: int, optimizer updates done before this task.
        finished: bool, whether every task is done, or an alarm has ended the run.
    """

    def __init__(
        self,
        stream: Stream,
        model: keras.Model,
        callbacks: typing.Sequence[keras.callbacks.Callback],
        loss,
        size: int,
        run_dir: pathlib.Path,
    ):
        self.stream, self.model, self.callbacks = stream, model, list(callbacks)
        self.run_dir = run_dir
        self.by_batch = any(_overrides(callback, _BATCH) for callback in callbacks)
        self.by_epoch = self.by_batch or any(_overrides(callback, _EPOCH) for callback in callbacks)
        self.size = 1 if self.by_batch else size
        if self.by_epoch and size > 1:
            names, unit = (_BATCH, "batch") if self.by_batch else (_EPOCH, "epoch")
            found = sorted({type(c).__name__ for c in callbacks if _overrides(c, names)})
            warnings.warn(
                f"{', '.join(found)} must be called at every {unit}, so fused steps end there. "
                "This costs 1-3 ms per batch or about 20 ms per epoch; "
                "an InGraphCallback has no such cost.",
                stacklevel=3,
            )
        self.classes = stream.num_classes is not None
        self.evaluate = Evaluator(
            model, loss, stream[0].scale, self.classes, jit_compile=bool(model.jit_compile)
        )
        self.task_index = self.first_step = self.step = 0
        self.finished = False
        self._fused: FusedSteps | None = None
        self._logs: list[dict[str, np.ndarray]] = []  # of the task's updates so far, by call
        self._seconds = 0.0  # spent on the task before this process
        self._test: tuple = (None, None)
        self.monitors = [c for c in callbacks if isinstance(c, Monitor)]
        self._told = any(_uses_tasks(c) for c in callbacks)  # and may change weights between
        self.events: EventWriter | None = None
        if len(self.monitors) > 1:
            raise ValueError(
                "A run has one `Monitor`: give it the probes of all. "
                f"Received: {len(self.monitors)} of them"
            )
        for monitor in self.monitors:
            monitor.join(self, model, stream[0])

    @property
    def rows(self) -> list[dict]:
        """The rows of tasks written so far."""
        return [row for row in self.records if "kind" not in row]

    @property
    def records(self) -> list[dict]:
        """All rows written so far, those of monitors too."""
        return self._writer.rows

    @property
    def last_task(self) -> int:
        """Index of the last task."""
        return len(self.stream) - 1

    def write_probes(self, row: dict) -> None:
        """Writes a record of a monitor."""
        self._writer.append(row, sync=False)
        if self.events is not None:
            self.events.probe(row)

    def train(self, task: Task, display: Progress) -> dict:
        """Trains on a task, from where the run stands, and returns its row."""
        begun = time.time() - self._seconds
        data = task.arrays()
        if self._fused is None:
            self._fused = FusedSteps(data.x, data.y, task.scale)
        fused = self._fused
        fused.assign(data.x, data.y)
        if self.step == 0:
            self._announce("on_task_begin", task)
        for monitor in self.monitors:
            monitor.begin_task(task, self.first_step, self.step, not self._told)
        per_epoch = task.steps_per_epoch
        if self.by_epoch:  # an epoch is a fixed number of blocks
            stops = set(range(0, task.steps, per_epoch))
        else:
            stops = set().union(*(monitor.stops(task) for monitor in self.monitors))
        blocks = FusedSteps.blocks(
            task.order(),
            self.size,
            task=task.index,
            start=self.step,
            epoch_steps=per_epoch,
            cut=stops,
        )
        recorder = _Recorder(self, task, fused, display, begun)
        arguments: dict = {"epochs": 1}
        if self.by_epoch:
            arguments = {"epochs": task.epochs, "initial_epoch": self.step // per_epoch}
            arguments["steps_per_epoch"] = -(-per_epoch // self.size)
        callbacks = [fused, *self.callbacks, recorder]
        self.model.fit(blocks, shuffle=False, verbose=0, callbacks=callbacks, **arguments)
        row = self._row(task, fused, begun)
        self._announce("on_task_end", task)
        return row

    def _row(self, task: Task, fused: FusedSteps, begun: float) -> dict:
        data = task.arrays()
        logs = _joined(self._logs)
        losses = logs.get("task_loss", logs["loss"])
        hits = logs.get("accuracy") if self.classes else None
        first = slice(task.steps_per_epoch)
        train = self.evaluate(fused.x, fused.y, data.index)
        if train.loss is None or not math.isfinite(train.loss):
            raise NonFiniteLossError(
                f"The training loss is {train.loss} at the end of task {task.index}."
            )
        test = Evaluation()
        if data.x_test is not None and data.test_labels_meaningful:
            if self._test[0] is not data.x_test:
                self._test = (data.x_test, tf.constant(data.x_test))
            test = self.evaluate(self._test[1], data.y_test, data.test_index)
            if test.loss is None or not math.isfinite(test.loss):
                test = Evaluation(None, test.accuracy)
        resets = [c.report() for c in self.callbacks if hasattr(c, "report")]
        row: dict = {
            "task": task.index,
            "name": task.name,
            "step": self.first_step + self.step,
            "epochs": -(-self.step // task.steps_per_epoch),
            "first_presentation_accuracy": _mean(hits, first),
            "online_accuracy": _mean(hits),
            "train_accuracy": train.accuracy,
            "test_accuracy": test.accuracy,
            "first_presentation_loss": _mean(losses, first),
            "online_loss": _mean(losses),
            "train_loss": train.loss,
            "test_loss": test.loss,
            "seconds": round(time.time() - begun, 3),
            "wall_time": round(time.time(), 3),
        }
        if not self.classes:
            errors = logs.get("squared_error")
            row["first_presentation_squared_error"] = _mean(errors, first)
            row["online_squared_error"] = _mean(errors)
            row["train_squared_error"] = train.squared_error
            row["test_squared_error"] = test.squared_error
        if resets:
            counts: collections.Counter = collections.Counter()
            for part in resets:  # two callbacks of a kind are added up
                counts.update(part)
            row["resets"] = dict(counts)
        return row

    def finish(self, row: dict, last: bool = False) -> None:
        """Writes a task's row and moves on to the next task.

        Args:
            row: dict, the task's row.
            last: bool, whether the run ends here though tasks are left. Default False.
        """
        self._writer.append(row)
        self.task_index, self.first_step = self.task_index + 1, row["step"]
        self.step, self._seconds, self._logs = 0, 0.0, []
        self.finished = last or self.task_index == len(self.stream)
        if self.finished:
            self._save()
        else:
            self.save_if_due()

    def earlier_accuracy(self) -> list[float | None] | None:
        """Accuracy on the tasks up to the present one, in order."""
        if not self.classes:
            return None
        values = []
        for index in range(self.task_index + 1):
            data = self.stream[index].arrays()
            if data.x_test is not None and data.test_labels_meaningful:
                values.append(self.evaluate(data.x_test, data.y_test, data.test_index).accuracy)
            else:
                values.append(self.evaluate(data.x, data.y, data.index).accuracy)
        return values

    def restore(self, checkpoint_seconds: float) -> None:
        """Goes back to the newest checkpoint, or to the start.

        Args:
            checkpoint_seconds: float, seconds between the checkpoints from now on.
        """
        self._checkpoint_seconds, self._saved = checkpoint_seconds, time.monotonic()
        loaded = checkpoint.load(self.run_dir)
        if loaded is None:
            rows = self.run_dir / METRICS
            if rows.exists() and rows.stat().st_size:
                raise checkpoint.CheckpointError(
                    f"{rows} holds rows without a checkpoint beside it. Put the checkpoint back, "
                    "or choose another run directory."
                )
            self._writer = RowWriter(self.run_dir)
            self._save()  # from now on rows without a checkpoint mean damage
            return
        arrays, progress = loaded
        logs = {key: arrays.pop(key) for key in list(arrays) if key.startswith("logs/")}
        self._logs = [{key.removeprefix("logs/"): logs[key] for key in logs}] if logs else []
        checkpoint.restore(self._owners(), arrays)
        self.task_index, self.step = progress["task"], progress["step"]
        self.first_step, self._seconds = progress["first_step"], progress["seconds"]
        self.finished = progress["finished"]
        self._writer = RowWriter(self.run_dir, progress["rows"])

    def record(self, logs: dict[str, np.ndarray]) -> None:
        """Takes the logs of one call."""
        self._logs.append(logs)
        self.step += len(logs["loss"])

    def save_if_due(self, seconds: float = 0.0) -> None:
        """Writes a checkpoint if the last one is old enough.

        Args:
            seconds: float, spent on the task that is under way.
        """
        if time.monotonic() - self._saved >= self._checkpoint_seconds:
            self._save(seconds)

    def _save(self, seconds: float = 0.0) -> None:
        progress = {
            "task": self.task_index,
            "step": self.step,
            "first_step": self.first_step,
            "rows": len(self.records),
            "seconds": seconds,
            "finished": self.finished,
        }
        self._writer.sync()
        arrays = checkpoint.collect(self._owners())
        arrays |= {f"logs/{name}": values for name, values in _joined(self._logs).items()}
        checkpoint.save(self.run_dir, arrays, progress)
        self._saved = time.monotonic()

    def _owners(self) -> dict[str, list]:
        owners = {"model": self.model.variables, "optimizer": self.model.optimizer.variables}
        for i, callback in enumerate(self.callbacks):
            if isinstance(callback, InGraphCallback):
                StepHooks.of(self.model).build(callback)
            owners[f"callback_{i}"] = list(getattr(callback, "variables", ()))
        return owners

    def _announce(self, name: str, task: Task) -> None:
        for callback in self.callbacks:
            if hasattr(callback, name):
                getattr(callback, name)(task, self.model)


class _Recorder(keras.callbacks.Callback):
    """Hands the logs of every call to the run, saves it, and shows how far it is."""

    def __init__(self, training: Training, task: Task, fused: FusedSteps, display, begun: float):
        super().__init__()
        self.training, self.task, self.fused = training, task, fused
        self.display, self.begun = display, begun

    def on_train_batch_end(self, batch, logs=None):
        training, task = self.training, self.task
        new = self.fused.step_logs
        bad = np.flatnonzero(~np.isfinite(new["loss"]))
        if bad.size:
            step = training.step + int(bad[0])
            raise NonFiniteLossError(
                f"The loss became {new['loss'][bad[0]]} in task {task.index} ({task.name}) at "
                f"update {step} of {task.steps}, update {training.first_step + step} of the run. "
                "The rows so far are kept."
            )
        training.record(new)
        for monitor in training.monitors:
            monitor.after_updates(task, training.step)
        if not training.by_epoch:
            self._save_within_task()
        note = f"online accuracy {new['accuracy'].mean():.3f}" if training.classes else ""
        self.display.update(task.index + training.step / task.steps, note)

    def on_epoch_end(self, epoch, logs=None):
        if self.training.by_epoch:  # after the callbacks of the user
            self._save_within_task()

    def _save_within_task(self):
        if self.training.step < self.task.steps:  # at its end, after `fit` has returned
            self.training.save_if_due(time.time() - self.begun)


def _uses_tasks(callback) -> bool:
    return getattr(callback, "uses_task_boundaries", hasattr(callback, "on_task_begin"))


def _overrides(callback, names) -> bool:
    """Whether it has methods that Keras must call at every epoch or batch.

    Those of `Intervention` and `Monitor` are for plain `fit`; here they see epochs otherwise.
    """
    known = keras.callbacks.Callback, Intervention, Monitor
    return any(
        getattr(getattr(callback, name), "__func__", None) not in [getattr(k, name) for k in known]
        for name in names
    )


def _joined(logs: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in logs]) for name in logs[0]} if logs else {}


def _mean(values: np.ndarray | None, part: slice = slice(None)) -> float | None:
    return None if values is None else float(np.mean(values[part], dtype=np.float64))
