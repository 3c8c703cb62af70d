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


@pytest.mark.parametrize("patience,tasks", [(1, 1), (3, 2)])
def test_it_ends_a_run_after_the_task(patience, tasks, tmp_path):
    source = kp.streams.from_arrays(X[:, :, None, None], Y)
    stream = kp.streams.make(source, num_tasks=4, transforms=[], batch_size=10, epochs=1)
    monitor = kp.callbacks.Monitor()
    alarm = kp.callbacks.PlasticityAlarm(monitor, {"logit_norm": 0.0}, "stop", patience)
    rows = kp.experiment.run(
        stream, kp.models.mlp, "sgd", [monitor, alarm], run_dir=tmp_path, progress=False
    )
    assert len(rows) == tasks and rows[-1]["step"] == 4 * tasks


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
