"""Cosine logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.layers.normalized_logits import NormalizedLogits

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 5)).astype("float32")


def test_by_hand():
    layer = NormalizedLogits(2, scale=3.0)
    layer.build((None, 2))
    layer.kernel.assign([[2.0, 1.0], [0.0, 1.0]])
    expected = 3 * np.array([[0.6, 1.4 / np.sqrt(2)], [0, 0]])
    np.testing.assert_allclose(layer(np.float32([[3, 4], [0, 0]])), expected, atol=1e-6)


def test_against_numpy_and_bound():
    layer = NormalizedLogits(4, scale=7.0)
    outputs = np.asarray(layer(1e6 * X))
    kernel = np.asarray(layer.kernel)
    cosines = (X / np.linalg.norm(X, axis=1, keepdims=True)) @ (
        kernel / np.linalg.norm(kernel, axis=0)
    )
    np.testing.assert_allclose(outputs, 7 * cosines, rtol=1e-4, atol=1e-5)
    assert np.abs(outputs).max() <= 7 * (1 + 1e-6)


def test_scales_of_features_and_kernel_do_not_matter():
    layer = NormalizedLogits(4)
    expected = np.asarray(layer(X))
    layer.kernel.assign(np.array(layer.kernel) * 50)
    np.testing.assert_allclose(layer(0.01 * X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_trains_in_fit(jit, dtype):
    inputs = keras.Input((5,))
    layer = NormalizedLogits(2, learn_scale=True, dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    optimizer = keras.optimizers.Adam(0.05)
    if dtype != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit)
    x = RNG.normal(size=(128, 5)).astype("float32") * 1e3  # squares exceed float16
    y = (x[:, 0] > x[:, 1]).astype("int32")
    model.fit(x, y, epochs=8, batch_size=16, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.9
    assert float(layer.learned_scale) != 10
    assert keras.backend.standardize_dtype(layer(x).dtype) == layer.compute_dtype


def test_xla_equals_plain():
    layer = NormalizedLogits(4)
    layer.build(X.shape)
    plain, compiled = (
        tf.function(lambda x: layer(x), jit_compile=jit)(tf.constant(X)) for jit in (False, True)
    )
    np.testing.assert_allclose(plain, compiled, rtol=1e-5, atol=1e-6)


def test_config_and_saving(tmp_path):
    layer = NormalizedLogits(3, 4.0, True, 1e-6, "ones", keras.regularizers.L2(0.1), "max_norm")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    assert (copy.scale, copy.learn_scale, copy.epsilon) == (4.0, True, 1e-6)
    assert layer.compute_output_shape((7, 2, 5)) == layer(RNG.normal(size=(7, 2, 5))).shape
    model = keras.Sequential([keras.Input((5,)), NormalizedLogits(3, learn_scale=True)])
    model.layers[-1].learned_scale.assign(2.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(X), model(X), rtol=1e-6)


@pytest.mark.parametrize(
    "options,name",
    [({"units": 0}, "units"), ({"scale": 0.0}, "scale"), ({"epsilon": 0}, "epsilon")],
)
def test_wrong_arguments(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        NormalizedLogits(**({"units": 2} | options))
