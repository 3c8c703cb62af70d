import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import keras_plasticity as kp
from keras_plasticity.layers.adalin import SLOPES

AdaLin = kp.layers.AdaLin
CURVES = {  # in float64
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "gelu": lambda x: x * stats.norm.cdf(x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("name", SLOPES)
def test_agrees_with_numerical_slopes(name):
    x = np.linspace(-6, 6, 40001)
    x = x[np.abs(x) > 1e-3]
    slope = (CURVES[name](x + 1e-5) - CURVES[name](x - 1e-5)) / 2e-5
    largest = np.abs(slope).max()
    assert SLOPES[name][1] == pytest.approx(largest, rel=1e-5)
    gate = np.cos(np.pi / 2 * np.abs(slope) / largest)
    layer = AdaLin(name, keras.initializers.Constant(0.7))
    outputs = np.asarray(layer(x.astype("float32")[:, None]))[:, 0]
    np.testing.assert_allclose(outputs, CURVES[name](x) + 0.7 * gate * x, atol=2e-3)


def test_relu_is_prelu_per_channel():
    x = np.random.default_rng(0).normal(size=(3, 4, 4, 5)).astype("float32")
    ours, theirs = AdaLin(), keras.layers.PReLU(shared_axes=(1, 2))
    ours.build(x.shape)
    theirs.build(x.shape)
    slopes = np.linspace(-1, 1, 5)
    ours.alpha.assign(slopes)
    theirs.alpha.assign(slopes.reshape(1, 1, 5))
    np.testing.assert_allclose(ours(x), theirs(x), atol=1e-6)
    first = AdaLin(alpha_initializer=keras.initializers.Constant(0.5), axis=1)
    np.testing.assert_allclose(first(x), np.where(x > 0, x, 0.5 * x), atol=1e-6)


def test_no_gradient_goes_through_the_gate():
    x = tf.constant([[-1.5, 0.3, 4.0]])
    layer = AdaLin("tanh", keras.initializers.Constant(0.7))
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
    slope = 1 - np.tanh(x) ** 2
    by_input, by_alpha = tape.gradient(outputs, [x, layer.alpha.value])
    gate = np.cos(np.pi / 2 * slope)
    np.testing.assert_allclose(by_input, slope + 0.7 * gate, atol=1e-6)
    np.testing.assert_allclose(by_alpha, (gate * np.asarray(x))[0], atol=1e-6)


def test_begins_as_the_activation():
    x = np.linspace(-3, 3, 10, dtype="float32")[:, None]
    np.testing.assert_allclose(AdaLin("gelu")(x), keras.activations.gelu(x), atol=1e-6)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`activation` must be one of.*Received: activation="):
        AdaLin("elu")
    with pytest.raises(ValueError, match="`axis` must not be.*Received"):
        AdaLin(axis=0)
