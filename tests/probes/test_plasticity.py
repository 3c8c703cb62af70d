import random

import keras
import numpy as np
import pytest

from keras_plasticity import models, surgery
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.plasticity import churn_of_step, sample_losses, sample_plasticity
from keras_plasticity.probes.probe import NotApplicableError


def linear(optimizer, x=((1.0,), (2.0,)), y=((1.0,), (0.0,)), w=0.5):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[0].kernel.assign([[w]])
    model.compile(optimizer, "mse")
    return ProbeInputs(model, np.array(x, "float32"), np.array(y, "float32"))


def test_sample_plasticity_by_hand():
    inputs = linear(keras.optimizers.SGD(0.25))
    # (0.5 - 1)^2, step +0.25; 1^2, step -0.25 * 2 * 1 * 2 = -1: each from w = 0.5
    np.testing.assert_allclose(sample_losses(inputs), [[0.25, 0.0625], [1, 1]])
    assert sample_plasticity(inputs)["model"] == pytest.approx((0.75 + 0) / 2)


def test_each_sample_has_a_fresh_optimizer():
    inputs = linear(keras.optimizers.Adam(0.1), x=[[1.0]] * 5, y=[[1.0]] * 5)
    losses = sample_losses(inputs)
    np.testing.assert_allclose(losses, [[0.25, 0.16]] * 5, rtol=1e-4)


def test_losses_that_rise_or_are_zero_count_as_none():
    rising = linear(keras.optimizers.SGD(10.0))
    assert sample_plasticity(rising) == {"model": 0}
    solved = linear(keras.optimizers.SGD(0.1), y=((0.5,), (1.0,)))
    assert sample_plasticity(solved) == {"model": 1}  # as the formula has it: 0 is all removed


def test_churn_by_hand():
    inputs = linear(keras.optimizers.SGD(0.25), x=((1.0,), (2.0,), (1.0,), (4.0,)), y=[[1.0]] * 4)
    # the step on x = 1, 1 adds 0.25; outputs of x = 2, 4 move by 0.5 and 1
    assert churn_of_step(inputs)["model"] == pytest.approx(0.75)


def test_penalties_take_part_in_the_step_alone():
    inside = keras.Input((1,))
    layer = keras.layers.Dense(1, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.5))
    model = keras.Model(inside, layer(inside))
    layer.kernel.assign([[1.0]])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    inputs = ProbeInputs(model, np.ones((1, 1), "float32"), np.full((1, 1), 2.0))
    # gradient 2 * (1 - 2) + 2 * 0.5 * 1 = -1, so w = 1.25
    np.testing.assert_allclose(sample_losses(inputs), [[1, 0.75**2]])


def test_the_model_stays_as_it_is():
    with surgery.seeded(1):
        model = models.mlp((4,), 3, widths=(6,), norm="batch", dropout=0.2)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) % 3
    model.fit(x, y, verbose=0)

    def state():
        values = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        return (
            [np.asarray(v).tobytes() for v in values],
            random.getstate(),
            np.random.get_state()[1].tobytes(),
        )

    before = state()
    inputs = ProbeInputs(model, x, y)
    assert 0 < sample_plasticity(inputs)["model"] < 1
    assert churn_of_step(inputs)["model"] > 0
    assert state() == before


def test_it_is_traced_once_and_repeats():
    inputs = linear(keras.optimizers.Adam(0.1))
    first = sample_plasticity(inputs), churn_of_step(inputs)
    ((_, stepper),) = inputs._kept.values()
    inputs.refresh()
    assert (sample_plasticity(inputs), churn_of_step(inputs)) == first
    assert stepper._samples.experimental_get_tracing_count() == 1
    assert stepper._churn.experimental_get_tracing_count() == 1


def test_nan_one_example_and_no_loss():
    broken = linear("sgd", x=((np.nan,), (1.0,)))
    assert np.isnan(sample_plasticity(broken)["model"])
    assert np.isnan(churn_of_step(broken)["model"])
    one = linear("sgd", x=[[1.0]], y=[[1.0]])
    assert 0 < sample_plasticity(one)["model"] < 1
    with pytest.raises(NotApplicableError, match="two examples"):
        churn_of_step(one)
    with pytest.raises(NotApplicableError, match="loss"):
        sample_plasticity(ProbeInputs(one.model, one.x))


def test_several_outputs():
    inside = keras.Input((2,))
    model = keras.Model(inside, [keras.layers.Dense(2)(inside), keras.layers.Dense(1)(inside)])
    model.compile("sgd", ["mse", "mae"])
    x = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
    inputs = ProbeInputs(model, x, [np.ones((6, 2)), np.ones((6, 1))])
    assert np.isfinite(sample_plasticity(inputs)["model"])
    assert churn_of_step(inputs)["model"] > 0
