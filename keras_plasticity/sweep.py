"""Many runs at once: methods x seeds, on local processes."""

from __future__ import annotations

import collections
import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
import typing

from keras_plasticity.progress import Progress
from keras_plasticity.run_directory import RUN, prepare
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
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must differ from each other. Received: seeds={seeds!r}")
    for method, bindings in methods.items():
        if isinstance(bindings, str):
            raise ValueError(
                "`methods` must map names to lists of bindings, as in ('norm = None',). "
                f"Received: {method}={bindings!r}"
            )
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be at least 1. Received: workers={workers!r}")
    jobs = [
        Job(method, tuple(bindings), seed, root / method / f"seed_{seed}")
        for seed in seeds
        for method, bindings in methods.items()
    ]
    prepare(root)
    workers = min(cpus() if workers is None else workers, len(jobs))
    with Progress(root.name, 0) as display:
        return _Pool(start, workers, _Board(jobs, display)).run(jobs)


def cpus() -> int:
    """Number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process that runs one job after another."""

    def __init__(self, start, threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_work, args=(start, there, threads))
        self.process.start()
        there.close()  # so that the death of the process ends the connection
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        self.job = job
        self.connection.send(job)

    def result(self) -> str | None:
        """The error of the job that has ended, None if there was none."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return f"its process died with exit code {self.process.exitcode}"


class _Pool:
    """Keeps a number of workers busy; replaces those that die."""

    def __init__(self, start, workers: int, board: _Board):
        self.start, self.board = start, board
        self.threads = max(1, cpus() // workers)
        self.workers = [_Worker(start, self.threads) for _ in range(workers)]

    def run(self, jobs: list[Job]) -> dict[Job, str]:
        """Runs the jobs; returns the errors of those that failed."""
        failures: dict[Job, str] = {}
        waiting = collections.deque(jobs)
        try:
            for worker in self.workers:
                worker.give(waiting.popleft())
            while busy := [worker for worker in self.workers if worker.job]:
                ended = multiprocessing.connection.wait([w.connection for w in busy], timeout=0.5)
                for worker in busy:
                    if worker.connection in ended:
                        self._end(worker, waiting, failures)
                self.board.show()
        except BaseException:
            for worker in self.workers:
                worker.process.kill()
            raise
        finally:
            for worker in self.workers:
                worker.connection.close()
                worker.process.join()
        return failures

    def _end(self, worker: _Worker, waiting: collections.deque, failures: dict[Job, str]) -> None:
        job, error = worker.job, worker.result()
        assert job is not None
        if error:
            failures[job] = error
        self.board.finished(job, error)
        worker.job = None
        if waiting:
            if not worker.process.is_alive():
                worker.connection.close()
                self.workers.remove(worker)
                self.workers.append(worker := _Worker(self.start, self.threads))
            worker.give(waiting.popleft())


def _work(start, connection, threads: int) -> None:
    """What a worker does: jobs, until there are no more or the parent is gone."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C does
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        error = None
        try:
            start(job)
        except Exception as failure:
            known = isinstance(failure, RunError)
            error = str(failure) if known else f"{type(failure).__name__}: {failure}"
        connection.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
        lines = [line for line in lines if b'"kind"' not in line]  # without a monitor's records
        last = ""
        if lines:
            accuracy = json.loads(lines[-1])["online_accuracy"]
            last = "" if accuracy is None else f", last online accuracy {accuracy:.3f}"
        self._rows[job] = (len(lines), last)
        return self._rows[job]
