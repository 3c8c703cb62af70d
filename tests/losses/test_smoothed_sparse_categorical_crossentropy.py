"""Label smoothing on integer labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.losses import SmoothedSparseCategoricalCrossentropy as Smoothed

RNG = np.random.default_rng(0)
Y, LOGITS = RNG.integers(0, 5, 12), RNG.normal(size=(12, 5)).astype("float32")


def test_by_hand():
    loss = Smoothed(0.2)
    logits = np.log(np.float32([[0.5, 0.25, 0.25, 1e-9]]))
    probabilities = np.array([0.5, 0.25, 0.25, 1e-9])
    expected = -(np.array([0.85, 0.05, 0.05, 0.05]) * np.log(probabilities)).sum()
    assert float(loss([0], logits)) == pytest.approx(expected, rel=1e-5)
    priced = Smoothed(0.2, logit_penalty=0.1)
    expected += 0.1 * (np.log(probabilities) ** 2).sum()
    assert float(priced([[0]], logits)) == pytest.approx(expected, rel=1e-5)


def test_against_keras():
    keras_ = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    expected = keras_(keras.ops.one_hot(Y, 5), LOGITS)
    assert float(Smoothed()(Y, LOGITS)) == pytest.approx(float(expected), rel=1e-5)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(Y, LOGITS)
    assert float(Smoothed(0.0)(Y, LOGITS)) == pytest.approx(float(plain), rel=1e-6)


def test_least_at_a_finite_margin():
    margin = np.log((0.9 + 0.01) / 0.01)
    assert margin == pytest.approx(4.5, abs=0.02)  # of the docstring
    losses = [
        float(Smoothed()([0], [[m] + [0.0] * 9])) for m in (margin - 0.1, margin, margin + 0.1)
    ]
    assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_margin_that_training_ends_at(jit, dtype):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False, dtype=dtype)(inputs))
    optimizer = keras.optimizers.Adam(0.2)
    if dtype != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, Smoothed(0.2), metrics=["accuracy"], jit_compile=jit)
    x, y = np.eye(2, dtype="float32"), np.array([0, 1])
    history = model.fit(np.tile(x, (100, 1)), np.tile(y, 100), batch_size=2, verbose=0).history
    assert history["accuracy"][0] > 0.9
    kernel = np.asarray(model.layers[-1].kernel)
    assert kernel[0, 0] - kernel[0, 1] == pytest.approx(np.log(0.9 / 0.1), abs=0.05)


def test_xla_equals_plain():
    values = [
        tf.function(lambda: Smoothed(0.1, 0.01)(Y, LOGITS), jit_compile=jit)()
        for jit in (False, True)
    ]
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_config_and_saving(tmp_path):
    loss = Smoothed(0.3, 0.01)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    model.compile("sgd", loss)
    x = RNG.normal(size=(12, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.evaluate(x, Y, verbose=0) == pytest.approx(model.evaluate(x, Y, verbose=0))


@pytest.mark.parametrize("options,name", [({"smoothing": 1.0}, "smoothing"),
                                          ({"logit_penalty": -1.0}, "logit_penalty")])  # fmt: skip
def test_wrong_arguments(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        Smoothed(**options)
