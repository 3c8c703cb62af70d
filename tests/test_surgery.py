import random

import keras
import numpy as np
import pytest

from keras_plasticity import surgery


def model():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(),
         keras.layers.Dense(2)]
    )  # fmt: skip


def trained(optimizer):
    network = model()
    network.compile(optimizer, "mse")
    network.fit(np.random.rand(16, 4), np.random.rand(16, 2), verbose=0)
    return network


def test_seeded_restores_the_state():
    random.seed(3)
    expected = random.Random(3).random()
    with surgery.seeded(9):
        first = random.random(), np.random.rand()
    with surgery.seeded(9):
        assert (random.random(), np.random.rand()) == first
    assert random.random() == expected


def test_reinitialize_is_a_function_of_the_seed_and_resets_statistics():
    network = trained("sgd")
    kernel = network.layers[0].kernel
    surgery.reinitialize(network, "0/1")
    first = [np.asarray(w) for w in network.weights]
    assert network.layers[0].kernel is kernel
    surgery.reinitialize(network, "0/2")
    assert not np.array_equal(first[0], np.asarray(kernel))
    surgery.reinitialize(network, "0/1")
    assert all(
        np.array_equal(a, np.asarray(b)) for a, b in zip(first, network.weights, strict=True)
    )
    norm = network.layers[1]
    assert np.asarray(norm.moving_mean).tolist() == [0, 0, 0]
    assert np.asarray(norm.moving_variance).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.1, use_ema=True),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.5),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
    ],
)
def test_reset_optimizer_equals_a_new_one(optimizer):
    network = trained(optimizer())
    surgery.reset_optimizer(network.optimizer, network.trainable_variables)
    new = optimizer()
    new.build(network.trainable_variables)
    for a, b in zip(network.optimizer.variables, new.variables, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b)), a.path
