import json
import random
import warnings

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity.checkpoint import CheckpointError
from keras_plasticity.experiment import NonFiniteLossError, run
from keras_plasticity.run_directory import RunDirectoryError, locked

TIMES = ("seconds", "wall_time")


def source(regression=False, n=96, test=True):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, 4, 4, 1)).astype("uint8")
    y = rng.normal(size=n).astype("float32") if regression else rng.integers(0, 3, n)
    extra = {"x_test": x[:20], "y_test": y[:20]} if test else {}
    return kp.streams.from_arrays(x, y, name="toy", **extra)


def stream(transforms=(), num_tasks=3, epochs=2, **options):
    options = {"batch_size": 8, "seed": 5} | options
    transforms = transforms or [kp.streams.ResetLabels()]
    return kp.streams.make(
        source(**{k: options.pop(k) for k in ("regression", "n", "test") if k in options}),
        num_tasks=num_tasks, transforms=transforms, epochs=epochs, **options,
    )  # fmt: skip


def small(input_shape, num_outputs, **options):
    return kp.models.mlp(input_shape, num_outputs, widths=(16,), **options)


def go(tmp_path, *args, **options):
    options = {"progress": False, "jit_compile": False, "run_dir": tmp_path / "run"} | options
    return run(*(args or (stream(), small, keras.optimizers.Adam(1e-2))), **options)


def rows_without_times(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


class CountTasks(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.begun, self.ended = [], []

    def on_task_begin(self, task, model):
        self.begun.append(task.index)

    def on_task_end(self, task, model):
        self.ended.append(task.index)


class StopAtTask(keras.callbacks.Callback):
    def __init__(self, index):
        super().__init__()
        self.index = index

    def on_task_begin(self, task, model):
        if task.index == self.index:
            raise KeyboardInterrupt


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


def test_finished_run_is_not_run_again(tmp_path):
    count = CountTasks()
    rows = go(tmp_path, stream(), small, keras.optimizers.Adam(), [count])
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    again = go(tmp_path, stream(), small, keras.optimizers.Adam(), [count])
    assert again == rows
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    assert count.begun == [0, 1, 2]


def test_stopped_run_goes_on_with_the_same_rows(tmp_path):
    class Stop(keras.callbacks.Callback):
        calls = 0

        def on_task_begin(self, task, model):
            Stop.calls += 1
            if Stop.calls == 2:
                raise KeyboardInterrupt

    arguments = {"run_dir": tmp_path / "run", "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, stream(), small, keras.optimizers.Adam(1e-2), [Stop()], **arguments)
    rows = go(tmp_path, stream(), small, keras.optimizers.Adam(1e-2), [Stop()], **arguments)
    whole = go(tmp_path, stream(), small, keras.optimizers.Adam(1e-2), [Stop()],
               run_dir=tmp_path / "whole")  # fmt: skip
    assert rows_without_times(rows) == rows_without_times(whole)


@pytest.mark.parametrize(
    "change,name",
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"fused_steps": 3}, "fused_steps"),
        ({"learning_rate": 0.5}, r"optimizer\[1\].learning_rate is 0.25 there and 0.5 here"),
        ({"widths": (17,)}, "model"),
        ({"fraction": 0.5}, "stream"),
    ],
)
def test_directory_of_another_configuration_is_refused(tmp_path, change, name):
    def start(seed=0, fused_steps=None, learning_rate=0.25, widths=(16,), fraction=1.0):
        return go(
            tmp_path,
            stream([kp.streams.ResetLabels(fraction)]),
            lambda input_shape, num_outputs: kp.models.mlp(input_shape, num_outputs, widths=widths),
            keras.optimizers.SGD(learning_rate),
            seed=seed,
            fused_steps=fused_steps,
        )

    start()
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(RunDirectoryError, match=name):
        start(**change)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


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


def test_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="`run_dir` must be a directory"):
        go(tmp_path, run_dir=tmp_path / "file" / "run")


def test_fused_steps_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`fused_steps` must be at least 1"):
        go(tmp_path, fused_steps=-1)


def test_other_labels_are_refused_and_a_finished_run_keeps_its_record(tmp_path):
    go(tmp_path, method="plain")
    before = (tmp_path / "run/run.json").read_bytes()
    go(tmp_path, method="plain")
    assert (tmp_path / "run/run.json").read_bytes() == before


def test_resumed_run_of_another_method_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, stream(), small, "adam", [StopAtTask(1)], method="plain")
    with pytest.raises(RunDirectoryError, match="method is 'plain' there and 'other' here"):
        go(tmp_path, stream(), small, "adam", [StopAtTask(1)], method="other")


def test_second_process_is_kept_out(tmp_path):
    (tmp_path / "run").mkdir()
    with (
        locked(tmp_path / "run"),
        pytest.raises(RunDirectoryError, match="Another process"),
    ):
        go(tmp_path)


def test_rows_whose_checkpoints_are_gone_are_refused(tmp_path):
    go(tmp_path)
    for path in (tmp_path / "run").glob("checkpoint*"):
        path.unlink()
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="without a checkpoint"):
        go(tmp_path)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("at", ["task", "epoch"])
def test_stop_and_go_on_with_state_in_epoch_callbacks(tmp_path, at):
    """A callback that lowers the learning rate at each epoch's end, with its own state."""

    class Decay(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.count = keras.Variable(0.0, name="count")
            self.variables = [self.count]

        def on_epoch_end(self, epoch, logs=None):
            self.count.assign_add(1.0)
            rate = self.model.optimizer.learning_rate
            self.model.optimizer.learning_rate = rate * 0.8

    def start(name, stop):
        arguments = stream(), small, keras.optimizers.SGD(0.5), [Decay(), stop]
        with pytest.warns(UserWarning, match="at every epoch"):
            return go(tmp_path, *arguments, run_dir=tmp_path / name, checkpoint_seconds=0.0)

    class Never(keras.callbacks.Callback):
        def on_task_begin(self, task, model):
            pass

        def on_epoch_begin(self, epoch, logs=None):
            pass

        def get_config(self):
            return {}

    class Once(Never):
        stopped = False

        def stop(self):
            if not Once.stopped:
                Once.stopped = True
                raise KeyboardInterrupt

        def on_task_begin(self, task, model):
            if at == "task" and task.index == 1:
                self.stop()

        def on_epoch_begin(self, epoch, logs=None):
            if at == "epoch" and epoch == 1:
                self.stop()

    whole = start("whole", Never())
    Once.__name__ = "Never"  # the same configuration
    with pytest.raises(KeyboardInterrupt):
        start("run", Once())
    assert rows_without_times(start("run", Once())) == rows_without_times(whole)


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


def test_other_wiring_is_another_configuration(tmp_path):
    def wired(skip):
        def build(input_shape, num_outputs):
            inputs = keras.Input(input_shape)
            x = keras.layers.Flatten()(inputs)
            a = keras.layers.Dense(16)(x)
            b = keras.layers.Dense(16)(a)
            x = keras.layers.Add()([a if skip else b, b])
            return keras.Model(inputs, keras.layers.Dense(num_outputs)(x))

        return build

    go(tmp_path, stream(), wired(False), "adam")
    go(tmp_path, stream(), wired(False), "adam")
    with pytest.raises(RunDirectoryError, match="model"):
        go(tmp_path, stream(), wired(True), "adam")


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
