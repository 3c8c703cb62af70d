import keras
import numpy as np
import pytest

import keras_plasticity as kp

X = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")


@pytest.mark.parametrize("use_bias", [False, True])
def test_is_a_convolution_with_the_kernel_at_its_norm(use_bias):
    options = {"strides": 2, "padding": "same", "use_bias": use_bias, "bias_initializer": "ones"}
    ours = kp.layers.NormalizedConv2D(4, 3, "relu", **options)
    plain = keras.layers.Conv2D(4, 3, activation="relu", **options)
    expected = plain(X)
    ours.build(X.shape)
    ours.kernel.assign(5 * plain.kernel)
    ours.radius.assign(np.linalg.norm(np.asarray(plain.kernel)))
    np.testing.assert_allclose(ours(X), expected, atol=1e-5)


def test_defaults_and_projection():
    layer = kp.layers.NormalizedConv2D(4, (3, 3))
    layer.build(X.shape)
    assert layer.bias is None and layer.compute_output_shape(X.shape) == (2, 3, 3, 4)
    first = np.asarray(layer.kernel)
    np.testing.assert_allclose(layer.kernel.constraint(9 * first), first, rtol=1e-5)
