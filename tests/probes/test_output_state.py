import keras
import numpy as np
import pytest
import scipy.special
from keras import layers

from keras_plasticity import probes


def linear(outputs, inputs=3, loss=None, activation=None):
    model = keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(outputs, activation=activation, use_bias=False)]
    )
    if loss:
        model.compile("sgd", loss)
    return model


LOGITS = np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 9.0, 1.0]], "float32")


@pytest.mark.parametrize("softmax", [False, True])
def test_softmax_by_hand(softmax):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
    model = linear(3, loss=loss, activation="softmax" if softmax else None)
    model.set_weights([np.eye(3)])
    inputs = probes.ProbeInputs(model, LOGITS, np.array([0, 1, 2]))
    p = scipy.special.softmax(LOGITS.astype("float64"), -1)
    entropy = -(p * np.log(p)).sum(-1).mean()
    assert probes.softmax_entropy(inputs)["model"] == pytest.approx(entropy, rel=1e-4)
    assert probes.saturated_fraction(inputs)["model"] == pytest.approx(1 / 3)
    assert probes.saturated_fraction(inputs, above=0.98)["model"] == pytest.approx(2 / 3)
    assert probes.max_probability(inputs)["model"] == pytest.approx(p.max(-1).mean(), rel=1e-5)
    assert probes.logit_margin(inputs)["model"] == pytest.approx((5 + 0 + 8) / 3, rel=1e-4)
    centred = LOGITS - LOGITS.mean(-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1).mean()
    assert probes.logit_norm(inputs)["model"] == pytest.approx(norm, rel=1e-4)


def test_what_is_a_classifier():
    x, y = np.zeros((4, 3), "float32"), np.array([0, 1, 2, 0])
    assert probes.ProbeInputs(linear(3), x, y).classifies  # labels within the outputs
    assert not probes.ProbeInputs(linear(3), x, np.zeros((4, 3), "float32")).classifies
    assert not probes.ProbeInputs(linear(3, loss="mse"), x, y).classifies
    assert probes.ProbeInputs(linear(3, loss="sparse_categorical_crossentropy"), x, y).classifies
    named = linear(3, loss=keras.losses.sparse_categorical_crossentropy)
    assert probes.ProbeInputs(named, x, y).classifies
    listed = linear(3, loss=[keras.losses.SparseCategoricalCrossentropy(from_logits=True)])
    assert probes.ProbeInputs(listed, x, y).classifies
    own = linear(3, loss=lambda y, f: keras.losses.sparse_categorical_crossentropy(y, f))
    assert probes.ProbeInputs(own, x, y).classifies
    assert not probes.ProbeInputs(linear(3, loss="binary_crossentropy"), x, y).classifies
    regression = probes.ProbeInputs(linear(1, loss="mse"), x, np.zeros(4))
    with pytest.raises(probes.NotApplicableError, match="classifier"):
        probes.softmax_entropy(regression)


def regression(features):
    """A network whose last features are the inputs themselves, and who sums them up."""
    model = keras.Sequential([keras.Input((features,)), layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((features, 1))])
    model.compile("sgd", "mse")
    return model


def test_a_direction_that_carries_the_mean_is_a_pseudo_bias():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(500, 4)).astype("float32")
    y = np.zeros(500)
    without = probes.pseudo_bias(probes.ProbeInputs(regression(4), x, y))["model"]
    shifted = probes.pseudo_bias(probes.ProbeInputs(regression(4), x + 50, y))["model"]
    assert without < 0.5 and shifted > 0.99
    inputs = probes.ProbeInputs(regression(4), x + 50, y)
    assert probes.output_mean(inputs)["model"] == pytest.approx((x + 50).sum(1).mean(), rel=1e-5)
    assert probes.output_deviation(inputs)["model"] == pytest.approx(x.sum(1).std(), rel=1e-3)


def test_churn_is_what_changed_since_before():
    model = regression(2)
    inputs = probes.ProbeInputs(model, np.ones((5, 2), "float32"))
    assert inputs.outputs.shape == (5, 1)
    inputs.previous = inputs.snapshot()
    model.set_weights([np.array([[1.0], [3.5]])])
    inputs.refresh()
    assert probes.churn(inputs) == {"model": 2.5}
