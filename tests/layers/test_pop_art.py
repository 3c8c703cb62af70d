"""PopArt: statistics, outputs that stay, and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.layers.pop_art import PopArt, rescaled, statistics
from tests.reference import pop_art as reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 5)).astype("float32")


def built(**options):
    layer = PopArt(**({"step": 0.1} | options))
    layer.build((None, 5))
    layer.bias.assign(RNG.normal(size=layer.units))
    return layer


def test_statistics_by_hand():
    y = np.float32([[2.0], [4.0]])
    mu, variance = statistics(y, np.float32([1.0]), np.float32([3.0]), 0.5)
    # mean 3, mean square 10; nu = 3 + 1 = 4: mu' = 2, nu' = 7, variance 7 - 4 = 3
    assert float(mu[0]) == 2 and float(variance[0]) == 3


def test_rescaling_by_hand():
    kernel, bias = rescaled(np.float32([[6.0]]), np.float32([1.0]), 1.0, 2.0, 5.0, 4.0)
    assert float(kernel[0, 0]) == 3  # 6 * 2 / 4
    assert float(bias[0]) == -0.5  # (2 * 1 + 1 - 5) / 4


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("units", [1, 3])
def test_against_the_reference(units, debias):
    layer = built(units=units, debias=debias)
    oracle = reference.PopArt(layer.kernel, layer.bias, 0.1, debias)
    for i in range(5):
        y = RNG.normal(3 * i, 1 + i, (8, units)).astype("float32")
        layer.update(y)
        oracle.update(np.float64(y))
        np.testing.assert_allclose(layer.mu, oracle.mu, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.nu, oracle.nu, rtol=1e-4)
        np.testing.assert_allclose(layer.sigma, oracle.sigma, rtol=1e-4)
        np.testing.assert_allclose(layer.kernel, oracle.kernel, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(layer.bias, oracle.bias, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("units", [1, 3])
def test_outputs_stay_when_statistics_move(units, jit):
    layer = built(units=units)
    layer.update(RNG.normal(2, 3, (8, units)).astype("float32"))
    expected, sigma = np.asarray(layer(X)), np.asarray(layer.sigma)
    update = tf.function(lambda y: layer.update(y), jit_compile=jit, autograph=False)
    update(tf.constant(RNG.normal(5, 0.5, (8, units)).astype("float32")))
    assert np.all(np.abs(np.asarray(layer.sigma) / sigma - 1) > 0.01)
    np.testing.assert_allclose(layer(X), expected, atol=1e-5)


def test_outputs_stay_relative_to_large_targets():
    layer = built()
    layer.update(np.float32([0, 1]))
    for mean in (1e3, -1e3, 10.0):
        expected = np.asarray(layer(X))
        layer.update(RNG.normal(mean, 1.0, 64).astype("float32"))
        np.testing.assert_allclose(layer(X), expected, atol=1e-3)  # 1e-6 of the targets


def test_first_batch_sets_the_statistics_alone():
    layer, y = built(step=1e-3), RNG.normal(1000, 0.5, 256).astype("float32")
    layer.update(y[:128])
    assert float(layer.mu[0]) == pytest.approx(y[:128].mean(dtype="float64"), rel=1e-6)
    assert float(layer.sigma[0]) == pytest.approx(y[:128].std(dtype="float64"), rel=1e-3)
    layer.update(y[128:])
    assert float(layer.mu[0]) == pytest.approx(y.mean(dtype="float64"), abs=1e-3)
    slow = built(step=1e-3, debias=False)
    slow.update(y)
    assert float(slow.mu[0]) == pytest.approx(1.0, rel=1e-2)


def test_first_update_moves_outputs_unless_not_debiased():
    y = RNG.normal(1000, 2, 8).astype("float32")
    for debias in (True, False):
        layer = built(debias=debias)
        before = np.asarray(layer(X))
        layer.update(y)
        moved = before * y.std() + y.mean() if debias else before
        np.testing.assert_allclose(layer(X), moved, rtol=1e-4, atol=1e-3)


def test_bounds_of_sigma():
    layer = built(minimum=0.5, maximum=2.0, step=1.0)
    layer.update(np.full(4, 3.0))
    assert float(layer.sigma[0]) == 0.5
    layer.update(np.float32([-50, 50]))
    assert float(layer.sigma[0]) == 2.0


def test_without_preserving_outputs_move_with_the_targets():
    layer = built(preserve_outputs=False)
    layer.update(np.float32([0, 1]))
    layer.mu.assign([0.0])
    layer.variance.assign([1.0])
    kernel, before = np.array(layer.kernel), np.array(layer(X))
    layer.update(RNG.normal(5, 3, (8, 1)))
    np.testing.assert_array_equal(layer.kernel, kernel)
    expected = before * np.asarray(layer.sigma) + np.asarray(layer.mu)
    np.testing.assert_allclose(layer(X), expected, atol=1e-4)


@pytest.mark.parametrize("jit", [False, True])
def test_gradient_of_the_squared_error_is_that_of_normalised_targets(jit):
    layer = built()
    layer.update(RNG.normal(50, 7, 8))
    mu, sigma = np.asarray(layer.mu), np.asarray(layer.sigma)
    y = RNG.normal(50, 7, (16, 1)).astype("float32")
    kernel = tf.constant(np.array(layer.kernel))

    @tf.function(jit_compile=jit, autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(X, training=True) - y) ** 2)
        return loss, tape.gradient(loss, layer.kernel.value)

    with tf.GradientTape() as tape:
        tape.watch(kernel)
        normalised = tf.reduce_mean((X @ kernel + layer.bias - (y - mu) / sigma) ** 2)
    loss, found = gradients()
    np.testing.assert_allclose(found, tape.gradient(normalised, kernel), rtol=1e-3, atol=1e-5)
    assert float(loss) == pytest.approx(float(normalised) * sigma[0] ** 2, rel=1e-3)
    with tf.GradientTape() as tape:
        outputs = tf.reduce_sum(layer(X))
    honest = tape.gradient(outputs, layer.kernel.value)
    np.testing.assert_allclose(honest[:, 0], sigma * X.sum(0), rtol=1e-4, atol=1e-4)


def test_half_precision_returns_float32():
    layer = PopArt(step=0.1, dtype="mixed_float16")
    inputs = keras.Input((5,))
    outputs = layer(inputs)
    assert outputs.dtype == "float32"
    layer.update(RNG.normal(1e5, 1e4, 8))  # more than float16 holds
    values = np.asarray(keras.Model(inputs, outputs)(X))
    assert values.dtype == np.float32 and layer.mu.dtype == "float32"
    assert np.all(np.isfinite(values))
    before = values
    layer.update(RNG.normal(9e4, 2e4, 8))
    np.testing.assert_allclose(layer(X), before, atol=2e-3 * float(layer.sigma[0]))


def test_config_and_saving(tmp_path):
    layer = PopArt(2, 0.1, 0.01, 100.0, False, False, kernel_regularizer="l2", name="head")
    copy = PopArt.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (copy.step, copy.minimum, copy.maximum) == (0.1, 0.01, 100.0)
    assert not copy.debias and not copy.preserve_outputs
    model = keras.Sequential([keras.Input((5,)), PopArt(step=0.1)])
    model.layers[-1].update(RNG.normal(30, 5, 8))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(X), model(X), rtol=1e-6)
    y = RNG.normal(3, 5, 8)
    for one in (model, loaded):
        one.layers[-1].update(y)
    np.testing.assert_allclose(loaded.layers[-1].mu, model.layers[-1].mu)


@pytest.mark.parametrize(
    "options,name",
    [
        ({"step": 0.0}, "step"),
        ({"minimum": 0.0}, "minimum"),
        ({"minimum": 2.0}, "minimum"),
        ({"maximum": 0.5}, "minimum"),
    ],
)
def test_wrong_arguments(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: "):
        PopArt(**options)


def test_activation_and_no_bias_are_refused():
    with pytest.raises(ValueError, match="no activation.*activation='relu'"):
        PopArt(activation="relu")
    with pytest.raises(ValueError, match="must have a bias.*use_bias=False"):
        PopArt(use_bias=False)


def test_targets_of_another_size():
    with pytest.raises(ValueError, match="3 dimensions"):
        built(units=3).update(np.zeros((4, 2)))
