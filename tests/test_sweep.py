import os

import pytest

from keras_plasticity.sweep import Job, sweep


def work(job: Job):
    job.run_dir.mkdir(parents=True, exist_ok=True)
    (job.run_dir / "run.json").write_text('{"num_tasks": 1}')
    if job.method == "dies":
        os._exit(3)
    if job.method == "raises":
        raise ValueError("no good")
    (job.run_dir / "metrics.jsonl").write_text('{"online_accuracy": 0.5}\n')


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


@pytest.mark.parametrize("methods,seeds", [({}, (0,)), ({"a": ()}, ())])
def test_nothing_to_run(tmp_path, methods, seeds):
    with pytest.raises(ValueError, match="must not be empty"):
        sweep(work, tmp_path, methods=methods, seeds=seeds)
