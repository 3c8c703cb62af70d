import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp


def test_length_is_one_and_agrees_with_keras():
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("float32")
    for axis in (-1, [1, 2]):
        outputs = np.asarray(kp.layers.UnitBall(axis)(x))
        axes = tuple(axis) if isinstance(axis, list) else axis
        np.testing.assert_allclose(np.sum(outputs**2, axis=axes), 1, rtol=1e-5)
        np.testing.assert_allclose(outputs, keras.layers.UnitNormalization(axis)(x), atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_zero_has_a_gradient(jit_compile):
    def gradient(layer):
        @tf.function(jit_compile=jit_compile)
        def function(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                first = layer(x)[:, 0]
            return tape.gradient(first, x)

        return function(tf.constant([[0.0, 0.0], [3.0, 4.0]])).numpy()

    ours, theirs = gradient(kp.layers.UnitBall(epsilon=0.01)), keras.layers.UnitNormalization()
    np.testing.assert_allclose(ours, [[100, 0], [16 / 125, -12 / 125]], rtol=1e-5)
    assert not np.abs(gradient(theirs)[0]).max() < 1e11  # why it is here; NaN with XLA


def test_short_vectors():
    x = np.array([[3e-4, 4e-4]], "float32")
    np.testing.assert_allclose(kp.layers.UnitBall()(x), [[0.3, 0.4]], rtol=1e-5)
    with pytest.raises(ValueError, match="`epsilon` must be positive.*Received"):
        kp.layers.UnitBall(epsilon=0)


def test_half_precision_does_not_overflow():
    x = np.array([[300.0, -400.0]], "float16")
    outputs = kp.layers.UnitBall(dtype="mixed_float16")(x)
    assert outputs.dtype == "float16"
    np.testing.assert_allclose(outputs, [[0.6, -0.8]], rtol=1e-3)
