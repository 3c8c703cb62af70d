"""Pieces of a pass in chunks against NumPy on all examples at once."""

import keras
import numpy as np
import pytest
import scipy.stats
from keras import layers

from keras_plasticity import probes
from keras_plasticity.probes.forward import Forward
from tests import sample_models
from tests.quick_probes import QUICK


def conv_net():
    x = inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(3, 3, name="conv")(x)
    x = layers.Activation("tanh", name="act")(layers.BatchNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(2, name="output")(layers.Flatten()(x)))


@pytest.mark.parametrize("rows", [1000, 7])
def test_chunks_are_put_together_right(rows):
    model = conv_net()
    x = np.random.default_rng(0).normal(3, 2, (50, 5, 5, 2)).astype("float32")
    a = keras.Model(model.input, model.get_layer("norm").output)(x).numpy().reshape(-1, 3)
    h = np.tanh(a)
    inputs = probes.ProbeInputs(model, x)
    inputs._forward.rows = rows
    found = {name: inputs.units(name)["conv"] for name in ("preactivation", "moments", "fit")}
    p = found["preactivation"]
    assert np.allclose(p["mean"], a.mean(0), atol=1e-5)
    assert np.allclose(p["m2"], a.var(0), rtol=1e-4)
    assert np.allclose(p["positive"], (a > 0).mean(0))
    assert np.allclose(found["moments"]["m3"], scipy.stats.moment(a, 3), rtol=1e-3, atol=1e-4)
    assert np.allclose(found["moments"]["m4"], scipy.stats.moment(a, 4), rtol=1e-3)
    covariance = np.mean((a - a.mean(0)) * (h - h.mean(0)), 0)
    assert np.allclose(found["fit"]["m_xy"], covariance, rtol=1e-3)
    assert np.allclose(inputs.units("derivative")["conv"]["max"], (1 - h**2).max(0), rtol=1e-4)
    activity = inputs.units("activity")["conv"]
    assert np.allclose(activity["mean_abs"], np.abs(h).mean(0), rtol=1e-5)
    features = inputs.units("features")["conv"]
    assert np.allclose(features, h.reshape(50, 9, 3).mean(1), atol=1e-5)
    assert inputs.features.shape == (50, 27)  # what the output layer reads
    assert np.allclose(inputs.outputs, model(x), atol=1e-5)


def test_one_pass_serves_all_probes_and_is_not_traced_again():
    model = conv_net()
    x = np.random.default_rng(0).normal(size=(20, 5, 5, 2)).astype("float32")
    inputs = probes.ProbeInputs(model, x)
    calls = []
    run = Forward._chunk
    inputs._forward._chunk = lambda x, pieces: (
        calls.append(pieces) or run(inputs._forward, x, pieces)
    )
    inputs.expect(["activity", "preactivation"])
    for _ in range(3):
        inputs.refresh(x[:15])
        probes.dead_fraction(inputs)
        probes.preactivation_mean(inputs)
        inputs.refresh(x)
        probes.sign_entropy(inputs)
    # The second for any number of examples; none for a third.
    assert calls == 2 * [{"activity", "preactivation"}]


@pytest.mark.parametrize("name", sample_models.SAMPLES)
def test_every_probe_runs_on_every_kind_of_network(name):
    model = sample_models.SAMPLES[name]()
    every = probes.ALL if name == "mlp" else QUICK
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = np.random.default_rng(0).normal(size=(40, *model.input_shape[1:])).astype("float32")
    before = [np.array(v) for v in (*model.variables, *model.optimizer.variables)]
    inputs = probes.ProbeInputs(model, x, np.arange(40) % 3)
    applied = set()
    for _ in range(2):
        for probe in every:
            try:
                values = probe(inputs)
            except probes.NotApplicableError:
                continue
            applied.add(probe)
            assert values and all(np.isfinite(v) for v in values.values()), probe
        inputs.initial = inputs.previous = inputs.snapshot()
        inputs.refresh()
    assert set(every) - applied <= {probes.pseudo_bias, probes.output_mean}
    after = [np.array(v) for v in (*model.variables, *model.optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_bad_examples_are_refused():
    model = conv_net()
    with pytest.raises(ValueError, match="same number of examples.*Received"):
        probes.ProbeInputs(model, np.zeros((3, 5, 5, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="at least one"):
        probes.ProbeInputs(model, np.zeros((0, 5, 5, 2)))


def test_what_a_probe_says_of_itself():
    import functools

    about = probes.describe(functools.partial(probes.dead_fraction, tolerance=0.05))
    assert about["name"] == "dead_fraction(0.05)" and about["better"] == "lower"
    assert about["params"] == {"tolerance": 0.05}
    assert probes.describe(functools.partial(probes.dead_fraction, tolerance=0.0))["name"] == (
        "dead_fraction"
    )
    with pytest.raises(ValueError, match="better"):
        probes.probe("share", better="up")
    with pytest.raises(ValueError, match="function of"):
        probes.describe("dead_fraction")
