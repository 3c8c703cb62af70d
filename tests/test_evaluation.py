import keras
import numpy as np
import pytest

from keras_plasticity.evaluation import Evaluator


def linear(outputs):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(outputs, use_bias=False)])
    network.layers[0].kernel.assign(np.eye(2)[:, :outputs])
    return network


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("batch_size", [2, 500])
def test_by_hand(jit, batch_size):
    x = np.float32([[2, 0], [0, 2], [2, 0], [100, 0]])
    y = np.int32([0, 1, 1, 1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    evaluate = Evaluator(linear(2), loss, batch_size=batch_size, jit_compile=jit)
    small = np.log1p(np.exp(-2.0))
    value, accuracy = evaluate(x, y, np.arange(3))
    assert value == pytest.approx((2 * small + 2 + small) / 3, rel=1e-5)
    assert accuracy == pytest.approx(2 / 3)
    assert evaluate(x, y, [0])[1] == 1.0


def test_regression_has_no_accuracy():
    evaluate = Evaluator(linear(1), keras.losses.MeanSquaredError(), classification=False)
    value, accuracy = evaluate(np.float32([[1, 0], [3, 0]]), np.float32([[0], [0]]), [0, 1])
    assert (value, accuracy) == (pytest.approx(5.0), None)


def test_integers_are_scaled():
    evaluate = Evaluator(linear(1), keras.losses.MeanSquaredError(), 0.5, classification=False)
    assert evaluate(np.uint8([[4, 0]]), np.float32([[0]]), [0])[0] == pytest.approx(4.0)
