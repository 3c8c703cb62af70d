"""Exact resume: one file that holds every variable and how far the run has come."""

from __future__ import annotations

import io
import json
import os
import pathlib
import re
import zipfile

import numpy as np

NAME = "checkpoint.npz"
PREVIOUS = "checkpoint.previous.npz"
_PROGRESS = "progress.json"
_NUMBER = re.compile(r"_\d+(?=[_/]|$)")


class CheckpointError(RuntimeError):
    """No checkpoint of a run can be used."""


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Writes a file whole or not at all: a temporary file, then a rename."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def collect(owners: dict[str, list]) -> dict[str, np.ndarray]:
    """Returns `{"owner/path": value}` of all variables.

    Args:
        owners: name of the owner to its list of `keras.Variable`s.
    """
    return {key: _array(variable) for key, variable in _keys(owners)}


def restore(owners: dict[str, list], arrays: dict[str, np.ndarray]) -> None:
    """Assigns arrays to the variables of the same owner and path.

    Raises:
        CheckpointError: a variable is missing, too many or of another shape; nothing
            is assigned then.
    """
    variables = dict(_keys(owners))
    if missing := sorted(variables.keys() - arrays.keys()):
        raise CheckpointError(f"The checkpoint lacks the variable {missing[0]!r}.")
    if extra := sorted(arrays.keys() - variables.keys()):
        raise CheckpointError(f"The checkpoint has a variable {extra[0]!r} that the run lacks.")
    for key, variable in variables.items():
        if tuple(variable.shape) != arrays[key].shape:
            raise CheckpointError(
                f"The variable {key!r} has the shape {tuple(variable.shape)} in the run and "
                f"{arrays[key].shape} in the checkpoint."
            )
    for key, variable in variables.items():
        variable.assign(arrays[key])


def save(run_dir: pathlib.Path, arrays: dict[str, np.ndarray], progress: dict) -> None:
    """Writes the checkpoint, keeping the one before it.

    Args:
        run_dir: directory of the run.
        arrays: what `collect` returned, and further arrays.
        progress: JSON-able dict, how far the run has come.

    Raises:
        OSError: the file could not be written; both older files are as they were.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(_PROGRESS, json.dumps(progress))
        for i, array in enumerate(arrays.values()):
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(f"{i:05d}.npy", member.getvalue())
        archive.writestr("keys.json", json.dumps(list(arrays)))
    path, newest = run_dir / NAME, run_dir / f"{NAME}.new"
    write_whole(newest, buffer.getvalue())
    if path.exists():
        os.replace(path, run_dir / PREVIOUS)
    os.replace(newest, path)


def load(run_dir: pathlib.Path) -> tuple[dict[str, np.ndarray], dict] | None:
    """Returns (arrays, progress) of the newest whole checkpoint, None if there is none.

    A damaged file is passed over, with a line on the terminal that says so.

    Raises:
        CheckpointError: there are checkpoints, and none of them is whole.
    """
    damaged = []
    for name in (f"{NAME}.new", NAME, PREVIOUS):
        path = run_dir / name
        try:
            state = _read(path)
        except FileNotFoundError:
            continue
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
            damaged.append(f"{path} ({error})")
            continue
        for line in damaged:
            print(f"Passed over a damaged checkpoint: {line}. Going on from {path}.")
        return state
    if damaged:
        raise CheckpointError(
            f"No checkpoint is whole: {'; '.join(damaged)}. Delete the run directory to start "
            "the run anew, or put a good copy of the file there."
        )
    return None


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    with zipfile.ZipFile(path) as archive:  # checks the CRC of each member it reads
        keys = json.loads(archive.read("keys.json"))
        arrays = {
            key: np.lib.format.read_array(io.BytesIO(archive.read(f"{i:05d}.npy")))
            for i, key in enumerate(keys)
        }
        return arrays, json.loads(archive.read(_PROGRESS))


def _keys(owners: dict[str, list]):
    """Yields (key, variable). Keras numbers names through, so numbers do not count."""
    seen: dict[str, int] = {}
    for owner, variables in owners.items():
        for variable in variables:
            key = f"{owner}/{_NUMBER.sub('', variable.path)}"
            seen[key] = seen.get(key, 0) + 1
            yield key if seen[key] == 1 else f"{key}#{seen[key]}", variable


def _array(variable) -> np.ndarray:
    value = np.asarray(variable)
    return value.astype(np.float32) if value.dtype.kind == "V" else value  # bfloat16
