import numpy as np
import pytest

import keras_plasticity as kp

X = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")


@pytest.mark.parametrize("axis", [-1, 1, 3])
def test_crelu(axis):
    layer = kp.layers.CReLU(axis)
    expected = np.concatenate([np.maximum(X, 0), np.maximum(-X, 0)], axis)
    np.testing.assert_array_equal(layer(X), expected)
    assert layer.compute_output_shape(X.shape) == expected.shape
    assert layer.compute_output_shape((None, None, 4, None))[-1] is None


@pytest.mark.parametrize("axis", [0, 1.0, None, True])
def test_wrong_axis(axis):
    with pytest.raises(ValueError, match="`axis` must be an integer other than 0.*Received"):
        kp.layers.CReLU(axis)
