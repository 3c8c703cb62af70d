"""Finds run directories and reads what they hold."""

from __future__ import annotations

import collections.abc
import glob
import json
import os
import pathlib
import typing

from keras_plasticity.run_directory import RUN as RUN_FILE
from keras_plasticity.writers import METRICS as ROWS_FILE
from keras_plasticity.writers import PROBE

PathLike = str | os.PathLike[str]
RUN_KEYS = ("benchmark", "method", "seed", "uses_task_boundaries")


def run_directories(*paths: PathLike) -> list[pathlib.Path]:
    """Lists the run directories under `paths` (see `load`), with or without rows."""
    found: dict[pathlib.Path, pathlib.Path] = {}
    for path in paths:
        text = os.fspath(path)
        matches = [text] if os.path.exists(text) else glob.glob(text, recursive=True)
        files: list[pathlib.Path] = []
        for match in map(pathlib.Path, matches):
            files += match.rglob(ROWS_FILE) if match.is_dir() else [match]
        files = [file for file in files if file.name == ROWS_FILE]
        if not files:
            rule = f"a directory with {ROWS_FILE}, a root above such, or a glob pattern"
            raise paths_error(rule, f"paths={text!r}")
        for file in files:
            found.setdefault(file.parent.resolve(), file.parent)
    return sorted(found.values())


def paths_error(rule: str, received: str) -> ValueError:
    """Returns the error of paths that do not lead to what they must."""
    return ValueError(f"Argument `paths` must lead to {rule}. Received: {received}")


def read_run(path: pathlib.Path) -> dict[str, typing.Any]:
    """Reads what was run from a `run.json`."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        values = {key: description[key] for key in RUN_KEYS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        rule = f"runs whose {RUN_FILE} has the keys {RUN_KEYS}"
        raise paths_error(rule, f"{path} ({type(error).__name__}: {error})") from error
    values["uses_task_boundaries"] = bool(values["uses_task_boundaries"])
    values |= {key: description.get(key) for key in ("num_tasks", "stream")}
    return {"run": path.parent.as_posix(), **values}


def read_rows(path: pathlib.Path) -> list[dict[str, typing.Any]]:
    """Reads the rows of tasks in a `metrics.jsonl`, without a last line that was cut off."""
    rows: dict[int, dict[str, typing.Any]] = {}
    for number, row in _lines(path):
        if "kind" in row:
            continue
        if row["task"] in rows:
            rule = f"runs whose {ROWS_FILE} has each task once"
            raise paths_error(rule, f"task {row['task']} again in line {number} of {path}")
        rows[row["task"]] = row
    return list(rows.values())


def read_probes(path: pathlib.Path) -> list[dict[str, typing.Any]]:
    """Reads the records of a `Monitor` in a `metrics.jsonl`, in the order of steps."""
    return [row for _, row in _lines(path) if row.get("kind") == PROBE]


def _lines(path: pathlib.Path) -> collections.abc.Iterator[tuple[int, dict[str, typing.Any]]]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            row["task"]
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # No newline follows: the run was killed here.
                return
            rule = f"runs whose {ROWS_FILE} has one JSON object with the key 'task' per line"
            raise paths_error(rule, f"line {number} of {path}: {line[:80]!r}") from error
        yield number, row
