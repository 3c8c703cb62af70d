import numpy as np

import keras_plasticity as kp


def test_deep_fourier():
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    layer = kp.layers.DeepFourier()
    outputs = np.asarray(layer(x))
    np.testing.assert_allclose(outputs, np.concatenate([np.sin(x), np.cos(x)], -1), atol=1e-6)
    assert layer.compute_output_shape((None, 3)) == (None, 6)
    np.testing.assert_allclose(outputs[:, :3] ** 2 + outputs[:, 3:] ** 2, 1, rtol=1e-6)
