"""Many runs at once: methods x seeds, on local processes."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import typing

from keras_plasticity.progress import Progress
from keras_plasticity.run_directory import RUN
from keras_plasticity.writers import METRICS


class RunError(RuntimeError):
    """A run failed; the text says with what."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        method: name of the method.
        bindings: gin bindings that make the method.
        seed: seed of the run and of its stream.
        run_dir: directory of the run.
    """

    method: str
    bindings: tuple[str, ...]
    seed: int
    run_dir: pathlib.Path


def sweep(
    start: typing.Callable[[Job], None],
    run_dir: os.PathLike | str,
    methods: dict[str, typing.Sequence[str]],
    seeds: typing.Sequence[int] = (0,),
    workers: int | None = None,
) -> dict[Job, str]:
    """Runs every method with every seed; a failure stops only the run it happens in.

    Seeds are paired: each method gets the same seeds, and so the same tasks. Runs go to
    `run_dir/<method>/seed_<seed>`. Runs that are finished are not run again.

    Args:
        start: called in a worker process with a `Job`; picklable.
        run_dir: directory of the sweep.
        methods: name of a method to the gin bindings that make it, e.g.
            `{"plain": [], "layer_norm": ["norm = 'layer'"]}`.
        seeds: the seeds. Default one, 0.
        workers: int, processes at a time. Default: the number of CPUs, and at most one
            per run.

    Returns:
        The jobs that failed, each with its error as one text.
    """
    root = pathlib.Path(run_dir)
    for name, given in (("methods", methods), ("seeds", seeds)):
        if not given:
            raise ValueError(f"`{name}` must not be empty. Received: {name}={given!r}")
    jobs = [
        Job(method, tuple(bindings), seed, root / method / f"seed_{seed}")
        for seed in seeds
        for method, bindings in methods.items()
    ]
    root.mkdir(parents=True, exist_ok=True)
    workers = min(workers or cpus(), len(jobs))
    failures: dict[Job, str] = {}
    with Progress(root.name, 0) as display:
        board = _Board(jobs, display)
        waiting, tries = jobs, dict.fromkeys(jobs, 0)
        while waiting:
            waiting = _round(start, waiting, tries, failures, board, workers)
    return failures


def cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _round(start, jobs, tries, failures, board, workers) -> list[Job]:
    """Runs jobs on one pool; returns those to run again as a worker died beside them."""
    again = []
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_share_cpus, initargs=(cpus() // workers,)
    )
    try:
        futures = {pool.submit(start, job): job for job in jobs}
        waiting = set(futures)
        while waiting:
            done, waiting = concurrent.futures.wait(waiting, timeout=0.5)
            for future in done:
                job, error = futures[future], future.exception()
                if isinstance(error, concurrent.futures.process.BrokenProcessPool):
                    begun = (job.run_dir / RUN).exists()
                    tries[job] += begun
                    if tries[job] < 2:
                        again.append(job)
                        continue
                    error = RuntimeError("its process died twice")
                if error is not None:
                    known = isinstance(error, RunError)
                    failures[job] = str(error) if known else f"{type(error).__name__}: {error}"
                board.finished(job, failures.get(job))
            board.show()
    except BaseException:
        for process in (pool._processes or {}).values():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return again


def _share_cpus(threads: int) -> None:
    """Gives a worker its share of the CPUs; read when it starts TensorFlow."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(max(1, threads))


class _Board:
    """Counts finished tasks by looking at the rows that the runs have written."""

    def __init__(self, jobs: list[Job], display: Progress):
        self.jobs, self.display = jobs, display
        self._tasks: dict[Job, int] = {}
        self._rows: dict[Job, tuple[int, str]] = {}
        self._ended = 0
        for job in jobs:
            self._look(job)
        self.display.first = sum(done for done, _ in self._rows.values())

    def show(self) -> None:
        for job in self.jobs:
            self._look(job)
        each = max(self._tasks.values(), default=0)
        if each:
            done = sum(done for done, _ in self._rows.values())
            self.display.resize(each * len(self.jobs))
            self.display.update(done, f"{self._ended}/{len(self.jobs)} runs")

    def finished(self, job: Job, error: str | None) -> None:
        self._ended += 1
        done, last = self._look(job)
        text = "failed, see below" if error else f"{done} tasks{last}"
        self.display.line(f"{job.method} seed {job.seed}: {text}")

    def _look(self, job: Job) -> tuple[int, str]:
        if job not in self._tasks and (job.run_dir / RUN).exists():
            self._tasks[job] = json.loads((job.run_dir / RUN).read_text())["num_tasks"]
        if self._rows.get(job, (0, ""))[0] == self._tasks.get(job, -1):
            return self._rows[job]
        path = job.run_dir / METRICS
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        last = ""
        if lines:
            accuracy = json.loads(lines[-1])["online_accuracy"]
            last = "" if accuracy is None else f", last online accuracy {accuracy:.3f}"
        self._rows[job] = (len(lines), last)
        return self._rows[job]
