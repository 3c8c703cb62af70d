"""The command line: `keras-plasticity train|report|diagnose|list`."""

from __future__ import annotations

import argparse
import functools
import gc
import os
import pathlib
import re
import sys
import traceback

from keras_plasticity import diagnosis_command
from keras_plasticity.usage import UsageError, quiet

USAGE, FAILED = 2, 1  # exit codes
LOG = "log.txt"  # of a run: messages, and the traceback of what ended it


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0, 1 (a run failed) or 2 (usage)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except UsageError as error:
        print(f"keras-plasticity: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keras-plasticity", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="run what a gin file describes")
    train.add_argument(
        "--gin_file", action="append", required=True, metavar="F", help="may be given several times"
    )
    train.add_argument(
        "--gin_param",
        action="append",
        default=[],
        metavar="B",
        help="a binding, e.g. \"norm = 'layer'\"; may be given several times",
    )
    train.add_argument("--run_dir", metavar="D", help="default: runs/<benchmark>")
    train.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="default: the gin file's")
    train.add_argument("--workers", type=int, metavar="N", help="processes, default: CPUs")
    train.set_defaults(command=_train)

    report = commands.add_parser("report", help="table and figures of finished runs")
    report.add_argument("paths", nargs="+", metavar="RUN_DIR")
    report.add_argument("--out", metavar="D", help="directory for files, default RUN_DIR/report")
    report.add_argument("--metric", metavar="M", help="default: online accuracy or squared error")
    report.add_argument("--format", nargs="+", default=["csv", "png", "svg"], metavar="F")
    report.add_argument("--share", type=float, default=0.1, help="of the tasks in a window")
    report.add_argument("--control", default="fresh", metavar="METHOD")
    report.add_argument(
        "--gap", nargs=2, metavar=("LOW", "HIGH"), help="share of this gap that methods recover"
    )
    report.add_argument("--interval", choices=("t", "bca"), default="t")
    report.add_argument(
        "--probes", nargs="+", metavar="P", help="instead: what monitors recorded over training"
    )
    report.add_argument("--layer", default="last", metavar="L", help="last, mean, max or a name")
    report.set_defaults(command=_report)

    diagnosis_command.add_parser(commands)

    listing = commands.add_parser("list", help="the gin files below ./gin and what they cost")
    listing.set_defaults(command=_list)
    return parser


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be integers with commas between. Received: {text}"
        ) from None


def _train(arguments) -> int:
    files = [pathlib.Path(name) for name in arguments.gin_file]
    for file in files:
        if not file.is_file():
            raise UsageError(f"--gin_file must name a file. Received: {file}")
    _parse(files, arguments.gin_param)
    from keras_plasticity import configurables

    gin = configurables.gin
    methods = _query(gin, "sweep.methods")
    swept = methods is not None
    benchmark, method = (files[0].stem, "") if swept else (files[0].parent.name, files[0].stem)
    seeds = arguments.seeds or _query(gin, "sweep.seeds") or [_query(gin, "%seed") or 0]
    if arguments.seeds and _query(gin, "%seed") is None:
        raise UsageError("--seeds needs a gin file that uses the macro `seed`, as in %seed.")
    root = pathlib.Path(arguments.run_dir or pathlib.Path("runs") / benchmark)
    single = not swept and len(seeds) == 1
    start = functools.partial(
        train_one, files, arguments.gin_param, benchmark=benchmark, in_process=single
    )
    if single:
        failures = _train_here(start, method, seeds[0], root)
    else:
        for bindings in (methods or {}).values():  # misspelt names, before anything is run
            _parse(files, [*bindings, *arguments.gin_param])
        given = {"methods": methods if swept else {method: ()}, "seeds": seeds}
        given |= {"workers": arguments.workers} if arguments.workers is not None else {}
        try:
            failures = configurables.run_sweep(start, root, **given)
        except (ValueError, TypeError) as error:
            raise UsageError(_one_line(error)) from error
    for job, text in failures.items():
        print(f"{job.method} seed {job.seed} failed: {_one_line(text)}", file=sys.stderr)
        log = job.run_dir / LOG
        if log.exists() and log.stat().st_size:
            print(f"  more in {log}", file=sys.stderr)
    if failures:
        print("The same command tries again and goes on where it was.", file=sys.stderr)
    if any(path.stat().st_size for path in root.rglob("metrics.jsonl")):
        _print_report([root], root / "report")
    return FAILED if failures else 0


def _train_here(start, method: str, seed: int, root: pathlib.Path) -> dict:
    from keras_plasticity.sweep import Job

    job = Job(method, (), seed, root / method / f"seed_{seed}")
    rows = job.run_dir / "metrics.jsonl"
    begun = rows.exists()
    try:
        start(job)
    except Exception as error:
        usage = isinstance(error, (ValueError, TypeError, FileNotFoundError))
        if usage and rows.exists() == begun:  # training has not begun
            raise UsageError(_one_line(error)) from error
        with open(job.run_dir / LOG, "a") as log:
            traceback.print_exc(file=log)
        return {job: f"{type(error).__name__}: {error}"}
    return {}


def train_one(files, bindings, job, *, benchmark: str, in_process: bool) -> None:
    """Runs one job, in a worker process of a sweep or in this one.

    Args:
        files: gin files.
        bindings: further gin bindings, which win over those of the method.
        job: `sweep.Job`.
        benchmark: name of the benchmark, for tables.
        in_process: whether this is the process of the command itself.
    """
    if not in_process:
        _log_to(job.run_dir)
    _parse(files, [*job.bindings, *bindings, f"seed = {job.seed}"])
    import keras

    from keras_plasticity import configurables
    from keras_plasticity.sweep import RunError

    keras.utils.clear_session()
    try:
        configurables.run(
            run_dir=job.run_dir,
            method=job.method,
            benchmark=benchmark,
            seed=job.seed,
            progress=in_process,
            config=configurables.gin.operative_config_str,
        )
    except Exception as error:
        if in_process:
            raise
        traceback.print_exc()  # to the log
        # what gin raises cannot be sent between processes
        raise RunError(f"{type(error).__name__}: {_one_line(error)}") from None
    finally:
        gc.collect()


def _log_to(run_dir: pathlib.Path) -> None:
    """Sends the messages of this process to the run's log."""
    run_dir.mkdir(parents=True, exist_ok=True)
    log = os.open(run_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _parse(files, bindings) -> None:
    """Parses gin files and bindings, with one readable line for what is wrong."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with quiet():
        import tensorflow as tf

        from keras_plasticity import configurables

        tf.config.list_physical_devices()  # says at length that there is no GPU
    gin = configurables.gin
    with gin.unlock_config():
        gin.clear_config()
        source = ""
        try:
            for source in files:
                gin.parse_config_file(str(source))
            for source in bindings:
                _check_macro(gin, source)
                gin.parse_config(source)
            gin.finalize()
        except Exception as error:
            hint = ""
            if isinstance(error, OSError):
                hint = " Includes are relative to the repository's root: run this there."
            if "malformed node" in str(error):
                hint = " Text needs quotes, as in norm = 'layer'."
            raise UsageError(f"{source}: {_one_line(error)}{hint}") from error


def _check_macro(gin, binding: str) -> None:
    """Refuses a binding of a macro that the gin files do not have."""
    found = re.match(r"\s*(\w+)\s*=", binding)
    if not found:
        return
    try:
        gin.query_parameter(f"%{found[1]}")
    except ValueError:
        raise UsageError(
            f"there is no macro `{found[1]}` in the gin files; gin/base.gin has the common ones"
        ) from None


def _one_line(error: BaseException | str) -> str:
    """The message of an error, without what gin adds about its call stack."""
    lines = str(error).split("In call to configurable")[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip())


def _query(gin, name: str):
    try:
        return gin.query_parameter(name)
    except ValueError:
        return None


def _report(arguments) -> int:
    if arguments.probes:
        from keras_plasticity import probe_report

        given = (arguments.paths, arguments.probes, arguments.out, arguments.format)
        _shown(probe_report.report, *given, arguments.layer)
        return 0
    _print_report(
        arguments.paths,
        arguments.out,
        metric=arguments.metric,
        formats=arguments.format,
        share=arguments.share,
        control=arguments.control,
        method=arguments.interval,
        gap=arguments.gap,
    )
    return 0


def _print_report(paths, out, **options) -> None:
    from keras_plasticity.report import report

    _shown(report, paths, out=out, **options)


def _shown(report, *given, **options) -> None:
    try:
        report(*given, **options)
    except (ValueError, OSError, ImportError) as error:
        raise UsageError(str(error)) from error


def _list(arguments) -> int:
    """Prints the header of every gin file below ./gin."""
    files = sorted(pathlib.Path("gin").rglob("*.gin"))
    if not files:
        raise UsageError("there is no gin file below ./gin. Run this in a clone of the repository.")
    import rich.console
    import rich.table

    table = rich.table.Table(box=None)
    for title in ("gin file", "what it shows", "cost"):
        table.add_column(title, no_wrap=title == "gin file")
    for file in files:
        header = _header(file)
        if "cost" in header:
            table.add_row(str(file), header["title"], header["cost"])
    rich.console.Console().print(table, "Costs: for digits, on two CPU cores.", sep="\n")
    return 0


def _header(file: pathlib.Path) -> dict[str, str]:
    """The first comment line as `title`, then each `Key: value` of the header."""
    header: dict[str, str] = {}
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        key, colon, value = text.partition(": ")
        if not header:
            header["title"] = text
        elif colon and key.isalpha():
            header[key.lower()] = value
    return header


if __name__ == "__main__":
    sys.exit(main())
