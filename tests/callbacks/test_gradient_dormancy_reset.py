import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.batch_loss import loss_gradients
from keras_plasticity.hooks import FusedSteps, StepHooks
from tests.reference import chain, redo
from tests.sample_models import image_chain

L = keras.layers
RNG = np.random.default_rng(0)
BATCH = 8


def regularized():
    """Penalties, statistics and random numbers between units and loss."""
    x = inputs = keras.Input((6,))
    x = L.Dense(7, kernel_regularizer=keras.regularizers.L2(0.3), name="one")(x)
    x = L.Dropout(0.3, seed=1)(L.ReLU()(L.BatchNormalization(name="norm")(x)))
    x = L.Dense(5, "tanh", activity_regularizer=keras.regularizers.L2(0.3), name="two")(x)
    return keras.Model(inputs, L.Dense(3, name="out")(x))


MODELS = {"image_chain": image_chain, "regularized": regularized}


def compiled(model, optimizer="adam"):
    model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
    return model


def small(optimizer="adam"):
    inputs = keras.Input((6,))
    x = L.Dense(9, "tanh", name="hidden")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="out")(x))
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def data(model, examples):
    x = RNG.normal(size=(examples, *model.input_shape[1:])).astype("float32")
    y = RNG.normal(size=(examples, model.output_shape[-1])).astype("float32")
    return x, y, RNG.uniform(0.5, 2, examples).astype("float32")


def plain_scores(model, state, batch):
    """Mean absolute gradients per unit of each hidden kernel, by a plain tape."""
    for variable in model.variables:
        if variable.path in state:
            variable.assign(state[variable.path])
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")][:-1]
    x, y, weights = batch
    with tf.GradientTape() as tape:
        errors = tf.reduce_mean((model(x, training=False) - y) ** 2, 1)
        loss = tf.reduce_mean(weights * errors)
    gradients = tape.gradient(loss, [kernel.value for kernel in kernels])
    return [np.abs(g).reshape(-1, g.shape[-1]).mean(0) for g in gradients]


def train(model, callback, steps):
    x, y, weights = data(model, steps * BATCH)
    record = chain.Record(steps, callback)
    model.fit(
        x, y, sample_weight=weights, batch_size=BATCH, shuffle=False, verbose=0,
        callbacks=[callback, record],
    )  # fmt: skip
    parts = [np.split(values, steps) for values in (x, y, weights)]
    return list(zip(*parts, strict=True)), record


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_scores_are_gradients_and_low_ones_are_reset(make):
    keras.utils.set_random_seed(1)
    model, callback = compiled(make()), kp.callbacks.GradientDormancyReset(4, 0.8, batches=2)
    batches, record = train(model, callback, 8)
    total = np.zeros(len(callback.names), int)
    for last in (3, 7):
        scores = [
            plain_scores(model, record.before[step], batches[step]) for step in (last - 1, last)
        ]
        first = record.after[last - 1]["scores"]
        assert np.allclose(first, np.concatenate(scores[0]), rtol=1e-4, atol=1e-7)
        means = [np.mean(pair, 0) for pair in zip(*scores, strict=True)]
        masks = [redo.scores(values) <= 0.8 for values in means]
        total += [mask.sum() for mask in masks]
        assert np.array_equal(record.after[last]["counts"], total)
        assert not record.after[last]["scores"].any()
        check_written(record.before[last], record.after[last], masks)
    assert total.sum() >= 4 and np.any(total < [2 * mask.size for mask in masks])


def check_written(before, after, masks):
    """Weights in are new, weights out zero, and all others bit for bit as before."""
    names = [path.removesuffix("/kernel") for path in before if path.endswith("/kernel")]
    rules = redo.written(masks, [(before[f"{n}/kernel"], before[f"{n}/bias"]) for n in names])
    for name, (drawn, zero, fresh) in zip(names, rules, strict=True):
        old, new = before[f"{name}/kernel"], after[f"{name}/kernel"]
        assert not new[zero].any()
        assert np.array_equal(new != old, drawn | zero & (old != 0))
        assert np.array_equal(after[f"{name}/bias"], np.where(fresh, 0, before[f"{name}/bias"]))
        for moment in ("momentum", "velocity"):
            for weight, where in (("kernel", drawn | zero), ("bias", fresh)):
                path = f"optimizer/{name}_{weight}_{moment}"
                assert np.array_equal(after[path], np.where(where, 0, before[path])), path


def test_gradients_by_hand():
    inputs = keras.Input((2,))
    hidden, out = L.Dense(2, name="hidden"), L.Dense(1, name="out")
    model = keras.Model(inputs, out(hidden(inputs)))
    hidden.kernel.assign(np.eye(2))
    out.kernel.assign([[1.0], [0.5]])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    callback = kp.callbacks.GradientDormancyReset(2, 0.67, batches=2)
    x, y = np.array([[1.0, 2.0]]), np.zeros((1, 1))
    model.fit(x, y, verbose=0, callbacks=[callback])
    # The output is 2, its gradient 4, those of the hidden units 4 and 2, times inputs 1 and 2.
    assert np.array(callback._sums).tolist() == [6, 3]
    model.fit(x, y, verbose=0, callbacks=[callback])
    # Over their mean of 4.5 the scores are 1.33 and 0.667.
    assert np.array(callback.counts).tolist() == [1]
    assert np.array(out.kernel).tolist() == [[1], [0]]
    assert np.array(hidden.kernel)[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize("method,count", [("GradientDormancyReset", 1), ("ReDo", 0)])
def test_a_unit_that_fires_and_does_not_learn_is_reset(method, count):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    hidden, out = L.Dense(4, "tanh", name="hidden"), L.Dense(2, name="out")
    model = compiled(keras.Model(inputs, out(hidden(inputs))), keras.optimizers.SGD(0.0))
    hidden.bias.assign(np.ones(4))
    out.kernel.assign(np.array(out.kernel) * [[1], [0], [1], [1]])
    before = [np.array(v) for v in (hidden.kernel, hidden.bias, out.kernel, out.bias)]
    callback = getattr(kp.callbacks, method)(1, 0.0, batches=1)
    x, y, _ = data(model, 8)
    model.fit(x, y, verbose=0, callbacks=[callback])
    after = [np.array(v) for v in (hidden.kernel, hidden.bias, out.kernel, out.bias)]
    assert np.array(callback.counts).tolist() == [count]
    if count:
        assert np.all(after[0][:, 1] != before[0][:, 1]) and after[1][1] == 0
        for values in (before, after):
            values[0][:, 1] = values[1][1] = 0
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_scoring_leaves_statistics_metrics_and_seeds_alone():
    found = []
    for callbacks in ([], [kp.callbacks.GradientDormancyReset(3, 0.0, batches=3)]):
        keras.utils.set_random_seed(1)
        model = compiled(regularized())
        x, y = np.random.default_rng(0).normal(size=(2, 48, 6)).astype("float32")
        history = model.fit(
            x, y[:, :3], batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        ).history
        found.append((history, [np.array(v) for v in model.variables]))
    (plain, weights), (scored, same) = found
    paths = [variable.path for variable in model.variables]
    assert np.array(callbacks[0]._acted) == 4 and not np.any(callbacks[0].counts)
    assert any("moving_mean" in path for path in paths)
    assert any("seed" in path for path in paths)
    assert plain.keys() == {"loss", "mae"}
    assert all(np.array_equal(plain[name], scored[name]) for name in plain)
    assert all(np.array_equal(a, b) for a, b in zip(weights, same, strict=True))


def test_penalties_that_are_no_scalars_are_left_out():
    class Penalty(L.Layer):
        def call(self, x):
            self.add_loss(10 * tf.reduce_sum(x**2, 1))
            return x

    inputs = keras.Input((3,))
    hidden = L.Dense(4, name="hidden")
    model = keras.Model(inputs, L.Dense(2, name="out")(Penalty()(hidden(inputs))))
    compiled(model)
    x, y, weights = data(model, 8)
    batch = map(tf.constant, (x, y, weights))
    (gradient,) = loss_gradients(model, [hidden.kernel], *batch)
    (expected,) = plain_scores(model, {}, (x, y, weights))
    assert np.allclose(np.abs(gradient).mean(0), expected, rtol=1e-4)


@pytest.mark.parametrize("unit", ["epoch", "task"])
def test_at_boundaries_the_first_batches_of_the_next_are_scored(unit):
    model = small()
    x, y, _ = data(model, 24)
    callback = kp.callbacks.GradientDormancyReset(1, 0.5, unit=unit, batches=2)
    record = chain.Record(12, callback)
    for task in range(2):
        callback.on_task_begin(task, model)
        fit = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
        model.fit(x, y, callbacks=[callback, record], **fit)
    acted = np.flatnonzero(np.diff([state["acted"] for state in record.after], prepend=0))
    scored = np.flatnonzero([state["scores"].any() for state in record.after])
    # Three steps an epoch; scored on the first two of an epoch, reset after the second.
    assert acted.tolist() == ([4, 7, 10] if unit == "epoch" else [7])
    assert scored.tolist() == ([3, 6, 9] if unit == "epoch" else [6])


@pytest.mark.parametrize("period,batches,expected", [(4, 3, [1, 2, 5, 6]), (2, 2, [0, 2, 4, 6])])
def test_the_last_steps_of_a_period_are_scored(period, batches, expected):
    model, callback = small(), kp.callbacks.GradientDormancyReset(period, 0.5, batches=batches)
    _, record = train(model, callback, 8)
    acted = np.flatnonzero(np.diff([state["acted"] for state in record.after], prepend=0))
    assert acted.tolist() == list(range(period - 1, 8, period))
    scored = np.flatnonzero([state["scores"].any() for state in record.after])
    assert scored.tolist() == expected


def start(unit):
    keras.utils.set_random_seed(1)
    model = small(keras.optimizers.SGD(0.05, momentum=0.9))
    period = {"step": 5, "epoch": 1, "task": 1}[unit]
    callback = kp.callbacks.GradientDormancyReset(period, 0.8, unit=unit, batches=4)
    StepHooks.of(model).build(callback)
    return model, callback


def everything(model, callback):
    return [*model.variables, *model.optimizer.variables, *callback.variables]


@pytest.mark.parametrize("unit,stop", [("step", 13), ("epoch", 12), ("task", 2)])
def test_fused_and_resumed_in_the_middle_of_scoring(unit, stop):
    x, y = RNG.normal(size=(40, 6)).astype("float32"), RNG.normal(size=(40, 3)).astype("float32")
    order = RNG.integers(0, 40, (24, BATCH)).astype("int32")

    def run(model, callback, steps, end=24, begin=0):
        blocks = FusedSteps.blocks(order[:end], steps, task=1, start=begin, epoch_steps=10)
        fused = FusedSteps(x, y)
        model.fit(blocks, shuffle=False, verbose=0, callbacks=[fused, callback])

    whole, parts = start(unit), start(unit)
    for model, callback in (whole, parts):
        callback.on_task_begin(1, model)
    run(*whole, 1)
    run(*parts, 7, end=stop)
    assert np.any(parts[1]._sums)  # scoring has begun
    resumed = start(unit)
    for new, old in zip(everything(*resumed), everything(*parts), strict=True):
        new.assign(old)
    run(*resumed, 7, begin=stop)
    for a, b in zip(everything(*whole), everything(*resumed), strict=True):
        assert np.array_equal(a, b), a.path
    assert int(whole[1]._acted) == {"step": 4, "epoch": 2, "task": 1}[unit]
    assert int(whole[1].counts[0]) > 0


def test_batches_may_outlast_no_period_of_steps():
    with pytest.raises(ValueError, match="`batches`.*Received: batches=9, period=8"):
        kp.callbacks.GradientDormancyReset(8, batches=9)
    assert kp.callbacks.GradientDormancyReset(1, unit="epoch", batches=9).batches == 9
    assert not kp.callbacks.GradientDormancyReset(None, batches=9).acts


def test_settings_are_not_ignored():
    with pytest.raises(TypeError, match="tau"):
        kp.callbacks.GradientDormancyReset(tau=0.1)
