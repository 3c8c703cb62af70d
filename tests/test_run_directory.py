"""What a run directory is taken for: finished, to go on with, or another run's."""

import keras
import pytest

import keras_plasticity as kp
from keras_plasticity.checkpoint import CheckpointError
from keras_plasticity.run_directory import RunDirectoryError, locked
from tests.toy_runs import CountTasks, go, rows_without_times, small, stream


class StopAtTask(keras.callbacks.Callback):
    def __init__(self, index):
        super().__init__()
        self.index = index

    def on_task_begin(self, task, model):
        if task.index == self.index:
            raise KeyboardInterrupt


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


def test_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="`run_dir` must be a directory"):
        go(tmp_path, run_dir=tmp_path / "file" / "run")


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
