"""The command `keras-plasticity diagnose`."""

from __future__ import annotations

import argparse
import pathlib
import typing
import zipfile

from keras_plasticity import _register
from keras_plasticity.usage import UsageError, quiet

if typing.TYPE_CHECKING:
    import keras

    from keras_plasticity.diagnosis.findings import Diagnosis


def add_parser(commands: typing.Any) -> None:
    """Adds `diagnose` to the commands of `keras-plasticity`.

    Args:
        commands: what `argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "diagnose", help="which mechanism of plasticity loss is at work in a model or a run"
    )
    parser.add_argument("what", metavar="MODEL_OR_RUN", help="a .keras file, or a run directory")
    parser.add_argument(
        "--data", metavar="F.npz", help="arrays x and, if there are any, y; needed for a model"
    )
    parser.add_argument("--reference", metavar="F.keras", help="the model as it was before")
    parser.add_argument("--run_dir", metavar="D", help="the run of the model, to tell its story")
    parser.add_argument(
        "--scale", type=float, default=None, metavar="S", help="factor of x, e.g. 0.00392 for bytes"
    )
    parser.add_argument(
        "--trainability", action="store_true", help="also train a copy beside a fresh network"
    )
    parser.add_argument(
        "--out", metavar="D", help="directory for diagnosis.html and diagnosis.json"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.set_defaults(command=diagnose_command)


def diagnose_command(arguments: argparse.Namespace) -> int:
    """Prints a diagnosis and writes it where it was asked for; returns 0.

    Raises:
        UsageError: something is missing, cannot be read, or does not fit; nothing is written.
    """
    what = pathlib.Path(arguments.what)
    if not what.exists():
        raise UsageError(f"MODEL_OR_RUN must be a .keras file or a run directory. Received: {what}")
    try:
        with quiet():
            diagnosis = _of_run(what, arguments) if what.is_dir() else _of_model(what, arguments)
    except (ValueError, OSError) as error:
        raise UsageError(" ".join(str(error).split())) from error
    if arguments.out:
        folder = pathlib.Path(arguments.out)
        from keras_plasticity.checkpoint import write_whole

        try:
            diagnosis.to_html(folder / "diagnosis.html")
            write_whole(folder / "diagnosis.json", diagnosis.to_json().encode())
        except OSError as error:
            raise UsageError(f"--out cannot be written: {error}") from error
    if arguments.json:
        print(diagnosis.to_json())
        return 0
    import rich.console

    rich.console.Console(highlight=False).print(diagnosis)
    if arguments.out:
        print(f"Written to {arguments.out}: diagnosis.html, diagnosis.json")
    return 0


def _of_run(path: pathlib.Path, arguments: argparse.Namespace) -> Diagnosis:
    for name in ("data", "reference", "run_dir", "trainability"):
        if getattr(arguments, name):
            raise ValueError(f"--{name} goes with a model file. Received: {path}, a directory")
    from keras_plasticity.diagnosis.story import diagnose_run
    from keras_plasticity.run_files import run_directories

    runs = run_directories(path)
    if len(runs) > 1:
        raise ValueError(f"{path} holds {len(runs)} runs; name one, such as {runs[0]}")
    return diagnose_run(runs[0])


def _of_model(path: pathlib.Path, arguments: argparse.Namespace) -> Diagnosis:
    if not arguments.data:
        raise ValueError("a model needs --data, an .npz file with arrays x and, if any, y")
    x, y = _arrays(pathlib.Path(arguments.data), arguments.scale)
    model = _model(path)
    reference = _model(pathlib.Path(arguments.reference)) if arguments.reference else None
    from keras_plasticity.diagnosis.examination import diagnose

    return diagnose(
        model,
        (x, y),
        reference=reference,
        run_dir=arguments.run_dir,
        trainability=arguments.trainability,
    )


def _arrays(path: pathlib.Path, scale: float | None) -> tuple:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            x = file["x"]
            y = file.get("y")
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"--data must be an .npz file with an array x and, if any, y. Received: {path} "
            f"({type(error).__name__}: {error})"
        ) from error
    return (x if scale is None else x.astype(np.float32) * scale), y


def _model(path: pathlib.Path) -> keras.Model:
    import keras

    _register()
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return keras.models.load_model(path)
    except Exception as error:  # what a broken or foreign file makes Keras raise is not known
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(
            f"{path} cannot be read as a Keras model ({type(error).__name__}: {reason[:200]})"
        ) from error
