"""Tests of the learnable factor per unit."""

import keras
import numpy as np
import pytest

from keras_plasticity.layers.diagonal import Diagonal
from keras_plasticity.optimizers import DecayPolicy

X = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")


def test_by_hand():
    layer = Diagonal()
    assert np.array_equal(layer(X), X)  # factors start at one
    layer.scale.assign([1.0, -2.0, 0.5])
    np.testing.assert_allclose(layer(X), X * [1, -2, 0.5], rtol=1e-6)
    assert layer.compute_output_shape((None, 3)) == (None, 3)
    assert not DecayPolicy().chooses(layer.scale)


def test_factors_of_channels():
    layer = Diagonal()
    images = np.ones((2, 3, 3, 4), "float32")
    layer.build(images.shape)
    layer.scale.assign([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(layer(images)[1, 2, 2], [1, 2, 3, 4])


@pytest.mark.parametrize("jit", [False, True])
def test_learns_saves_and_loads(jit, tmp_path):
    inputs = keras.Input((3,))
    layer = Diagonal(name="diagonal")
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
    model.fit(X, 3 * X, batch_size=4, verbose=0)
    # d/ds mean((s * x - 3 * x)**2) at s = 1, over 4 examples and 3 units
    np.testing.assert_allclose(layer.scale, 1 + 0.1 * 4 * np.sum(X**2, 0) / 12, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert Diagonal.from_config(layer.get_config()).get_config() == layer.get_config()


def test_in_mixed_precision():
    layer = Diagonal(dtype="mixed_float16")
    assert layer(X).dtype == "float16" and layer.scale.dtype == "float32"
