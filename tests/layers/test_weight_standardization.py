import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp

RNG = np.random.default_rng(0)
WS = kp.layers.WeightStandardization


def standardized(v, gain, epsilon=1e-4):
    flat = np.asarray(v, np.float64).reshape(-1, v.shape[-1])
    w = (flat - flat.mean(0)) / np.sqrt(flat.var(0) * len(flat) + epsilon)
    return (w * np.asarray(gain)).reshape(v.shape)


CASES = {
    "Dense": (lambda: keras.layers.Dense(4, "tanh", bias_initializer="ones"), (3, 6)),
    "Conv1D": (lambda: keras.layers.Conv1D(4, 3, bias_initializer="ones"), (2, 6, 2)),
    "Conv2D": (lambda: keras.layers.Conv2D(4, 3, groups=2, strides=2), (2, 6, 6, 2)),
    "NormalizedDense": (lambda: keras.layers.Dense(4, use_bias=False), (2, 3, 6)),
}


@pytest.mark.parametrize("make,shape", CASES.values(), ids=CASES)
def test_is_the_layer_with_another_kernel(make, shape):
    x = RNG.normal(size=shape).astype("float32")
    inner, plain = make(), make()
    layer = WS(inner)
    layer.build(shape)
    plain.build(shape)
    inner.kernel.assign(RNG.normal(1, 2, inner.kernel.shape))
    layer.gain.assign(RNG.normal(size=4))
    plain.kernel.assign(standardized(np.asarray(inner.kernel), layer.gain))
    outputs = layer(x)
    np.testing.assert_allclose(outputs, plain(x), atol=1e-5)
    assert layer.compute_output_shape(shape) == outputs.shape
    inner.kernel.assign(100 * inner.kernel + 3)
    np.testing.assert_allclose(layer(x), outputs, atol=1e-3)


def test_by_hand():
    layer = WS(keras.layers.Dense(1, use_bias=False), gain=False, epsilon=1e-12)
    layer.build((None, 2))
    layer.layer.kernel.assign([[1.0], [3.0]])  # mean 2, sum of squares about it 2
    np.testing.assert_allclose(layer(np.eye(2)), [[-(0.5**0.5)], [0.5**0.5]], rtol=1e-6)
    assert len(layer.trainable_variables) == 1


def test_gradients_reach_the_raw_kernel_and_leave_mean_and_scale_alone():
    layer = WS(keras.layers.Dense(4), epsilon=1e-12)
    x = RNG.normal(size=(5, 6)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(layer(x) - 1))
    kernel = layer.layer.kernel
    gradients = tape.gradient(loss, [kernel.value, layer.gain.value, layer.layer.bias.value])
    assert all(np.abs(g).max() > 0.1 for g in gradients)
    np.testing.assert_allclose(np.sum(gradients[0], 0), 0, atol=1e-4)
    np.testing.assert_allclose(np.sum(gradients[0] * np.asarray(kernel), 0), 0, atol=1e-4)


def test_regularizer_of_the_layer_sees_the_raw_kernel():
    layer = WS(keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.5)))
    layer(np.ones((2, 3), "float32"))
    expected = 0.5 * np.sum(np.square(layer.layer.kernel))
    assert float(sum(layer.losses)) == pytest.approx(float(expected))


def test_stateless_calls_see_other_values_of_all_weights():
    model = keras.Sequential([keras.Input((3,)), WS(keras.layers.Dense(4))])
    others = [RNG.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
    x = RNG.normal(size=(5, 3)).astype("float32")
    outputs, _ = model.stateless_call(others, [], x)
    for variable, value in zip(model.trainable_variables, others, strict=True):
        variable.assign(value)
    np.testing.assert_allclose(outputs, model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_penalty_on_activations_is_that_of_the_layer(rank):
    kind = [lambda **k: keras.layers.Dense(4, **k), lambda **k: keras.layers.Conv1D(4, 2, **k)]
    inner = kind[rank](activity_regularizer=keras.regularizers.L2(0.5))
    layer = WS(inner)
    x = np.ones((2, 5, 3), "float32")
    outputs = layer(x)
    (penalty,) = layer.losses
    assert float(penalty) == pytest.approx(0.5 * np.sum(np.square(outputs)) / 2, rel=1e-5)
    model = keras.Sequential([keras.Input((5, 3)), layer])
    model.compile("sgd", loss=lambda y, p: 0.0 * keras.ops.mean(p))
    loss = model.evaluate(x, np.array(outputs), verbose=0)
    assert loss == pytest.approx(float(penalty), rel=1e-5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`layer` must be one of Dense.*Received"):
        WS(keras.layers.ReLU())
    with pytest.raises(ValueError, match="`epsilon` must be positive.*Received"):
        WS(keras.layers.Dense(2), epsilon=0)
    with pytest.raises(ValueError, match="`layer` must hold its kernel as one variable"):
        WS(keras.layers.Dense(2, lora_rank=1)).build((None, 3))
