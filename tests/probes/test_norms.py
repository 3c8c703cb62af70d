import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_plasticity import probes
from tests.probes.networks import inputs_of, one_layer


def weights(model):
    return {v.path: np.array(v) for v in model.trainable_variables}


def test_sizes_by_hand():
    model = one_layer([1.0, 2.0], kernel=[[3.0, 0.0], [0.0, -4.0]])
    model.get_layer("output").set_weights([np.zeros((2, 2)), np.zeros(2)])
    inputs = inputs_of(model)
    assert probes.weight_norm(inputs) == {
        "hidden": 5.0,
        "output": 0.0,
        "model": pytest.approx(30**0.5),
    }
    assert probes.weight_magnitude(inputs)["hidden"] == 7 / 4
    assert probes.spectral_norm(inputs)["hidden"] == pytest.approx(4)
    rates = probes.effective_learning_rate(inputs)  # SGD(0.1)
    assert rates["hidden"] == pytest.approx(0.1 / 25) and rates["output"] == np.inf
    model.compile(keras.optimizers.Adam(0.1), "mse")
    assert probes.effective_learning_rate(inputs)["hidden"] == pytest.approx(0.1 / 5)


def test_changes_since_the_beginning_and_since_before():
    model = one_layer([0.0, 0.0], kernel=[[1.0, 0.0], [0.0, 1.0]])
    inputs = inputs_of(model)
    inputs.initial = inputs.previous = inputs.snapshot()
    c, s = np.cos(0.01), np.sin(0.01)
    model.get_layer("hidden").kernel.assign([[2 * c, -2 * s], [2 * s, 2 * c]])
    inputs.refresh()
    moved = np.linalg.norm([[2 * c - 1, -2 * s], [2 * s, 2 * c - 1]])
    assert probes.distance_from_initialisation(inputs)["hidden"] == pytest.approx(moved, rel=1e-5)
    assert probes.update_norm(inputs)["hidden"] == pytest.approx(moved, rel=1e-5)
    assert probes.relative_update(inputs)["hidden"] == pytest.approx(moved / 2**0.5, rel=1e-5)
    assert probes.cosine_to_initialisation(inputs)["hidden"] == pytest.approx(c, rel=1e-5)
    assert probes.rotation(inputs)["hidden"] == pytest.approx(0.01, rel=1e-2)
    assert probes.update_norm(inputs)["output"] == 0


def test_an_angle_of_half_a_turn():
    model = one_layer([0.0], inputs=2, kernel=[[1.0], [2.0]])
    inputs = inputs_of(model)
    inputs.previous = inputs.snapshot()
    model.get_layer("hidden").kernel.assign([[-1.0], [-2.0]])
    inputs.refresh()
    assert probes.rotation(inputs)["hidden"] == pytest.approx(np.pi, rel=1e-3)


def test_gradients_against_a_tape():
    model = one_layer([0.1, -0.2, -9.0])
    inputs = inputs_of(model, count=300)
    x, y = inputs.x[:256], inputs.y[:256]
    with tf.GradientTape() as tape:
        loss = model.loss(y, model(x))
    expected = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for a, b in zip(inputs.gradients.values(), expected, strict=True):
        assert np.allclose(a, b, atol=1e-6)
    norm = probes.gradient_norm(inputs)
    assert norm["hidden"] == pytest.approx(np.linalg.norm(expected[0]), rel=1e-4)
    total = np.sqrt(sum(np.sum(np.square(g)) for g in expected))
    assert norm["model"] == pytest.approx(total, rel=1e-4)
    zeros = probes.zero_gradient_fraction(inputs)
    assert zeros["hidden"] == pytest.approx(1 / 3)  # of the unit that is dead


def test_effective_learning_rate_of_a_scale_invariant_layer():
    """Two networks that differ in the scale of a normalised kernel turn by lr / |W|**2 a step."""

    def turned(scale):
        x = inputs = keras.Input((6,))
        x = layers.Dense(8, use_bias=False, name="hidden")(x)
        x = layers.LayerNormalization(center=False, scale=False, epsilon=1e-12)(x)
        model = keras.Model(inputs, layers.Dense(2, name="output")(layers.ReLU()(x)))
        generator = np.random.default_rng(0)
        kernels = [generator.normal(size=s) for s in ((6, 8), (8, 2))]
        model.set_weights([scale * kernels[0], kernels[1], np.zeros(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-2), loss)
        probed = inputs_of(model, count=64)
        rate = probes.effective_learning_rate(probed)["hidden"]
        probed.previous = probed.snapshot()
        model.train_on_batch(probed.x, probed.y)
        probed.refresh()
        return rate, probes.rotation(probed)["hidden"]

    (rate_1, turn_1), (rate_3, turn_3) = turned(1.0), turned(3.0)
    assert rate_1 / rate_3 == pytest.approx(9, rel=1e-5)
    assert turn_1 / turn_3 == pytest.approx(9, rel=2e-2)


def test_what_needs_more_says_so():
    model = one_layer([0.0, 0.0])
    inputs = probes.ProbeInputs(model, np.zeros((3, 2), "float32"))
    for probe, why in (
        (probes.gradient_norm, "targets"),
        (probes.update_norm, "previous"),
        (probes.distance_from_initialisation, "initial"),
        (probes.churn, "previous"),
        (probes.preactivation_mean_shift, "initial"),
    ):
        with pytest.raises(probes.NotApplicableError, match=why):
            probe(inputs)
    bare = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    inputs = probes.ProbeInputs(bare, np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(probes.NotApplicableError, match="compiled with a loss"):
        probes.gradient_norm(inputs)
    with pytest.raises(probes.NotApplicableError, match="no hidden units"):
        probes.dead_fraction(inputs)
