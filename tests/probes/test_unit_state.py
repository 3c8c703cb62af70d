import keras
import numpy as np
import pytest
from keras import layers

import keras_plasticity as kp
from keras_plasticity import probes
from tests.probes.networks import examples, inputs_of, one_layer


def test_dead_and_linearised_relu_units_are_counted_by_their_biases():
    # |w x| <= 5 for inputs in [-1, 1]: a bias of -9 kills, one of +9 linearises.
    kernel = np.full((2, 8), 2.5)
    inputs = inputs_of(one_layer([-9, -9, -9, 9, 9, 0, 0, 0], kernel=kernel))
    assert probes.dead_fraction(inputs) == {"hidden": 3 / 8}
    assert probes.gradient_dead_fraction(inputs) == {"hidden": 3 / 8}
    assert probes.linearised_fraction(inputs) == {"hidden": 2 / 8}
    entropy = probes.sign_entropy(inputs)["hidden"]
    p = (inputs.x.numpy() @ kernel[:, :1] > 0).mean()
    assert np.isclose(entropy, 3 / 8 * -(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def test_tolerance_admits_units_that_fire_rarely():
    x = np.zeros((1000, 1), "float32")
    x[:5] = 1  # unit 0 is on at 5 examples in 1,000, unit 1 off at as many
    model = one_layer([-0.5, 0.5], inputs=1, kernel=[[1.0, -1.0]])
    inputs = probes.ProbeInputs(model, x)
    assert probes.dead_fraction(inputs) == {"hidden": 0.0}
    assert probes.dead_fraction(inputs, tolerance=0.01) == {"hidden": 0.5}
    assert probes.linearised_fraction(inputs, tolerance=0.001) == {"hidden": 0.0}
    assert probes.linearised_fraction(inputs, tolerance=0.01) == {"hidden": 0.5}


@pytest.mark.parametrize(
    "activation,dead,linear",
    [("leaky_relu", None, 9), ("gelu", -30, 9), ("tanh", 20, None), ("sigmoid", 30, None)],
)
def test_other_nonlinearities(activation, dead, linear):
    biases = [0.0, -15.0 if linear is None else linear, 0.1, 20.0 if dead is None else dead]
    inputs = inputs_of(one_layer(biases, activation, kernel=np.full((2, 4), 2.0)))
    expected_dead = 0 if dead is None else 1 / 4 if linear is not None else 2 / 4
    assert probes.gradient_dead_fraction(inputs)["hidden"] == expected_dead
    found = probes.linearised_fraction(inputs)["hidden"]
    assert found == {"leaky_relu": 2 / 4, "gelu": 1 / 4}.get(activation, 0)


def test_a_relu_that_fires_rarely_is_not_linear():
    x = np.zeros((1000, 1), "float32")
    x[:5] = 1  # positive at 5 of 1,000 examples
    inputs = probes.ProbeInputs(one_layer([-0.5], inputs=1, kernel=[[1.0]]), x)
    assert probes.linearised_fraction(inputs) == {"hidden": 0.0}


def test_a_tanh_unit_of_small_preactivations_is_linear():
    kernel = np.array([[0.05, 3.0], [0.05, 3.0]])
    inputs = inputs_of(one_layer([0.0, 0.0], "tanh", kernel=kernel))
    assert probes.linearised_fraction(inputs) == {"hidden": 0.5}


def test_dormant_scores_are_relative_to_the_layer():
    # Constant activations 1, 1, 0.02 and 0: their scores are 1.98, 1.98, .04 and 0.
    model = one_layer([1, 1, 0.02, 0], kernel=np.zeros((2, 4)))
    inputs = inputs_of(model)
    assert probes.dormant_fraction(inputs) == {"hidden": 1 / 4}
    assert probes.dormant_fraction(inputs, threshold=0.1) == {"hidden": 2 / 4}
    silent = inputs_of(one_layer([-1, -1, -1], kernel=np.zeros((2, 3))))
    assert probes.dormant_fraction(silent) == {"hidden": 1.0}


def test_clones_are_found_among_living_units():
    kernel = np.array([[1.0, 2.0, 0.3, 0, 0], [1.0, 2.0, -1.0, 0, 0]])
    inputs = inputs_of(one_layer([0, 0, 0.1, 1, 1], kernel=kernel))
    assert probes.cloned_fraction(inputs) == {"hidden": 2 / 5}  # constant units are none


def test_a_channel_lives_where_any_position_does():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Conv2D(2, 1, activation="relu", name="conv")]
        + [layers.Flatten(), layers.Dense(2)]
    )
    model.get_layer("conv").set_weights([np.ones((1, 1, 1, 2), "float32"), np.float32([-0.5, -2])])
    x = np.zeros((1000, 4, 4, 1), "float32")
    x[:, 2, 3] = 1
    inputs = probes.ProbeInputs(model, x)
    assert probes.dead_fraction(inputs) == {"conv": 0.5}
    activity = inputs.units("activity")["conv"]
    assert np.allclose(activity["mean_abs"], [0.5 / 16, 0])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_values_that_are_not_finite_give_no_share(activation):
    model = one_layer([0, 0, 0], activation)
    x, y = examples()
    x[7] = np.nan
    inputs = probes.ProbeInputs(model, x, y)
    of_weights = (probes.weight_norm, probes.effective_learning_rate)
    after_relu = (probes.effective_rank, probes.softmax_entropy, probes.logit_norm)
    unaware = (probes.gradient_norm, *after_relu) if activation == "relu" else ()
    for probe in set(probes.DEFAULT) - {*of_weights, *unaware}:  # a ReLU makes zeros of NaN
        try:
            values = probe(inputs)
        except probes.NotApplicableError:
            continue
        assert np.isnan(values.get("hidden", values.get("model"))), probe.__name__


def test_groups_by_hand_serve_a_model_without_a_graph():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = layers.Dense(3, activation="relu"), layers.Dense(2)

        def call(self, x):
            return self.head(self.hidden(x))

    model = Own()
    x, _ = examples()
    model(x)
    inputs = probes.ProbeInputs(model, x)
    with pytest.raises(probes.NotApplicableError, match="graph"):
        probes.dead_fraction(inputs)
    like = keras.Sequential([keras.Input((2,)), model.hidden, model.head])
    inputs = probes.ProbeInputs(model, x, groups=kp.unit_groups(like))
    assert list(probes.dead_fraction(inputs)) == [model.hidden.name]
