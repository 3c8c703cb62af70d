"""What a run directory says of its run, and whether a run may go on in it."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import typing

from keras_plasticity.checkpoint import write_whole

CONFIG, RUN, GIN = "config.json", "run.json", "operative_config.gin"
_ABSENT = "(absent)"
_PACKAGES = ("keras-plasticity", "tensorflow", "tensorflow-cpu", "keras", "numpy")


class RunDirectoryError(ValueError):
    """A run may not be written where it was asked to."""


def prepare(path: os.PathLike | str) -> pathlib.Path:
    """Makes the directory and checks that it can be written to."""
    directory = pathlib.Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / ".writable", b"")
        (directory / ".writable").unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"`run_dir` must be a directory that can be written to. Received: run_dir={path} "
            f"({error.strerror or error})"
        ) from error
    return directory


@contextlib.contextmanager
def locked(run_dir: pathlib.Path):
    """Keeps other processes out of a run directory; the lock ends with the process.

    Raises:
        RunDirectoryError: another process has a run in it.
    """
    with open(run_dir / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunDirectoryError(
                f"Another process has a run in {run_dir}. Wait for it, stop it, or choose "
                "another run directory."
            ) from error
        for leftover in run_dir.glob("*.partial"):
            leftover.unlink()
        yield


def check_config(run_dir: pathlib.Path, config: dict) -> None:
    """Writes the configuration of a new run, compares that of one that goes on.

    Raises:
        RunDirectoryError: the directory holds a run of another configuration, or files
            of something else; the first difference is named.
    """
    path = run_dir / CONFIG
    config = json.loads(json.dumps(config, default=lambda thing: type(thing).__qualname__))
    if path.exists():
        difference = first_difference(json.loads(path.read_text()), config)
        if difference:
            name, there, here = difference
            raise RunDirectoryError(
                f"{run_dir} holds a run of another configuration: {name} is {there} there and "
                f"{here} here. Choose another run directory."
            )
    elif any(run_dir.glob("*.npz")) or (run_dir / "metrics.jsonl").exists():
        raise RunDirectoryError(
            f"{run_dir} holds results without their {CONFIG}. Choose another run directory."
        )
    else:
        write_whole(path, json.dumps(config, indent=1).encode())


def write_run(run_dir: pathlib.Path, labels: dict, facts: dict) -> None:
    """Writes `run.json` once; when a run goes on, adds where and with what it did.

    Args:
        run_dir: directory of the run.
        labels: names and seed, which may not change when a run goes on.
        facts: what else is known of the run.

    Raises:
        RunDirectoryError: the directory holds a run of other labels.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    begun = {"versions": versions, "git_commit": _git_commit()}
    path = run_dir / RUN
    record = {**labels, **facts, **begun, "resumed": []}
    if path.exists():
        record = json.loads(path.read_text())
        if found := first_difference({key: record.get(key) for key in labels}, labels):
            raise RunDirectoryError(
                f"{run_dir} holds another run: {found[0]} is {found[1]!r} there and "
                f"{found[2]!r} here. Choose another run directory."
            )
        if found := first_difference(record["versions"], versions):
            print(
                f"{run_dir}: {found[0]} was {found[1]} when the run began and is {found[2]} "
                "now; results may differ in the last digits."
            )
        record["resumed"].append(begun)
    write_whole(path, json.dumps(record, indent=1).encode())


def first_difference(there, here, name: str = "") -> tuple[str, typing.Any, typing.Any] | None:
    """Returns (dotted name, value there, value here) of the first difference."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(k for k in here if k not in there)]:
            found = first_difference(
                there.get(key, _ABSENT), here.get(key, _ABSENT), f"{name}.{key}".lstrip(".")
            )
            if found:
                return found
        return None
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for i, (a, b) in enumerate(zip(there, here, strict=True)):
            if found := first_difference(a, b, f"{name}[{i}]"):
                return found
        return None
    return None if there == here else (name, there, here)


def _git_commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
