"""What a run directory says of its run, and whether a run may go on in it."""

from __future__ import annotations

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
    run_dir = pathlib.Path(path)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for leftover in run_dir.glob("*.partial"):
            leftover.unlink()
        write_whole(run_dir / ".writable", b"")
        (run_dir / ".writable").unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"`run_dir` must be a directory that can be written to. Received: run_dir={path} "
            f"({error.strerror or error})"
        ) from error
    return run_dir


def check_config(run_dir: pathlib.Path, config: dict) -> None:
    """Writes the configuration of a new run, compares that of one that goes on.

    Raises:
        RunDirectoryError: the directory holds a run of another configuration, or files
            of something else; the first difference is named.
    """
    path = run_dir / CONFIG
    config = json.loads(json.dumps(config, default=str))
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


def write_run(run_dir: pathlib.Path, run: dict) -> None:
    """Writes `run.json`: names, seeds, versions and git commit of the run."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    path = run_dir / RUN
    if path.exists():
        before = json.loads(path.read_text()).get("versions", {})
        difference = first_difference(before, versions)
        if difference:
            print(
                f"{run_dir}: {difference[0]} was {difference[1]} when the run began and is "
                f"{difference[2]} now; results may differ in the last digits."
            )
    record = {**run, "versions": versions, "git_commit": _git_commit()}
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
