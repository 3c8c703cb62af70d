import numpy as np
import pytest

import keras_plasticity as kp

X = np.linspace(-40, 40, 8001)


def formula(x, alpha=0.1, p=3.0, c=5.0):
    return alpha * x + (1 - alpha) * x / (1 + np.exp(-c * x / p))


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "p": 1.0, "c": 2.0}])
def test_formula(options):
    outputs = kp.layers.SmoothLeakyReLU(**options)(X.astype("float32"))
    np.testing.assert_allclose(outputs, formula(X, **options), atol=1e-5)


def test_slopes_far_from_zero_and_least_slope():
    slopes = np.diff(formula(X)) / np.diff(X)
    y = np.asarray(kp.layers.SmoothLeakyReLU()(X.astype("float32")))
    assert (y[-1] - y[-101]) / (X[-1] - X[-101]) == pytest.approx(1, abs=1e-4)
    assert (y[100] - y[0]) / (X[100] - X[0]) == pytest.approx(0.1, abs=1e-4)
    assert slopes.min() > 0.01
    least = np.diff(formula(X, alpha=0.08)) / np.diff(X)
    assert least.min() < 0


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"alpha": 1.1}, {"p": 0}, {"c": -1}])
def test_wrong_arguments(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"`{name}` must be.*Received: {name}="):
        kp.layers.SmoothLeakyReLU(**options)
