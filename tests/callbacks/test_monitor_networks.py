"""Networks of every kind under a monitor, and what it needs of memory."""

import gc
import pathlib
import resource

import keras
import numpy as np
import pytest
from keras import layers

import keras_plasticity as kp
from keras_plasticity import probes
from tests.callbacks.monitored import LOSS, data, fit, network, rows_of
from tests.quick_probes import QUICK
from tests.sample_models import SAMPLES


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
    monitor = kp.callbacks.Monitor(reference_data=(x, y), probes=QUICK)
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


def test_penalties_on_activations():
    x = inputs = keras.Input((4,))
    x = layers.Dense(4, activation="relu", activity_regularizer="l2", name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    model.compile("sgd", LOSS)
    monitor = kp.callbacks.Monitor(probes=QUICK, reference_data=data())
    fit(model, [monitor], epochs=1)
    assert {"gradient_norm", "sample_plasticity"} <= set(monitor.latest)


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


def resident():
    """Kilobytes of memory that the process holds now; the peak would hide a leak below it."""
    gc.collect()
    return (
        int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e3
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a minute or two where nothing else runs
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="read from /proc")
def test_memory_stays_flat_over_500_probes():
    records = []
    monitor = kp.callbacks.Monitor(probes=probes.ALL, every=1, slow_every=25, reference_data=data())
    monitor.listeners.append(lambda row: records.append("trainability_gap" in row["probes"]))
    model = network()
    fit(model, [monitor], epochs=30)
    before = resident()
    records.clear()
    fit(model, [monitor], epochs=125)
    assert len(records) >= 500 and sum(records) >= 20  # all of them, and the expensive ones
    grown = resident() - before
    assert grown < 10_000, f"{grown:.0f} kB more after 500 records"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["resnet50", "vit"])
def test_large_networks_at_64_pixels(kind):
    if kind == "resnet50":
        model = keras.applications.ResNet50(weights=None, input_shape=(64, 64, 3), classes=10)
    else:
        model = kp.models.vit((64, 64, 3), 10, dim=64, depth=4, heads=4, patch=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "vit")
    model.compile("adam", loss, jit_compile=False)
    x = np.random.default_rng(0).normal(size=(64, 64, 64, 3)).astype("float32")
    y = np.arange(64) % 10
    monitor = kp.callbacks.Monitor(reference_data=(x, y))
    model.fit(x, y, verbose=0, callbacks=[monitor])
    assert set(monitor.latest) == {p.__name__ for p in probes.DEFAULT}
    assert all(np.isfinite(list(v.values())).all() for v in monitor.latest.values())
