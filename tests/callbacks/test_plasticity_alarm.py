import keras
import numpy as np
import pytest
from keras import layers

import keras_plasticity as kp
from keras_plasticity import probes


def dying(biases=0.0):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activation="relu", name="hidden"), layers.Dense(2)]
    )
    model.get_layer("hidden").bias.assign(np.full(4, biases))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


X, Y = np.random.default_rng(0).normal(size=(40, 3)).astype("float32"), np.arange(40) % 2


def fit(model, limits, epochs=3, **options):
    monitor = kp.callbacks.Monitor(reference_data=(X, Y))
    alarm = kp.callbacks.PlasticityAlarm(monitor, limits, **options)
    history = model.fit(X, Y, epochs=epochs, verbose=0, callbacks=[monitor, alarm])
    return alarm, len(history.epoch)


def test_it_warns_once_and_names_the_layer(caplog):
    with caplog.at_level("WARNING", "keras_plasticity"):
        alarm, epochs = fit(dying(-99), {"dead_fraction": 0.5})
    (found,) = alarm.alarms
    assert found["layer"] == "hidden" and found["value"] == 1 and found["step"] == 1
    assert "dead_fraction of hidden is 1, above its limit 0.5, at step 1" in caplog.text
    assert epochs == 3 and not alarm.stopped
    assert not fit(dying(), {"dead_fraction": 0.5})[0].alarms


def test_it_stops():
    alarm, epochs = fit(dying(-99), {"sign_entropy": 0.5}, action="stop", patience=2)
    assert alarm.stopped and epochs == 1 and alarm.alarms[0]["side"] == "below"


def test_it_calls_back():
    seen = []
    fit(dying(), {"weight_norm": ("below", 1e9)}, action=seen.append)
    assert len(seen) == 1 and seen[0]["probe"] == "weight_norm" and seen[0]["limit"] == 1e9


def test_a_value_that_is_not_finite_crosses_any_limit():
    model = dying()
    model.get_layer("hidden").kernel.assign(np.full((3, 4), np.nan))
    alarm, _ = fit(model, {"weight_norm": 1e9, "sign_entropy": 0.0})
    assert {a["probe"] for a in alarm.alarms} == {"weight_norm", "sign_entropy"}


class Kill(keras.callbacks.Callback):
    """Raises after so many updates, of all `fit`s together."""

    def __init__(self, after=None):
        super().__init__()
        self.after, self.seen = after, 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.after:
            raise KeyboardInterrupt


def run(run_dir, patience, kill=None, tasks=4, action="stop", alarm=None):
    """Four tasks of eight updates with a record at each; every one is beyond the limit."""
    source = kp.streams.from_arrays(X[:, :, None, None], Y)
    stream = kp.streams.make(source, num_tasks=tasks, transforms=[], batch_size=10, epochs=2)
    monitor = alarm.monitor if alarm else kp.callbacks.Monitor(every=1)
    limits = {"logit_norm": 0.0}
    alarm = alarm or kp.callbacks.PlasticityAlarm(monitor, limits, action, patience)
    callbacks = [monitor, alarm, Kill(kill)]
    with pytest.warns(UserWarning, match="Kill must be called at every batch"):
        rows = kp.experiment.run(
            stream,
            kp.models.mlp,
            "sgd",
            callbacks,
            run_dir=run_dir,
            jit_compile=False,
            checkpoint_seconds=0,
            progress=False,
        )
    return rows, alarm, callbacks[-1].seen


@pytest.mark.parametrize("patience,tasks", [(1, 1), (10, 2), (99, 4)])
def test_it_ends_a_run_after_the_task(patience, tasks, tmp_path):
    rows, alarm, updates = run(tmp_path, patience)
    assert len(rows) == tasks and rows[-1]["step"] == updates == 8 * tasks
    assert alarm.stopped is (tasks < 4) and len(alarm.alarms) == alarm.stopped


def test_a_run_that_it_ended_is_finished(tmp_path):
    rows, _, _ = run(tmp_path, 10)
    again, _, updates = run(tmp_path, 10)
    assert again == rows and updates == 0


@pytest.mark.parametrize("patience", [10, 15])
def test_what_it_has_counted_survives_a_kill(patience, tmp_path):
    """Killed at update 6 of task 1, resumed from update 4; the alarm is raised at 2, or at 7."""
    whole, _, _ = run(tmp_path / "whole", patience)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", patience, kill=14)
    rows, alarm, updates = run(tmp_path / "killed", patience)
    assert len(rows) == len(whole) == 2 and updates == 4
    assert alarm.stopped and len(alarm.alarms) == (patience == 15)


def test_another_run_begins_anew(tmp_path):
    _, alarm, _ = run(tmp_path / "one", 10)
    rows, again, _ = run(tmp_path / "two", 10, alarm=alarm)
    assert again is alarm and len(rows) == 2 and len(alarm.alarms) == 1


def test_fit_goes_on_until_the_next_alarm():
    model = dying()
    monitor = kp.callbacks.Monitor(reference_data=(X, Y))
    alarm = kp.callbacks.PlasticityAlarm(monitor, {"dead_fraction": 0.5}, action="stop")
    lengths = []
    for bias in (-99, -99, 0, -99):
        model.get_layer("hidden").bias.assign(np.full(4, bias))
        history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[monitor, alarm])
        lengths.append(len(history.epoch))
    assert lengths == [1, 2, 2, 1] and len(alarm.alarms) == 2


def test_bad_arguments_are_refused():
    monitor = kp.callbacks.Monitor(probes=[probes.dead_fraction, probes.gradient_norm])
    make = kp.callbacks.PlasticityAlarm
    for arguments, message in (
        ((None, {}), "monitor=None"),
        ((monitor, {"sign_entropy": 1}), "Received: 'sign_entropy'"),
        ((monitor, {"gradient_norm": 1}), "no side worse"),
        ((monitor, {"dead_fraction": ("over", 1)}), "'above'"),
        ((monitor, {"dead_fraction": "high"}), "must be a number"),
        ((monitor, {}, "mail"), "action='mail'"),
        ((monitor, {}, "warn", 0), "patience=0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(*arguments)
