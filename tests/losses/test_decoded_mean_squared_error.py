"""The squared error in units of the targets."""

import keras
import numpy as np
import pytest

from keras_plasticity.losses import DecodedMeanSquaredError, TwoHot

RNG = np.random.default_rng(0)


def test_by_hand():
    loss = TwoHot(-1.0, 1.0, 3)
    metric = DecodedMeanSquaredError(loss)
    logits = np.log(np.float32([[0.25, 0.5, 0.25], [1e-30, 1e-30, 1]]))  # 0 and 1
    metric.update_state([[0.5], [-1.0]], logits)
    assert float(metric.result()) == pytest.approx((0.25 + 4) / 2, rel=1e-5)
    metric.update_state([0.0], logits[:1])
    assert float(metric.result()) == pytest.approx(4.25 / 3, rel=1e-5)
    metric.reset_state()
    metric.update_state([0.5, -1.0], logits, sample_weight=[3.0, 1.0])
    assert float(metric.result()) == pytest.approx((3 * 0.25 + 4) / 4, rel=1e-5)


@pytest.mark.parametrize("loss", [None, "mse", keras.losses.Huber()])
def test_without_decode_it_is_the_mean_squared_error(loss):
    metric = DecodedMeanSquaredError(loss)
    y, outputs = RNG.normal(size=(6,)), RNG.normal(size=(6, 1))
    metric.update_state(y, outputs)
    assert float(metric.result()) == pytest.approx(np.mean((y - outputs[:, 0]) ** 2), rel=1e-5)
    with pytest.raises(ValueError, match="same shape"):
        metric.update_state(y, RNG.normal(size=(6, 2)))


def test_large_targets_in_half_precision():
    metric = DecodedMeanSquaredError()
    metric.update_state([70000.0], np.float16([[60000.0]]))
    assert float(metric.result()) == pytest.approx((70000 - np.float32(np.float16(60000))) ** 2)


@pytest.mark.parametrize("jit", [False, True])
def test_in_a_model_that_is_saved_and_loaded(jit, tmp_path):
    loss = TwoHot(-2.0, 2.0, 5)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    model.compile("sgd", loss, metrics=[DecodedMeanSquaredError(loss)], jit_compile=jit)
    x, y = RNG.normal(size=(8, 3)), RNG.uniform(-2, 2, 8)
    model.fit(x, y, verbose=0)
    expected = np.mean((np.asarray(loss.decode(model.predict(x, verbose=0))) - y) ** 2)
    model.save(tmp_path / "model.keras")
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        logs = one.evaluate(x, y, verbose=0, return_dict=True)
        assert logs["squared_error"] == pytest.approx(expected, rel=1e-5)
    copy = DecodedMeanSquaredError.from_config(DecodedMeanSquaredError(loss).get_config())
    assert copy.loss.get_config() == loss.get_config()
