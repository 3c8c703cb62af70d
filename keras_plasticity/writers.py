"""Rows as JSON lines, and TensorBoard event files."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import time
import typing

import numpy as np

METRICS = "metrics.jsonl"
PROBE = "probe"  # kind of the rows of a `Monitor`; rows of tasks have none
PLUGIN_NAME = "plasticity"  # of the TensorBoard tab that reads the tensors


class RowWriter:
    """Appends rows to `metrics.jsonl`, each whole or not at all.

    Args:
        run_dir: directory of the run.
        keep: int, rows to keep of those that are there; later ones are cut off.
    """

    def __init__(self, run_dir: pathlib.Path, keep: int = 0):
        self.path = run_dir / METRICS
        self.rows: list[dict] = []
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if len(lines) < keep:
            raise ValueError(
                f"{self.path} must hold the {keep} rows that the checkpoint was written after. "
                f"Received: {len(lines)} rows"
            )
        self.rows = [json.loads(line) for line in lines[:keep]]
        with open(self.path, "ab") as file:
            file.truncate(sum(map(len, lines[:keep])))

    def append(self, row: dict, sync: bool = True) -> None:
        """Writes one row.

        Args:
            row: what is written as one JSON object, without NaN and infinity.
            sync: bool, whether to write through to the disk, and not only to the system, which
                a killed process survives as well. Default True.

        Raises:
            OSError: the row could not be written; the rows before it are whole.
        """
        size = self.path.stat().st_size
        try:
            with open(self.path, "ab") as file:
                file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError:
            os.truncate(self.path, size)
            raise
        self.rows.append(row)

    def sync(self) -> None:
        """Writes all rows through to the disk."""
        with open(self.path, "ab") as file:
            os.fsync(file.fileno())


class EventWriter:
    """Writes what a run shows in TensorBoard, as a function of its rows.

    Per finished task: every metric of the row as a scalar, and the tensors that the
    Plasticity tab reads (`plasticity/task` at the task's first and last step,
    `plasticity/task_metric/<name>` at its last). Per record of a `Monitor`: one tensor for
    each probe, `plasticity/<probe>`, with a value per layer, and histograms. Since everything
    follows from the rows, a resumed run writes one new file from its rows and removes the older
    ones: no step stands twice and steps rise strictly.

    Args:
        run_dir: directory of the run.
        info: dict, written once at step 0 as `plasticity/run_info`.
        rows: list of the rows that the run has written already.
        probes: dict from the name of a probe to its `probes.describe`.
        replace: bool, whether event files that are there are of this run and removed.
            Default True.
    """

    def __init__(
        self,
        run_dir: pathlib.Path,
        info: dict,
        rows: typing.Sequence[dict] = (),
        probes: typing.Mapping[str, dict] | None = None,
        replace: bool = True,
    ):
        import tensorflow as tf

        self._tf, self._probes = tf, dict(probes or {})
        self._task: int | None = None
        self._task_start = 0
        self._seen: set[str] = set()
        self._records = 0
        self._step = 0
        old = list(run_dir.glob("events.out.tfevents.*"))
        stamp = max([int(time.time())] + [_stamp(path) + 1 for path in old])
        path = run_dir / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = tf.io.TFRecordWriter(str(path))
        self._write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._tensor("run_info", json.dumps({"v": 1, **info}), 0, time.time(), kind="info")
        for row in rows:
            if row.get("kind") == PROBE:
                self.task_begin(row["task"], row["wall_time"])
                self.probe(row)
            else:
                self.task_begin(row["task"], row["wall_time"] - row["seconds"])
                self.row(row)
        self._file.flush()
        for path in old if replace else ():
            path.unlink()

    def task_begin(self, task: int, wall_time: float) -> None:
        """Marks the first optimizer update of a task, if it is not marked."""
        if task == self._task:
            return
        self._task, self._task_start = task, self._step
        self._records += 1
        self._tensor("task", [task, 0, 0, self._records], self._step + 1, wall_time)
        self._file.flush()

    def task_end(self, task: int, step: int, epoch: int, wall_time: float) -> None:
        """Marks the last optimizer update of a task so far."""
        self._records += 1
        done = [task, step - self._task_start - 1, epoch, self._records]
        self._tensor("task", done, step, wall_time)
        self._step = step
        self._file.flush()

    def probe(self, row: dict) -> None:
        """Writes a record of a `Monitor`."""
        step, wall_time = row["step"], row["wall_time"]
        self._records += 1
        for name, values in row["probes"].items():
            content = {"layers": list(values)} | _content(self._probes.get(name.split("/")[-1]))
            data = [np.nan if value is None else value for value in values.values()]
            self._tensor(name, data, step, wall_time, **content)
        for name, layers in row.get("histograms", {}).items():
            content = {"layers": list(layers), "axes": ["layer", "bin", "edge"]}
            bins = np.asarray(list(layers.values()), np.float32)
            self._tensor(f"hist/{name}", bins, step, wall_time, "hist", **content)
        self._file.flush()

    def row(self, row: dict) -> None:
        """Writes a finished task."""
        step, wall_time = row["step"], row["wall_time"]
        self.task_end(row["task"], step, row["epochs"] - 1, wall_time)
        for name in ("accuracy", "loss"):
            end, start = row[f"train_{name}"], row[f"first_presentation_{name}"]
            if end is not None and start is not None:
                self._tensor(f"task_metric/{name}", [end, start], step, wall_time)
        if row.get("earlier_accuracy") is not None:
            self._tensor("accuracy_matrix", row["earlier_accuracy"], step, wall_time, "matrix")
        for name, value in row.items():
            if name.endswith(("accuracy", "loss", "error")) and isinstance(value, float):
                self._scalar(name, value, step, wall_time)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _tensor(self, tag, value, step, wall_time, kind="series", **given):
        layers = {"task": ["task", "step_in_task", "epoch", "records"]}.get(tag)
        if tag.startswith("task_metric/"):
            layers = ["at_end", "at_start"]
        content = {"v": 1, "kind": kind, "probe": tag, "axes": ["layer"]}
        content |= ({"layers": layers} if layers else {}) | given
        data = value if isinstance(value, str) else np.asarray(value, np.float32)
        self._add(f"{PLUGIN_NAME}/{tag}", data, step, wall_time, PLUGIN_NAME, content)

    def _scalar(self, tag, value, step, wall_time):
        self._add(tag, np.float32(value), step, wall_time, "scalars", None)

    def _add(self, tag, data, step, wall_time, plugin, content):
        v1 = self._tf.compat.v1
        metadata = v1.SummaryMetadata(plugin_data={"plugin_name": plugin})
        metadata.data_class = 1 if plugin == "scalars" else 2  # scalar, tensor
        if content is not None and tag not in self._seen:
            metadata.plugin_data.content = json.dumps(content, default=str).encode()
        self._seen.add(tag)
        value = v1.Summary.Value(
            tag=tag, metadata=metadata, tensor=self._tf.make_tensor_proto(data)
        )
        summary = v1.Summary(value=[value])
        self._write(v1.Event(wall_time=wall_time, step=step, summary=summary))

    def _write(self, event):
        self._file.write(event.SerializeToString())


def _content(description: dict | None) -> dict:
    """What the Plasticity tab is told of a probe."""
    known = description or {}
    return {key: known[key] for key in ("unit", "better", "params") if key in known}


def _stamp(path: pathlib.Path) -> int:
    part = path.name.split(".")[3]
    return int(part) if part.isdigit() else 0
