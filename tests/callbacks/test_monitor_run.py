"""The monitor in `experiment.run`: records, events, and a run that goes on."""

import json

import keras
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity import probes
from tests.callbacks.monitored import rows_of, run, tags, values
from tests.quick_probes import QUICK, quick


@pytest.mark.parametrize("jit", [False, True])
def test_a_run_with_a_monitor_has_the_same_rows(jit, tmp_path):
    plain = run(tmp_path / "plain", [], jit)
    monitor = kp.callbacks.Monitor(probes=QUICK, every=7, slow_every=10)
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

    # Those that compare with an earlier time, and those that draw.
    of_before = (probes.churn, probes.rotation, probes.cosine_to_initialisation, probes.update_norm)
    drawn = (quick(probes.trainability_gap), quick(probes.hessian_trace))

    def go(path):
        chosen = (*probes.DEFAULT, probes.preactivation_wasserstein, *of_before, *drawn)
        monitor = kp.callbacks.Monitor(probes=chosen, every=7, slow_every=10)
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
