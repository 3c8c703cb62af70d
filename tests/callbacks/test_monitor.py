"""The monitor in `fit` and in runs: what it writes, when, and that it changes nothing."""

import gc
import json
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_plasticity as kp
from keras_plasticity import probes
from keras_plasticity.callbacks.schedule import Schedule, passed
from tests.sample_models import SAMPLES

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TIMES = ("seconds", "wall_time")


def network(jit=False, make=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="dense_0")(inputs)
    x = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(6, activation="tanh", name="dense_1")(x)
    model = make() if make else keras.Model(inputs, layers.Dense(3, name="output")(x))
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"], jit_compile=jit)
    return model


def data(shape=(4,), count=64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, *shape)).astype("float32")
    return x, generator.integers(0, 3, count).astype("int32")


def rows_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def values(row):
    return {key: value for key, value in row.items() if key not in TIMES}


def fit(model, callbacks, **options):
    x, y = data(model.input_shape[1:])
    arguments = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, callbacks=callbacks, **arguments)


@pytest.mark.parametrize("jit", [False, True])
def test_probing_changes_nothing(jit):
    states = []
    for watched in (False, True):
        model = network(jit)
        monitor = kp.callbacks.Monitor(
            probes=probes.ALL, every=3, slow_every="epoch", reference_data=data()
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


def stream(tasks=3):
    x, y = data((4, 4, 1), 96)
    source = kp.streams.from_arrays(x, y, x_test=x[:16], y_test=y[:16])
    transforms = [kp.streams.ResetLabels(), kp.streams.PermutePixels()]
    return kp.streams.make(source, num_tasks=tasks, transforms=transforms, batch_size=16, epochs=4)


def run(path, callbacks, jit=False, fused=None, **options):
    return kp.experiment.run(
        stream(),
        lambda shape, classes: kp.models.mlp(shape, classes, widths=(8, 6)),
        keras.optimizers.Adam(0.01),
        callbacks,
        run_dir=path,
        jit_compile=jit,
        fused_steps=fused,
        progress=False,
        **options,
    )


@pytest.mark.parametrize("jit", [False, True])
def test_a_run_with_a_monitor_has_the_same_rows(jit, tmp_path):
    plain = run(tmp_path / "plain", [], jit)
    monitor = kp.callbacks.Monitor(probes=probes.ALL, every=7, slow_every=10)
    watched = run(tmp_path / "watched", [monitor], jit)
    assert [values(row) for row in plain] == [values(row) for row in watched]
    rows = rows_of(tmp_path / "watched")
    assert [values(r) for r in rows if "kind" not in r] == [values(r) for r in watched]
    steps = [row["step"] for row in rows if "kind" in row]
    assert steps == [24 * t + s for t in range(3) for s in (1, 7, 10, 14, 20, 21, 24)]
    assert kp.results.load(tmp_path / "watched").shape[0] == 3  # rows of tasks alone


def test_a_run_that_was_stopped_goes_on_with_the_same_records(tmp_path):
    class Stop(keras.callbacks.Callback):
        armed = False

        def on_task_begin(self, task, model):
            if Stop.armed and task.index == 2:
                Stop.armed = False
                raise KeyboardInterrupt

        def get_config(self):
            return {}

    def go(path):
        monitor = kp.callbacks.Monitor(probes=probes.ALL, every=7, slow_every=10)
        run(path, [Stop(), monitor], fused=5, checkpoint_seconds=0.0)

    go(tmp_path / "whole")
    Stop.armed = True
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut")
    go(tmp_path / "cut")
    whole, cut = (rows_of(tmp_path / name) for name in ("whole", "cut"))
    assert [row["step"] for row in whole] == [row["step"] for row in cut]
    for a, b in zip(whole, cut, strict=True):
        for name in a.get("probes", {}):
            for layer, value in a["probes"][name].items():
                assert value == pytest.approx(b["probes"][name][layer], rel=1e-4, abs=1e-6), name
    assert tags(tmp_path / "whole") == tags(tmp_path / "cut")


def tags(path):
    """Steps of each tag of the event files of a run."""
    found: dict = {}
    for file in path.glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


def test_events_of_a_run(tmp_path):
    run(tmp_path / "run", [kp.callbacks.Monitor(every=7)])
    found = tags(tmp_path / "run")
    assert found["plasticity/dead_fraction"] == [
        24 * t + s for t in range(3) for s in (1, 7, 14, 21, 24)
    ]
    assert found["plasticity/task"] == [1, 24, 25, 48, 49, 72]
    assert all(list(steps) == sorted(set(steps)) for steps in found.values())
    (file,) = (tmp_path / "run").glob("events.*")
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            if value.tag == "plasticity/dead_fraction":
                content = json.loads(value.metadata.plugin_data.content)
                assert content["layers"] == ["dense_0", "dense_1"]
                assert (content["kind"], content["unit"], content["better"]) == (
                    "series",
                    "share",
                    "lower",
                )
                assert content["params"] == {"tolerance": 0.0}
                assert tf.make_ndarray(value.tensor).shape == (2,)
                return


def test_other_event_files_are_left_alone(tmp_path):
    foreign = tmp_path / "events.out.tfevents.1.host.1"
    foreign.write_bytes(b"")
    fit(network(), [kp.callbacks.Monitor(tmp_path, reference_data=data())])
    assert foreign.exists() and len(list(tmp_path.glob("events.*"))) == 2


def test_callbacks_of_epochs_go_together_with_records(tmp_path):
    class Epochs(keras.callbacks.Callback):
        seen = 0

        def on_epoch_end(self, epoch, logs=None):
            Epochs.seen += 1

    with pytest.warns(UserWarning, match="Epochs must be called"):
        run(tmp_path / "run", [Epochs(), kp.callbacks.Monitor(every=4)], fused=6)
    assert Epochs.seen == 12
    rows = rows_of(tmp_path / "run")  # what came due within an epoch is recorded at its end
    assert [r["step_in_task"] for r in rows if "kind" in r] == 3 * [0, 6, 12, 18, 24]
    assert [r["step"] for r in rows if "kind" not in r] == [24, 48, 72]


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


def test_layers_that_are_frozen_between_fits(tmp_path):
    model = network()
    monitor = kp.callbacks.Monitor(tmp_path / "log", reference_data=data())
    for trainable in (True, False, True):
        model.get_layer("dense_0").trainable = trainable
        model.compile("sgd", LOSS)
        fit(model, [monitor])
        assert ("dense_0" in monitor.latest["weight_norm"]) == trainable


def test_weights_of_one_path_are_told_apart():
    def part():
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(4, name="hidden")(inputs))

    inputs = keras.Input((4,))
    model = keras.Model(inputs, part()(part()(inputs)))
    found = probes.weight_norm(probes.ProbeInputs(model, data()[0]))
    total = np.sqrt(sum(np.sum(np.square(w)) for w in model.get_weights()))
    assert len(found) == 3 and found["model"] == pytest.approx(total, rel=1e-5)


def test_a_monitor_is_used_in_one_run_after_the_other(tmp_path):
    monitor = kp.callbacks.Monitor()
    for name in ("one", "two"):
        run(tmp_path / name, [monitor])
    one, two = (rows_of(tmp_path / name) for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    with pytest.raises(ValueError, match="one `Monitor`.*2 of them"):
        run(tmp_path / "three", [monitor, kp.callbacks.Monitor()])


def test_the_begin_of_a_task_has_all_probes_where_weights_may_have_changed(tmp_path):
    run(tmp_path / "plain", [kp.callbacks.Monitor()])
    run(tmp_path / "reset", [kp.callbacks.LayerReset(), kp.callbacks.Monitor()])
    for name, known in (("plain", False), ("reset", True)):
        rows = rows_of(tmp_path / name)
        begin = next(row for row in rows if row["step"] == 25)
        assert ("weight_norm" in begin["probes"]) == known
        assert "dead_fraction" in begin["probes"]


def test_penalties_on_activations():
    x = inputs = keras.Input((4,))
    x = layers.Dense(4, activation="relu", activity_regularizer="l2", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile("sgd", LOSS)
    monitor = kp.callbacks.Monitor(probes=probes.ALL, reference_data=data())
    fit(model, [monitor], epochs=1)
    assert {"gradient_norm", "sample_plasticity"} <= set(monitor.latest)


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


@pytest.mark.parametrize("name", SAMPLES)
def test_any_network_can_be_watched(name):
    model = network(make=SAMPLES[name])
    monitor = kp.callbacks.Monitor(reference_data=data(model.input_shape[1:]))
    fit(model, [monitor])
    assert monitor.latest["weight_norm"]["model"] > 0 and "softmax_entropy" in monitor.latest


def embedding():
    x = inputs = keras.Input((5,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(10, 4)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Dense(4, activation="relu")(x)))


def several():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    x = layers.Dense(4, activation="relu", name="hidden")(
        layers.Concatenate()(list(inputs.values()))
    )
    return keras.Model(inputs, [layers.Dense(2, name="one")(x), layers.Dense(1, name="two")(x)])


def test_integer_inputs_several_outputs_and_no_hidden_units():
    model = embedding()
    model.compile("adam", LOSS)
    x, y = np.random.default_rng(0).integers(0, 10, (32, 5)), np.zeros(32, int)
    monitor = kp.callbacks.Monitor(reference_data=(x, y))
    model.fit(x, y, verbose=0, callbacks=[monitor])
    assert {"dead_fraction", "gradient_norm", "logit_norm"} <= set(monitor.latest)

    model = several()
    model.compile("adam", ["mse", "mse"])
    x = {"a": np.zeros((8, 3), "float32"), "b": np.ones((8, 2), "float32")}
    y = [np.zeros((8, 2)), np.zeros((8, 1))]
    monitor = kp.callbacks.Monitor(reference_data=(x, y), probes=probes.ALL)
    model.fit(x, y, verbose=0, callbacks=[monitor])
    assert {"dead_fraction", "gradient_norm"} <= set(monitor.latest)
    assert "softmax_entropy" not in monitor.latest

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.compile("adam", LOSS)
    monitor = kp.callbacks.Monitor(reference_data=data())
    model.fit(*data(), verbose=0, callbacks=[monitor])
    assert "dead_fraction" not in monitor.latest and "weight_norm" in monitor.latest


def test_one_example_and_values_that_are_not_finite(tmp_path):
    model = network()
    x, y = data()
    monitor = kp.callbacks.Monitor(tmp_path / "one", reference_data=(x[:1], y[:1]))
    fit(model, [monitor])
    assert monitor.latest["dead_fraction"]["dense_0"] >= 0
    x = np.array(x)
    x[3] = np.nan
    monitor = kp.callbacks.Monitor(tmp_path / "nan", reference_data=(x, y))
    fit(model, [monitor])
    assert np.isnan(monitor.latest["dead_fraction"]["dense_0"])
    assert rows_of(tmp_path / "nan")[-1]["probes"]["dead_fraction"]["dense_0"] is None


def test_schedules():
    assert list(Schedule(4).stops(10, 5)) == [4, 8]
    assert list(Schedule("epoch").stops(10, 5)) == [5]
    assert list(Schedule((9, 0, 3, 12)).stops(10, 5)) == [3, 9]
    assert not Schedule("task").stops(10, 5) and not Schedule("run").stops(10, 5)
    assert Schedule(None).or_else("task").every == "task" and Schedule(3).or_else("task").every == 3
    assert passed([3, 9], 2, 3) and not passed([3, 9], 3, 8) and passed(range(4, 10, 4), 5, 9)


@pytest.mark.slow
def test_memory_stays_flat_over_500_probes():
    model = network()
    chosen = probes.ALL
    monitor = kp.callbacks.Monitor(probes=chosen, every=1, slow_every=1, reference_data=data())
    fit(model, [monitor], epochs=30)  # 120 records
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit(model, [monitor], epochs=125)
    gc.collect()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000, f"{grown} kB more after 500 records"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet50", "vit"])
def test_large_networks_at_64_pixels(kind):
    if kind == "resnet50":
        model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10)
    else:
        model = kp.models.vit((64, 64, 3), 10, dim=64, depth=4, heads=4, patch=8)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "vit"))
    x = np.random.default_rng(0).normal(size=(64, 64, 64, 3)).astype("float32")
    y = np.arange(64) % 10
    monitor = kp.callbacks.Monitor(reference_data=(x, y))
    model.fit(x, y, verbose=0, callbacks=[monitor])
    assert set(monitor.latest) == {p.__name__ for p in probes.DEFAULT}
    assert all(np.isfinite(list(v.values())).all() for v in monitor.latest.values())
