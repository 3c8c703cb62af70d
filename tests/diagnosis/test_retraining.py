"""What large targets explain is told by fresh copies that are trained on them."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.diagnosis import diagnose
from keras_plasticity.diagnosis.retraining import OWN, beyond
from tests.diagnosis import planted

STATES = ("dead_units", "linearised_units", "rank_collapse")


@pytest.fixture(scope="module")
def network():
    """An MLP with layer normalisation that was trained on targets of 1,000, and plants in it."""
    model, data = planted.planted("mlp+ln", "large_targets", seed=3)
    weights = model.get_weights()

    def with_planted(mechanism=None):
        model.set_weights(weights)
        if mechanism:
            plant, dose, _ = planted.PLANTS[mechanism]
            plant(model, dose, 3)
        return model, data

    return with_planted


def test_beyond_by_hand():
    d = beyond(np.array([10.0, 30.0]), np.array([0.5, 0.5]), np.array([0.0, 0.5]))
    assert d == pytest.approx(200 * 0.5 / (200 + 30))
    assert beyond(np.array([4.0]), np.array([0.25]), np.array([0.5])) == pytest.approx(-0.5)
    assert beyond(np.array([4.0]), np.array([1.0]), np.array([1.0])) == 0


def test_beyond_is_the_share_that_a_second_cause_takes():
    rng = np.random.default_rng(0)
    there = rng.uniform(0, 0.9, 5)
    for d in (0.0, 0.3, 1.0):
        here = there + d * (1 - there)
        assert beyond(rng.integers(8, 99, 5).astype(float), here, there) == pytest.approx(d)


def test_what_targets_alone_bring_about_follows_from_them(network):
    diagnosis = diagnose(*network())
    assert [f.mechanism for f in diagnosis.causes] == ["large_targets"]
    followed = [diagnosis[name] for name in STATES if diagnosis[name].at_work]
    assert followed
    for finding in followed:
        (excess,) = (e.value for e in finding.evidence if e.indicator.startswith("excess"))
        assert excess < OWN


@pytest.mark.parametrize("mechanism", STATES)
def test_what_was_there_besides_is_a_cause_of_its_own(network, mechanism):
    diagnosis = diagnose(*network(mechanism))
    assert [f.mechanism for f in diagnosis.causes] == ["large_targets", mechanism]
    (excess,) = (e for e in diagnosis[mechanism].evidence if e.indicator.startswith("excess"))
    assert excess.value > OWN
    assert "fresh copies" in excess.text


def test_training_copies_touches_nothing(network):
    model, data = network("dead_units")
    before = [w.copy() for w in model.get_weights()]
    state = [np.array(v) for v in model.optimizer.variables]

    def draws():
        return random.random(), np.random.rand(), float(tf.random.uniform(()))

    def seeded():
        random.seed(5)
        np.random.seed(5)
        tf.random.set_seed(5)

    seeded()
    wanted = draws()
    seeded()
    diagnosis = diagnose(model, data)
    assert draws() == wanted
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(state, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))
    assert "dead_units" in {f.mechanism for f in diagnosis.causes}


class Nameless(keras.layers.Layer):
    """Cannot be made from its configuration."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


def regression(optimizer, *extra):
    """A network with half of its units dead, and targets of 1,000."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(16, activation="relu", name="hidden")(inputs)
    for layer in extra:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(optimizer, "mse")
    bias = np.where(np.arange(16) < 10, -99, 0).astype("float32")
    model.get_layer("hidden").bias.assign(bias)
    x = np.random.default_rng(0).standard_normal((1000, 4)).astype("float32")
    return model, (x, 1000 + x[:, 0])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("adam", Nameless(2.0)), "cannot be copied"),
        ((keras.optimizers.SGD(1e12),), "an error of nan"),
    ],
)
def test_where_no_copy_can_tell_units_follow(arguments, reason):
    diagnosis = diagnose(*regression(*arguments))
    assert diagnosis["dead_units"].follows_from == ("large_targets",)
    assert "not tested: " in diagnosis["dead_units"].reason
    assert reason in diagnosis["dead_units"].reason


def test_copies_that_came_less_far_than_the_network_tell_nothing():
    model, (x, y) = regression(keras.optimizers.SGD(1e-9))
    diagnosis = diagnose(model, (x, y))
    assert "dead_units" in {f.mechanism for f in diagnosis.causes}  # neither has learned
    head = model.layers[-1]
    head.kernel.assign(head.kernel.value * 200)  # its outputs reach the targets more nearly
    outputs = model.predict(x, verbose=0)[:, 0]
    diagnosis = diagnose(model, (x, outputs + 30))
    assert diagnosis["large_targets"].at_work
    assert "fresh copies were left with an error of" in diagnosis["dead_units"].reason
