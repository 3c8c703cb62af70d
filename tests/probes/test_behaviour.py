import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity import models, surgery
from keras_plasticity.probes.behaviour import (
    Trainability,
    _order,
    trainability,
    trainability_gap,
    trainability_of,
)
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError

FAST = {"steps": 60, "examples": 64, "jit_compile": False}


def network(norm=None, loss="sparse_categorical_crossentropy", outputs=4, seed=1):
    with surgery.seeded(seed):
        model = models.mlp((6,), outputs, widths=(24, 24), norm=norm)
    if loss == "sparse_categorical_crossentropy":
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    return model


def data(outputs=4, examples=80):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(examples, 6)).astype("float32")
    return x, draw.integers(outputs, size=examples)


def kill(model):
    """Silences all but two units of each hidden layer."""
    for layer in model.layers:
        if layer.name.startswith("dense"):
            bias = layer.bias.numpy()
            bias[2:] = -50
            layer.bias.assign(bias)


def test_the_gap_is_fresh_minus_aged():
    curves = np.array([[0.0, 0.5], [0.5, 0.5]]), np.array([[0.5, 1.0], [0.5, 1.0]])
    result = Trainability("accuracy", *curves, np.zeros(2), np.ones(2))
    assert result.aged.tolist() == [0.25, 0.5] and result.fresh.tolist() == [0.75, 0.75]
    assert result.gaps.tolist() == [0.5, 0.25] and result.gap == 0.375
    assert result.error == pytest.approx(0.125)  # |0.5 - 0.25| / sqrt(2) / sqrt(2)


@pytest.mark.parametrize("kind", ["labels", "functions"])
def test_a_fresh_network_has_no_gap_and_a_dead_one_has(kind):
    model = network()
    inputs = ProbeInputs(model, *data())
    some = {**FAST, "steps": 60 if kind == "labels" else 200}
    fresh = trainability(inputs, kind=kind, targets=4, **some)
    assert abs(fresh.gap) < max(4 * fresh.error, 0.05)
    assert fresh.fresh.min() > 0.25
    kill(model)
    inputs.refresh()
    dead = trainability(inputs, kind=kind, targets=4, **some)
    assert dead.gap > 0.1 and dead.gap > 4 * dead.error
    np.testing.assert_array_equal(dead.fresh, fresh.fresh)  # a function of data and seed


def test_the_first_score_is_that_of_the_network_before_training():
    model = network()
    x, y = data()
    result = trainability(ProbeInputs(model, x, y), targets=1, **FAST)
    draw = np.random.default_rng([0, 0])
    labels = draw.integers(4, size=64, dtype=np.int32)
    rows = _order(draw, 64, 60, 32)[0]
    expected = np.mean(model.predict(x[rows], verbose=0).argmax(-1) == labels[rows])
    assert result.aged_curves[0, 0] == pytest.approx(expected)
    assert result.aged_curves.shape == (1, 60)


def test_it_equals_fit_with_the_same_batches():
    model = network()
    x, y = data()
    result = trainability(ProbeInputs(model, x, y), targets=1, **FAST)
    draw = np.random.default_rng([0, 0])
    labels = draw.integers(4, size=64, dtype=np.int32)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile(keras.optimizers.Adam(3e-3), model.loss)
    for rows in _order(draw, 64, 60, 32):
        copy.train_on_batch(x[rows], labels[rows])
    expected = np.mean(copy.predict(x[:64], verbose=0).argmax(-1) == labels)
    assert result.aged_final[0] == pytest.approx(expected)


def test_order_goes_through_all_rows_in_each_epoch():
    order = _order(np.random.default_rng(0), 10, 4, 5)
    assert sorted(order[:2].reshape(-1)) == list(range(10)) == sorted(order[2:].reshape(-1))


def test_the_model_and_all_random_states_stay_as_they_are():
    inside = keras.Input((6,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(8, activation="relu")(inside))
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inside, keras.layers.Dense(4)(x))
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["acc"]
    )
    model.fit(*data(), verbose=0)
    step, function = model.train_step, model.train_function

    def state():
        values = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        generator = np.random.get_state()
        return (
            [np.asarray(v).tobytes() for v in values],
            random.getstate(),
            (generator[1].tobytes(), generator[2]),
            tf.random.get_global_generator().state.numpy().tobytes(),
        )

    before = state()
    trainability_gap(ProbeInputs(model, *data()), steps=10, targets=1, examples=32)
    assert state() == before
    assert model.train_step == step and model.train_function is function


def test_tf_draws_are_as_without_it():
    model = network()
    inputs = ProbeInputs(model, *data())
    draws = []
    for measure in (False, True):
        keras.utils.set_random_seed(3)
        if measure:
            trainability_gap(inputs, steps=5, targets=1, examples=32, jit_compile=False)
        draws.append([tf.random.normal([3]).numpy().tolist(), random.random(), np.random.rand()])
        draws[-1].append(np.asarray(keras.random.normal((2,))).tolist())
    assert draws[0] == draws[1]


def test_it_is_traced_once():
    model = network()
    inputs = ProbeInputs(model, *data())
    trainability(inputs, targets=2, **FAST)
    ((_, trainer),) = inputs._kept.values()
    assert trainer._run.experimental_get_tracing_count() == 1
    model.optimizer.learning_rate.assign(3e-3)
    kill(model)
    inputs.refresh(data()[0] + 1, data()[1])
    trainability(inputs, targets=2, seed=5, **FAST)
    assert [kept for _, kept in inputs._kept.values()] == [trainer]
    assert trainer._run.experimental_get_tracing_count() == 1


def test_another_learning_rate_is_taken_over():
    model = network()
    inputs = ProbeInputs(model, *data())
    model.optimizer.learning_rate.assign(0.0)
    result = trainability(inputs, targets=1, **FAST)
    assert result.aged_final[0] == pytest.approx(result.aged_curves[0, :2].mean())  # one epoch


def test_xla_gives_the_same():
    inputs = ProbeInputs(network("layer"), *data())
    some = {**FAST, "steps": 10, "targets": 1}
    plain = trainability(inputs, **some)
    compiled = trainability(inputs, **{**some, "jit_compile": True})
    np.testing.assert_allclose(plain.aged_curves, compiled.aged_curves, atol=0.05)
    np.testing.assert_allclose(plain.fresh_final, compiled.fresh_final, atol=0.05)


def test_regression_needs_no_targets():
    x, _ = data()
    result = trainability_of(network(loss="mse", outputs=2), x, targets=2, **FAST)
    assert result.score == "explained"
    assert np.all(result.fresh >= 0) and np.all(result.fresh_final <= 1)


def test_a_large_offset_of_the_outputs_is_no_target():
    model = network(loss="mse", outputs=1)
    model.layers[-1].bias.assign([1000.0])
    result = trainability_of(model, data()[0], targets=2, **FAST)
    assert abs(result.gap) < 0.1


def test_nan_in_the_examples_is_nan():
    x, y = data()
    x[0] = np.nan
    assert np.isnan(
        trainability_gap(ProbeInputs(network(), x, y), steps=5, jit_compile=False)["model"]
    )


def test_frozen_layers_and_normalization_are_the_same_in_fresh_networks():
    x, y = data()
    normalise = keras.layers.Normalization()
    normalise.adapt(x * 100)
    frozen = keras.layers.Dense(5, trainable=False)
    model = keras.Sequential([keras.Input((6,)), normalise, frozen, keras.layers.Dense(4)])
    inputs = ProbeInputs(model, x, y)
    trainability(inputs, **{**FAST, "steps": 1, "targets": 1})
    ((_, trainer),) = inputs._kept.values()
    trainer.start(model.weights, "any")
    for old, new in zip(model.weights[:-2], trainer.network.weights[:-2], strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(model.weights[-2], trainer.network.weights[-2])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_what_cannot_be_measured_says_why():
    x, y = data()
    model = Subclassed()
    model(x)
    with pytest.raises(NotApplicableError, match="cannot be copied"):
        trainability_of(model, x, y)
    still = keras.Sequential([keras.Input((6,)), keras.layers.Flatten()])
    with pytest.raises(NotApplicableError, match="no weights to train"):
        trainability_of(still, x, y)
    with pytest.raises(ValueError, match="`kind` must be"):
        trainability_of(network(), x, y, kind="other")
    with pytest.raises(ValueError, match="`steps` must be"):
        trainability_of(network(), x, y, steps=0)


def test_one_example_and_several_outputs():
    x, y = data()
    inside = keras.Input((6,))
    outside = [keras.layers.Dense(2)(inside), keras.layers.Dense(1)(inside)]
    model = keras.Model(inside, outside)
    assert np.isfinite(trainability_of(model, x, **FAST).gap)
    assert np.isfinite(trainability_of(network(), x[:1], y[:1], **FAST).gap)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_mixed_precision(policy, jit_compile):
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    result = trainability_of(model, *data(), **{**FAST, "jit_compile": jit_compile})
    assert abs(result.gap) < 0.1 and result.fresh.min() > 0.25
