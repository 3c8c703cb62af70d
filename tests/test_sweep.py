import os
import pathlib
import subprocess
import sys
import time

import pytest

from keras_plasticity.sweep import Job, sweep

ROOT = pathlib.Path(__file__).parent.parent


def work(job: Job):
    job.run_dir.mkdir(parents=True, exist_ok=True)
    (job.run_dir / "run.json").write_text('{"num_tasks": 1}')
    if job.method == "dies":
        os._exit(3)
    if job.method == "raises":
        raise ValueError("no good")
    (job.run_dir / "metrics.jsonl").write_text('{"online_accuracy": 0.5}\n')


def wait(job: Job):
    job.run_dir.mkdir(parents=True, exist_ok=True)
    (job.run_dir / "pid").write_text(str(os.getpid()))
    time.sleep(100)


def test_dead_and_failing_runs_leave_the_others_alone(tmp_path, capsys):
    methods = {"good": (), "dies": (), "raises": (), "fine": ()}
    failures = sweep(work, tmp_path, methods, seeds=(0, 1), workers=2)
    assert sorted({job.method for job in failures}) == ["dies", "raises"]
    assert len(failures) == 4
    for method in ("good", "fine"):
        for seed in (0, 1):
            assert (tmp_path / method / f"seed_{seed}" / "metrics.jsonl").exists()
    errors = {job.method: error for job, error in failures.items()}
    assert errors["raises"] == "ValueError: no good"
    assert "died" in errors["dies"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"methods": {}, "seeds": (0,)}, "must not be empty"),
        ({"methods": {"a": ()}, "seeds": ()}, "must not be empty"),
        ({"methods": {"a": ()}, "seeds": (0, 0)}, "must differ"),
        ({"methods": {"a": "norm = None"}, "seeds": (0,)}, "lists of bindings"),
        ({"methods": {"a": ()}, "seeds": (0,), "workers": 0}, "at least 1"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        sweep(work, tmp_path, **arguments)


def test_workers_end_with_their_parent(tmp_path):
    code = (
        "import pathlib, sys; sys.path.insert(0, 'tests'); import test_sweep as t\n"
        f"t.sweep(t.wait, pathlib.Path({str(tmp_path)!r}), {{'a': ()}}, workers=1)"
    )
    file = tmp_path / "parent.py"
    file.write_text(f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(file)], cwd=ROOT, env=environment)
    path = tmp_path / "a/seed_0/pid"
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    worker = int(path.read_text())
    parent.kill()
    parent.wait()
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if pathlib.Path(f"/proc/{worker}/stat").read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its parent")
