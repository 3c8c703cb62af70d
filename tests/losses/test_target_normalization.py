"""Losses on normalised targets."""

import keras
import numpy as np
import pytest

from keras_plasticity.losses import DecodedMeanSquaredError, TargetNormalization, TwoHot

RNG = np.random.default_rng(0)


def test_by_hand():
    loss = TargetNormalization(10.0, 2.0)
    assert float(loss([14.0], [[1.0]])) == pytest.approx(1.0)  # (14 - 10) / 2 - 1
    np.testing.assert_allclose(loss.decode(np.float32([[1.0], [-3.0]])), [[12.0], [4.0]])
    assert loss.bins is None
    two = TargetNormalization([1.0, 2.0], [1.0, 4.0])
    assert float(two([[2.0, 6.0]], [[0.0, 0.0]])) == pytest.approx(1.0)


def test_of_an_array():
    y = RNG.normal(5, 3, (50, 2))
    loss = TargetNormalization.of(y)
    np.testing.assert_allclose(loss.mean, y.mean(0))
    np.testing.assert_allclose(loss.deviation, y.std(0))
    normalized = (y - y.mean(0)) / y.std(0)
    np.testing.assert_allclose(loss.decode(normalized), y, atol=1e-4)
    with pytest.raises(ValueError, match="`deviation` must be positive"):
        TargetNormalization.of(np.ones(3))


def test_with_bins():
    inner = TwoHot(-2.0, 2.0, 5)
    loss = TargetNormalization(100.0, 10.0, inner)
    logits = RNG.normal(size=(4, 5)).astype("float32")
    y = RNG.uniform(80, 120, 4).astype("float32")
    assert loss.bins == 5
    np.testing.assert_allclose(loss.call(y, logits), inner.call((y - 100) / 10, logits), rtol=1e-5)
    np.testing.assert_allclose(loss.decode(logits), 100 + 10 * np.asarray(inner.decode(logits)))


@pytest.mark.parametrize("jit", [False, True])
def test_gradients_are_those_of_a_network_on_normalised_targets(jit):
    x, y = RNG.normal(size=(16, 3)).astype("float32"), RNG.normal(1000, 5, 16).astype("float32")
    models = []
    for targets, loss in ((y, TargetNormalization(1000.0, 5.0)), ((y - 1000) / 5, "mse")):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=jit)
        model.fit(x, targets, batch_size=4, shuffle=False, verbose=0)
        models.append(model)
    for a, b in zip(*(m.get_weights() for m in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_config_and_saving(tmp_path):
    loss = TargetNormalization([3.0], [2.0], TwoHot(-1.0, 1.0, 4))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.get_config() == loss.get_config() and isinstance(again.loss, TwoHot)
    loss = TargetNormalization(3.0, 2.0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", loss, metrics=[DecodedMeanSquaredError(loss)])
    x, y = RNG.normal(size=(8, 3)), RNG.normal(size=8)
    expected = model.evaluate(x, y, verbose=0)
    assert expected[1] == pytest.approx(
        np.mean((2 * model.predict(x, verbose=0)[:, 0] + 3 - y) ** 2)
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(expected)


def test_large_targets_in_half_precision():
    loss = TargetNormalization(1e5, 1e5)
    assert float(loss([2e5], np.float16([[0.5]]))) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "options,name",
    [
        ({"mean": float("nan")}, "mean"),
        ({"deviation": 0.0}, "deviation"),
        ({"deviation": [1.0, -1.0]}, "deviation"),
        ({"loss": None}, "loss"),
    ],
)
def test_wrong_arguments(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        TargetNormalization(**options)
