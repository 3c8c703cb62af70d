"""Rows of a run against loops by hand, and what a run leaves as it was."""

import json
import random
import warnings

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity.experiment import NonFiniteLossError
from tests.toy_runs import CountTasks, go, rows_without_times, small, source, stream


def test_rows_and_files(tmp_path):
    rows = go(tmp_path, method="plain", benchmark="toy", seed=3, config="# gin")
    assert [row["task"] for row in rows] == [0, 1, 2]
    assert [row["step"] for row in rows] == [24, 48, 72]
    written = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert written == rows
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert (info["method"], info["benchmark"], info["seed"]) == ("plain", "toy", 3)
    assert info["versions"]["keras"] == keras.__version__
    assert info["uses_task_boundaries"] is False
    assert (tmp_path / "run/operative_config.gin").read_text() == "# gin"
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_metrics_against_a_loop_by_hand(tmp_path):
    tasks = stream(num_tasks=1)
    rows = go(tmp_path, tasks, small, keras.optimizers.SGD(0.1), seed=1)
    with kp.surgery.seeded(1):
        model = small(tasks.input_shape, tasks.num_outputs)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss_fn)
    data, hits, losses = tasks[0].arrays(), [], []
    for batch in tasks[0].order():
        x, y = data.x[batch] * np.float32(1 / 255), data.y[batch]
        logits = model(x, training=True).numpy()
        hits.append(np.mean(logits.argmax(-1) == y))
        losses.append(float(loss_fn(y, logits)))
        model.train_on_batch(x, y)
    per_epoch = tasks[0].steps_per_epoch
    assert rows[0]["online_accuracy"] == pytest.approx(np.mean(hits), abs=1e-6)
    assert rows[0]["first_presentation_accuracy"] == pytest.approx(np.mean(hits[:per_epoch]))
    assert rows[0]["online_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    logits = model(data.x * np.float32(1 / 255)).numpy()
    assert rows[0]["train_accuracy"] == pytest.approx(
        np.mean(logits.argmax(-1) == data.y), abs=1e-6
    )
    assert rows[0]["train_loss"] == pytest.approx(float(loss_fn(data.y, logits)), rel=1e-4)


def test_test_accuracy_only_where_it_means_something(tmp_path):
    def permuted(name, **options):
        tasks = stream([kp.streams.PermutePixels()], **options)
        return go(tmp_path, tasks, small, keras.optimizers.Adam(), run_dir=tmp_path / name)

    reset, pixels, without = go(tmp_path), permuted("b"), permuted("c", test=False)
    assert all(row["test_accuracy"] is None for row in reset)
    assert all(isinstance(row["test_accuracy"], float) for row in pixels)
    assert all(row["test_accuracy"] is None and row["test_loss"] is None for row in without)


def test_regression(tmp_path):
    tasks = stream([kp.streams.PermutePixels()], regression=True)
    rows = go(tmp_path, tasks, small, keras.optimizers.Adam(1e-2))
    assert all(row["online_accuracy"] is None for row in rows)
    assert all(row["online_loss"] > 0 and row["test_loss"] > 0 for row in rows)


def test_losses_are_without_penalties(tmp_path):
    def penalised(input_shape, num_outputs):
        return small(input_shape, num_outputs, kernel_regularizer=keras.regularizers.L2(10.0))

    rows = go(tmp_path, stream(num_tasks=1), penalised, keras.optimizers.SGD(0.0))
    assert rows[0]["online_loss"] < 5
    assert rows[0]["train_loss"] == pytest.approx(rows[0]["online_loss"], rel=1e-4)


def test_unfused_run_has_the_same_rows(tmp_path):
    fused = go(tmp_path, run_dir=tmp_path / "a")
    unfused = go(tmp_path, run_dir=tmp_path / "b", fused_steps=1)
    assert rows_without_times(fused) == rows_without_times(unfused)


def test_callback_on_epochs_cuts_the_fused_steps_and_changes_nothing(tmp_path):
    epochs, batches = [], []
    on_epoch = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: epochs.append(e))
    on_batch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda b, logs: batches.append(b))

    def with_callback(*callbacks):
        arguments = stream(), small, keras.optimizers.Adam(1e-2), callbacks
        return go(tmp_path, *arguments, run_dir=tmp_path / str(len(list(tmp_path.iterdir()))))

    plain = with_callback()
    with pytest.warns(UserWarning, match="at every epoch"):
        by_epoch = with_callback(on_epoch)
    with pytest.warns(UserWarning, match="at every batch"):
        by_batch = with_callback(on_batch)
    assert epochs == [0, 1] * 3
    assert len(batches) == 72
    assert rows_without_times(plain) == rows_without_times(by_epoch) == rows_without_times(by_batch)


def test_no_tracing_from_task_to_task(tmp_path):
    traces = []

    class Trace(kp.hooks.InGraphCallback):
        def after_step(self, outputs):
            traces.append(1)

    go(tmp_path, stream(num_tasks=5), small, keras.optimizers.Adam(), [Trace()])
    assert len(traces) == 1


def test_boundaries_are_announced_once_per_task(tmp_path):
    count = CountTasks()
    go(tmp_path, stream(), small, keras.optimizers.Adam(), [count])
    assert count.begun == count.ended == [0, 1, 2]
    assert json.loads((tmp_path / "run/run.json").read_text())["uses_task_boundaries"] is True


def test_nan_ends_the_run_and_names_task_and_step(tmp_path):
    class Spoil(kp.hooks.InGraphCallback):
        """Makes a weight NaN after update 4 of task 1."""

        def after_step(self, outputs):
            bias = self.model.trainable_variables[-1]
            bad = (outputs.task == 1) & (outputs.step == 4)
            bias.assign(keras.ops.where(bad, float("nan"), bias))

    with pytest.raises(NonFiniteLossError, match=r"nan in task 1 .* at update 5 of 24"):
        go(tmp_path, stream(), small, keras.optimizers.Adam(), [Spoil()])
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 1


def test_random_state_is_left_as_it_was(tmp_path):
    random.seed(7)
    np.random.seed(7)
    expected = random.Random(7).random(), np.random.RandomState(7).rand()
    go(tmp_path)
    assert (random.random(), np.random.rand()) == expected


def test_model_has_its_own_training_function_afterwards(tmp_path):
    model = small((4, 4, 1), 3)
    go(tmp_path, stream(), model, keras.optimizers.Adam())
    assert not {"make_train_function", "train_step"} & vars(model).keys()


def test_methods_see_the_same_tasks_whatever_the_model_seed(tmp_path):
    a, b = (go(tmp_path, seed=s, run_dir=tmp_path / str(s)) for s in (0, 1))
    assert a[0]["online_accuracy"] != b[0]["online_accuracy"]
    assert np.array_equal(stream()[2].order(), stream()[2].order())


def test_fresh_network_is_a_function_of_seed_and_task(tmp_path):
    def fresh(seed, name):
        callback = kp.callbacks.FreshNetwork(seed)
        return go(tmp_path, stream(), small, keras.optimizers.Adam(1e-2), [callback],
                  run_dir=tmp_path / name)  # fmt: skip

    same, again, other = fresh(0, "a"), fresh(0, "b"), fresh(1, "c")
    assert rows_without_times(same) == rows_without_times(again)
    assert same[1] != other[1] and same[0]["online_loss"] == other[0]["online_loss"]


def test_evaluate_earlier(tmp_path):
    tasks = stream([kp.streams.PermutePixels()])
    rows = go(tmp_path, tasks, small, keras.optimizers.Adam(), evaluate_earlier=True)
    assert [len(row["earlier_accuracy"]) for row in rows] == [1, 2, 3]
    assert rows[2]["earlier_accuracy"][2] == pytest.approx(rows[2]["test_accuracy"])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (lambda: (source(), small, "adam"), "`stream` must be"),
        (lambda: (stream(), small((5, 5, 1), 3), "adam"), "inputs of shape"),
        (lambda: (stream(), small((4, 4, 1), 2), "adam"), "2 outputs"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path, *arguments())
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_fused_steps_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`fused_steps` must be at least 1"):
        go(tmp_path, fused_steps=-1)


def test_class_subset_without_jit_and_flexible_inputs(tmp_path):
    def flexible(input_shape, num_outputs):
        inputs = keras.Input((None, None, 1))
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        return keras.Model(inputs, keras.layers.Dense(num_outputs)(x))

    tasks = stream([kp.streams.ClassSubset(2)])
    rows = go(tmp_path, tasks, flexible, "adam")
    assert all(0 <= row["train_accuracy"] <= 1 for row in rows)


def test_penalties_of_a_model_that_was_not_built(tmp_path):
    def unbuilt(input_shape, num_outputs):
        penalty = keras.regularizers.L2(100.0)
        return keras.Sequential(
            [keras.layers.Flatten(), keras.layers.Dense(num_outputs, kernel_regularizer=penalty)]
        )

    (row,) = go(tmp_path, stream(num_tasks=1), unbuilt, keras.optimizers.SGD(0.0))
    assert row["online_loss"] == pytest.approx(row["train_loss"], rel=1e-4)


def test_keras_dropout_is_warned_of(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dropout(0.1),
         keras.layers.Dense(3)]
    )  # fmt: skip
    with pytest.warns(UserWarning, match="times slower"):
        go(tmp_path, stream(num_tasks=1), model, "adam", jit_compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        go(tmp_path, run_dir=tmp_path / "ours")
