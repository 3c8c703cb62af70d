"""Runs that are killed at any moment end with the rows of a run that was not."""

import json
import multiprocessing
import os
import random
import resource
import time

import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity import checkpoint

TIMES = ("seconds", "wall_time")
CONTEXT = multiprocessing.get_context("spawn")


def train(run_dir, checkpoint_seconds=0.0, file_limit=None):
    """One run with everything that has state: Adam, batch norm, dropout, augmented labels."""
    import keras

    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    rng = np.random.default_rng(0)
    source = kp.streams.from_arrays(
        rng.integers(0, 256, (320, 8, 8, 1)).astype("uint8"), rng.integers(0, 10, 320)
    )
    stream = kp.streams.make(
        source,
        num_tasks=5,
        transforms=[kp.streams.ResetLabels(0.5)],
        batch_size=8,
        epochs=5,
        seed=1,
    )

    def model(input_shape, num_outputs):
        return kp.models.mlp(input_shape, num_outputs, widths=(64,), norm="batch", dropout=0.1)

    kp.experiment.run(
        stream,
        model,
        keras.optimizers.Adam(1e-3),
        run_dir=run_dir,
        fused_steps=7,
        checkpoint_seconds=checkpoint_seconds,
        progress=False,
    )


def rows(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def events(run_dir):
    import tensorflow as tf

    (path,) = run_dir.glob("events.out.tfevents.*")
    found = {}
    for record in tf.data.TFRecordDataset(str(path)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            found.setdefault(value.tag, []).append(event.step)
    return found


def start(run_dir, **options):
    process = CONTEXT.Process(target=train, args=(run_dir,), kwargs=options)
    process.start()
    return process


def kill_at(process, run_dir, moment):
    """Kills the process when `moment(run_dir)` is true; returns whether it was alive."""
    end = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < end:
        if moment(run_dir):
            process.kill()
            process.join()
            return True
        time.sleep(0.0005)
    return False


def progress(run_dir):
    try:
        return checkpoint._read(run_dir / checkpoint.NAME)[1]
    except OSError:
        return {"task": 0, "step": 0}


def inside_task(after):
    def moment(run_dir):
        now = progress(run_dir)
        return (now["task"], now["step"]) > after and now["step"] > 0

    return moment


def while_writing(after):
    def moment(run_dir):
        now = progress(run_dir)
        return (now["task"], now["step"]) >= after and any(run_dir.glob("checkpoint*.partial"))

    return moment


def any_moment(seconds):
    end = time.monotonic() + seconds
    return lambda run_dir: time.monotonic() > end


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    process = start(run_dir)
    process.join()
    assert process.exitcode == 0
    return run_dir


def check_kills(whole, run_dir, moments):
    where, partial = [], 0
    for moment in moments:
        process = start(run_dir)
        if not kill_at(process, run_dir, moment):
            break
        where.append(progress(run_dir))
        partial += any(run_dir.glob("*.partial"))
    process = start(run_dir)
    process.join()
    assert process.exitcode == 0
    assert rows(run_dir) == rows(whole)
    assert events(run_dir) == events(whole)
    steps = events(run_dir)["plasticity/task"]
    assert all(a < b for a, b in zip(steps, steps[1:], strict=False))
    return where, partial


@pytest.mark.timeout(280)
def test_three_kills_change_nothing(whole, tmp_path):
    moments = [any_moment(1.0), inside_task((0, 10)), while_writing((2, 20))]
    where, _ = check_kills(whole, tmp_path / "run", moments)
    assert len(where) == 3
    assert sum(progress["step"] > 0 for progress in where) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_25_kills_change_nothing(whole, tmp_path):
    draw = random.Random(0)
    moments = []
    for i in range(25):
        after = divmod(40 * i, 200)  # (task, update), 40 updates further each time
        kind = i % 3
        if kind == 0:
            moments.append(any_moment(draw.uniform(0.0, 8.0)))
        else:
            moments.append((inside_task, while_writing)[kind - 1](after))
    where, partial = check_kills(whole, tmp_path / "run", moments)
    assert len(where) == 25
    assert sum(progress["step"] > 0 for progress in where) >= 5
    assert partial >= 2


def test_resumed_events_hold_every_task_once(whole):
    found = events(whole)
    assert found["online_accuracy"] == [200, 400, 600, 800, 1000]
    assert found["plasticity/task"] == [1, 200, 201, 400, 401, 600, 601, 800, 801, 1000]
    assert found["plasticity/run_info"] == [0]


@pytest.mark.timeout(280)
def test_full_disk_leaves_what_was_there_whole(whole, tmp_path):
    run_dir = tmp_path / "run"
    process = start(run_dir)
    assert kill_at(process, run_dir, inside_task((2, 0)))
    files = {p: p.read_bytes() for p in run_dir.glob("checkpoint*.npz")}
    process = start(run_dir, file_limit=20_000)  # less than a checkpoint
    process.join()
    assert process.exitcode == 1
    assert {p: p.read_bytes() for p in run_dir.glob("checkpoint*.npz")} == files
    process = start(run_dir)
    process.join()
    assert process.exitcode == 0
    assert rows(run_dir) == rows(whole)
    assert os.path.getsize(run_dir / checkpoint.NAME) > 20_000
