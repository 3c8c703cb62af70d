"""The monitor in `fit`: what it writes, when, and that it changes nothing."""

import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity import probes
from keras_plasticity.callbacks.schedule import Schedule, passed
from tests.callbacks.monitored import LOSS, data, fit, network, rows_of, run
from tests.quick_probes import QUICK


@pytest.mark.parametrize("jit", [False, True])
def test_probing_changes_nothing(jit):
    states = []
    for watched in (False, True):
        model = network(jit)
        monitor = kp.callbacks.Monitor(
            probes=QUICK, every=3, slow_every="epoch", reference_data=data()
        )
        train_step = model.train_step
        tf.random.set_seed(1)
        logs = fit(model, [monitor] if watched else []).history
        assert model.train_step == train_step and "make_train_function" not in vars(model)
        kept = {key: logs[key] for key in ("loss", "accuracy")}
        variables = [np.array(v) for v in (*model.variables, *model.optimizer.variables)]
        states.append([kept, variables, np.random.random(), tf.random.uniform(()).numpy()])
    (logs, variables, *random), (logs_2, variables_2, *random_2) = states
    assert logs == logs_2 and random == random_2
    assert all(np.array_equal(a, b) for a, b in zip(variables, variables_2, strict=True))


def test_rows_of_a_fit(tmp_path):
    model = network()
    monitor = kp.callbacks.Monitor(tmp_path / "log", reference_data=data())
    history = fit(model, [monitor]).history
    rows = rows_of(tmp_path / "log")
    assert [row["step"] for row in rows] == [1, 4, 8]  # the begin, and each epoch
    assert [row["step_in_task"] for row in rows] == [0, 4, 8]
    assert all(row["kind"] == "probe" and row["task"] == 0 for row in rows)
    dead = rows[-1]["probes"]["dead_fraction"]
    assert list(dead) == ["dense_0", "dense_1"]
    x, y = data()
    assert dead == probes.dead_fraction(probes.ProbeInputs(model, x, y))
    assert history["dead_fraction"] == [
        np.mean(list(r["probes"]["dead_fraction"].values())) for r in rows[1:]
    ]
    assert history["weight_norm"][-1] == rows[-1]["probes"]["weight_norm"]["model"]
    assert "relative_update" not in rows[0]["probes"] and "relative_update" in rows[1]["probes"]
    fit(model, [monitor])  # goes on
    assert [row["step"] for row in rows_of(tmp_path / "log")] == [1, 4, 8, 9, 12, 16]


def test_what_is_measured_on_frozen_examples_and_what_on_those_of_the_task(tmp_path):
    @probes.probe("bits", on="both")
    def on_both(inputs):
        return probes.sign_entropy(inputs)

    model = network()
    x, y = data()
    chosen = (*probes.DEFAULT, on_both)
    monitor = kp.callbacks.Monitor(tmp_path / "log", chosen, reference_data=(x, y))
    for task in range(2):
        monitor.on_task_begin(task, model, data=(x + 10 * task, y))
        fit(model, [monitor])
    rows = rows_of(tmp_path / "log")
    first, second = rows[0]["probes"], rows[3]["probes"]
    assert [row["task"] for row in rows] == [0, 0, 0, 1, 1, 1]
    assert [row["step_in_task"] for row in rows] == 2 * [0, 4, 8]
    assert first["preactivation_mean"] != second["preactivation_mean"]
    on_task = probes.preactivation_mean(probes.ProbeInputs(model, x + 10, y))
    assert rows[-1]["probes"]["preactivation_mean"] == pytest.approx(on_task)
    frozen = probes.sign_entropy(probes.ProbeInputs(model, x, y))
    assert rows[-1]["probes"]["reference/on_both"] == pytest.approx(frozen)
    assert rows[-1]["probes"]["on_both"] != rows[-1]["probes"]["reference/on_both"]
    assert first["preactivation_mean_shift"] == {"dense_0": 0, "dense_1": 0}
    assert rows[-1]["probes"]["preactivation_mean_shift"]["dense_1"] > 0


@pytest.mark.parametrize(
    "every,steps",
    [(3, [1, 3, 6, 8]), ((2, 5), [1, 2, 5, 8]), ("task", [1, 8]), ("epoch", [1, 4, 8])],
)
def test_when_records_fall(every, steps, tmp_path):
    monitor = kp.callbacks.Monitor(
        tmp_path / "log", (probes.weight_norm,), every, reference_data=data()
    )
    fit(network(), [monitor])
    assert [row["step"] for row in rows_of(tmp_path / "log")] == steps


def test_expensive_probes_have_a_schedule_of_their_own(tmp_path):
    chosen = (probes.weight_norm, probes.stable_rank, probes.churn, probes.preactivation_kurtosis)
    monitor = kp.callbacks.Monitor(tmp_path / "log", chosen, 2, reference_data=data(), slow_every=4)
    fit(network(), [monitor])
    rows = rows_of(tmp_path / "log")
    slow = {row["step"] for row in rows if "stable_rank" in row["probes"]}
    assert slow == {1, 4, 8} and len(rows) == 5
    assert {row["step"] for row in rows if "histograms" in row} == {1, 4, 8}
    counts = np.array(rows[0]["histograms"]["preactivation"]["dense_0"])
    assert counts.shape == (30, 3) and counts[:, 2].sum() == 64 * 8
    assert "churn" not in rows[0]["probes"] and rows[-1]["probes"]["churn"]["model"] > 0


def test_budget_leaves_out_and_says_so(tmp_path, caplog):
    def slow(inputs):
        import time

        time.sleep(0.2)
        return {"model": 1.0}

    monitor = kp.callbacks.Monitor(tmp_path / "log", (slow,), 1, reference_data=data(), budget=0.01)
    with caplog.at_level("WARNING", "keras_plasticity"):
        fit(network(), [monitor])
    assert "left out to stay within budget=0.01: cheap 7 times" in caplog.text
    (row,) = rows_of(tmp_path / "log")  # the beginning is always recorded
    assert row["step"] == 1 and monitor.skipped == 7


def test_other_event_files_are_left_alone(tmp_path):
    foreign = tmp_path / "events.out.tfevents.1.host.1"
    foreign.write_bytes(b"")
    fit(network(), [kp.callbacks.Monitor(tmp_path, reference_data=data())])
    assert foreign.exists() and len(list(tmp_path.glob("events.*"))) == 2


def test_expensive_probes_are_measured_at_the_end_of_each_fit(tmp_path):
    model = network()
    monitor = kp.callbacks.Monitor(
        tmp_path / "log", (*probes.DEFAULT, probes.stable_rank), reference_data=data()
    )
    for task in range(2):
        monitor.on_task_begin(task, model)
        history = fit(model, [monitor]).history
    rows = rows_of(tmp_path / "log")
    assert [row["step"] for row in rows if "stable_rank" in row["probes"]] == [1, 8, 16]
    assert [row["epoch"] for row in rows] == 2 * [0, 0, 1]
    assert {len(values) for values in history.values()} == {2}
    (file,) = (tmp_path / "log").glob("events.*")
    found = []
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            if value.tag == "plasticity/task":
                found.append((event.step, *tf.make_ndarray(value.tensor)[:3]))
    assert found == [(1, 0, 0, 0), (8, 0, 7, 1), (9, 1, 0, 0), (16, 1, 7, 1)]


def test_several_steps_in_one_call_are_counted_right(tmp_path):
    model = network()
    model.compile("sgd", LOSS, steps_per_execution=3)
    monitor = kp.callbacks.Monitor(tmp_path / "log", reference_data=data())
    fit(model, [monitor])  # 4 steps an epoch
    assert [row["step"] for row in rows_of(tmp_path / "log")] == [1, 4, 8]


def test_bad_arguments_are_refused(tmp_path):
    make = kp.callbacks.Monitor
    for arguments, message in (
        ({"every": 0}, "every=0"),
        ({"every": "step"}, "every='step'"),
        ({"every": 2.5}, "every=2.5"),
        ({"every": True}, "every=True"),
        ({"every": [1, "a"]}, "every="),
        ({"budget": 0}, "budget=0"),
        ({"examples": 0}, "examples=0"),
        ({"probes": [probes.dead_fraction] * 2}, "'dead_fraction' twice"),
        ({"probes": ["dead_fraction"]}, "function of"),
        ({"reference_data": (np.zeros((0, 4)), np.zeros(0))}, "none"),
        ({"reference_data": (1, 2, 3, 4)}, "tuple of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**arguments)
    with pytest.raises(ValueError, match="reference_data=None"):
        fit(network(), [make()])
    with pytest.raises(ValueError, match="run's directory"):
        run(tmp_path / "run", [make(tmp_path / "elsewhere")])
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="no records yet"):
        fit(network(), [make(tmp_path, reference_data=data())])
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"


def test_a_data_set_of_batches_as_reference():
    x, y = data()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    monitor = kp.callbacks.Monitor(reference_data=batches, examples=25)
    assert np.array_equal(monitor._reference[0], x[:25])
    assert np.array_equal(monitor._reference[1], y[:25])
    alone = kp.callbacks.Monitor(reference_data=tf.data.Dataset.from_tensor_slices(x).batch(10))
    assert np.array_equal(alone._reference[0], x) and alone._reference[1] is None


def test_schedules():
    assert list(Schedule(4).stops(10, 5)) == [4, 8]
    assert list(Schedule("epoch").stops(10, 5)) == [5]
    assert list(Schedule((9, 0, 3, 12)).stops(10, 5)) == [3, 9]
    assert not Schedule("task").stops(10, 5) and not Schedule("run").stops(10, 5)
    assert Schedule(None).or_else("task").every == "task" and Schedule(3).or_else("task").every == 3
    assert passed([3, 9], 2, 3) and not passed([3, 9], 3, 8) and passed(range(4, 10, 4), 5, 9)


@pytest.mark.parametrize(
    "probes,match", [(["dead_fraction"], r"kp\.probes\.dead_fraction"), ("dead", "a sequence")]
)
def test_names_are_no_probes(probes, match):
    with pytest.raises(ValueError, match=match):
        kp.callbacks.Monitor(probes=probes)
