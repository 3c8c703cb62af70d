import keras
import numpy as np
import pytest

import keras_plasticity as kp

HadamardDense = kp.layers.HadamardDense
X = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")


@pytest.mark.parametrize("use_bias", [True, False])
def test_is_the_product_of_two_dense_layers(use_bias):
    layer = HadamardDense(4, use_bias, bias_initializer=keras.initializers.RandomNormal(seed=1))
    outputs, product = layer(X), 1
    for name in ("", "second_"):
        bias = getattr(layer, f"{name}bias")
        kernel = np.asarray(getattr(layer, f"{name}kernel"))
        product = product * np.tanh(X @ kernel + (np.asarray(bias) if use_bias else 0))
    np.testing.assert_allclose(outputs, product, atol=1e-6)
    assert len(layer.weights) == (4 if use_bias else 2)
    assert layer.compute_output_shape((None, 7, 3)) == (None, 7, 4)


@pytest.mark.parametrize("seed", [None, 3])
def test_branches_are_drawn_apart(seed):
    layer = HadamardDense(30, kernel_initializer=keras.initializers.HeNormal(seed))
    layer.build((None, 30))
    first, second = (np.asarray(v).ravel() for v in (layer.kernel, layer.second_kernel))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15
    assert np.std(first) == pytest.approx((2 / 30) ** 0.5, rel=0.1)
    assert np.std(second) == pytest.approx((2 / 30) ** 0.5, rel=0.1)


def test_resets_know_how_it_draws(caplog):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, HadamardDense(4, kernel_initializer="he_normal")(inputs))
    by = kp.surgery.weights.initializers(model)
    assert {id(v) for v in model.weights} == set(by)
    assert isinstance(by[id(model.weights[2])], keras.initializers.HeNormal)


@pytest.mark.parametrize("units", [0, 2.0, True])
def test_wrong_units(units):
    with pytest.raises(ValueError, match="`units` must be a positive integer.*Received"):
        HadamardDense(units)
