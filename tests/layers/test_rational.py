import keras
import numpy as np
import pytest
from scipy import optimize

import keras_plasticity as kp
from keras_plasticity.layers.rational import coefficients

X = np.linspace(-3, 3, 3001)


def rational(x, numerator, denominator):
    q = np.polyval([*reversed(list(denominator)), 0], x)
    return np.polyval(list(reversed(list(numerator))), x) / (1 + np.abs(q))


def leaky(x, slope):
    return np.where(x > 0, x, slope * x)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0])
def test_begins_as_a_leaky_relu(slope):
    outputs = np.asarray(kp.layers.Rational(slope)(X.astype("float32")))
    error = outputs - leaky(X, slope)
    assert np.sqrt(np.mean(error**2)) < 0.0057 * (1 - slope) + 1e-5
    assert np.abs(error).max() < 0.035 * (1 - slope) + 1e-5
    far = float(kp.layers.Rational(slope)(np.array([[-10.0]], "float32"))[0, 0]) + 10 * slope
    assert far == pytest.approx(-2.196 * (1 - slope), abs=0.01)


def test_no_fit_nearby_is_better():
    first = np.concatenate(coefficients(0.0))

    def error(values):
        return rational(X, values[:6], values[6:]) - leaky(X, 0.0)

    rng, best = np.random.default_rng(0), np.sum(error(first) ** 2)
    for _ in range(2):
        start = first + rng.normal(0, 0.1, 10)
        found = optimize.least_squares(error, start, max_nfev=100)
        assert np.sum(error(start) ** 2) > 1.5 * best
        assert np.sum(found.fun**2) > (1 - 1e-6) * best


def test_any_coefficients_against_numpy():
    rng = np.random.default_rng(1)
    layer = kp.layers.Rational()
    layer.build((None, 4))
    layer.numerator.assign(rng.normal(size=6))
    layer.denominator.assign(rng.normal(size=4))
    x = rng.normal(0, 3, (50, 4)).astype("float32")
    expected = rational(x.astype("float64"), layer.numerator.numpy(), layer.denominator.numpy())
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_half_precision_does_not_overflow():
    layer = kp.layers.Rational(dtype="mixed_float16")
    x = np.array([[-300.0, 12.0, 300.0]], "float16")
    outputs = layer(x)
    assert outputs.dtype == "float16"
    expected = rational(x.astype("float64"), *coefficients(0.01))
    np.testing.assert_allclose(outputs, expected, rtol=2e-3)


def test_learns_another_function():
    x = np.random.default_rng(0).normal(size=(64, 1)).astype("float32")
    inputs = keras.Input((1,))
    model = keras.Model(inputs, kp.layers.Rational()(inputs))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    before = model.evaluate(x, np.sin(x), verbose=0)
    model.fit(x, np.sin(x), epochs=20, verbose=0)
    assert model.evaluate(x, np.sin(x), verbose=0) < 0.1 * before


@pytest.mark.parametrize("slope", [float("nan"), float("inf")])
def test_wrong_slope(slope):
    with pytest.raises(ValueError, match="`negative_slope` must be a finite number.*Received"):
        kp.layers.Rational(slope)
