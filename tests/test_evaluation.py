import keras
import numpy as np
import pytest

from keras_plasticity.evaluation import Evaluator
from keras_plasticity.losses import TargetNormalization


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
    value, accuracy, squared_error = evaluate(x, y, np.arange(3))
    assert value == pytest.approx((2 * small + 2 + small) / 3, rel=1e-5)
    assert accuracy == pytest.approx(2 / 3)
    assert squared_error is None
    assert evaluate(x, y, [0])[1] == 1.0


def test_regression_has_no_accuracy():
    evaluate = Evaluator(linear(1), keras.losses.MeanSquaredError(), classification=False)
    found = evaluate(np.float32([[1, 0], [3, 0]]), np.float32([[0], [0]]), [0, 1])
    assert found == (pytest.approx(5.0), None, pytest.approx(5.0))
    assert evaluate(np.zeros((0, 2)), np.zeros(0), []) == (None, None, None)


def test_squared_error_is_in_units_of_the_targets():
    loss = TargetNormalization(10.0, 2.0)
    evaluate = Evaluator(linear(1), loss, classification=False, batch_size=2)
    # Outputs 1 and 3 stand for 12 and 16.
    found = evaluate(np.float32([[1, 0], [3, 0], [0, 0]]), np.float32([12, 13, 10]), [0, 1, 2])
    assert found == (pytest.approx(1.5**2 / 3), None, pytest.approx(3.0))


def test_large_targets_in_half_precision():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="mixed_float16")])
    evaluate = Evaluator(network, keras.losses.MeanSquaredError(), classification=False)
    found = evaluate(np.float32([[0, 0]]), np.float32([1000]), [0])
    assert found.loss == found.squared_error == pytest.approx(1e6)


def test_integers_are_scaled():
    evaluate = Evaluator(linear(1), keras.losses.MeanSquaredError(), 0.5, classification=False)
    assert evaluate(np.uint8([[4, 0]]), np.float32([[0]]), [0])[0] == pytest.approx(4.0)
