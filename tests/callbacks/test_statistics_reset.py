import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity import testing
from keras_plasticity import testing_runs as runs
from keras_plasticity.callbacks.statistics_reset import StatisticsReset

CHECKS = [name for name in testing.__all__ if name.startswith("check_")]
SKIPPED = ("check_intervention", "check_reset_units", "check_gin", "check_off", "check_config")


def network(momentum=0.75):
    inputs = keras.Input((5,))
    x = keras.layers.Dense(6)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=momentum, name="bn")(x))
    x = keras.layers.Dense(4)(x)
    x = keras.layers.ReLU()(
        kp.layers.CenterScale("batch", "batch", momentum=momentum, name="cs")(x)
    )
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def statistics(model):
    layers = model.get_layer("bn"), model.get_layer("cs")
    return [np.array(v) for layer in layers for v in (layer.moving_mean, layer.moving_variance)]


def cases():
    costly = ("check_jit", "check_model_afterwards", "check_resume", "check_fused")
    for check in CHECKS:
        for to in ("first_batch", "initial"):
            slow = to == "initial" and check in costly
            if check not in SKIPPED:
                yield pytest.param(check, to, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("check,to", cases())
def test_contract(check, to):
    getattr(testing, check)(lambda: StatisticsReset(to=to), network)


@pytest.mark.parametrize("to", ["first_batch", "initial"])
def test_contract_of_arguments(to):
    testing.check_config(lambda: StatisticsReset(2, to, ["bn"]))
    testing.check_gin(lambda: StatisticsReset(2, to, ["bn"]))
    testing.check_off(lambda: StatisticsReset(None, to), network)


@pytest.mark.parametrize("fused,momentum", [(False, 0.99), (True, 0.75)])
def test_first_batch_of_the_task(fused, momentum):
    """Beside a twin whose statistics are the batch's because its momentum is zero."""

    def train(callbacks, momentum, x, y, model=None):
        if model is None:
            model = runs.compiled(lambda: network(momentum), "sgd")
        if not fused:
            model.fit(x, y, batch_size=4, verbose=0, shuffle=False, callbacks=callbacks)
        else:
            feed = kp.hooks.FusedSteps(x, y)
            order = np.arange(len(x), dtype="int32").reshape(-1, 4)
            blocks = kp.hooks.FusedSteps.blocks(order, len(order), epoch_steps=len(order))
            model.fit(blocks, shuffle=False, verbose=0, callbacks=[feed, *callbacks])
        return model

    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(12, n)).astype("float32") for n in (5, 2))
    reset = StatisticsReset()
    model = train([reset], momentum, x, y)
    twin = train([], 0.0, x, y)
    reset.on_task_begin(1, model)
    before = statistics(model)
    x = 3 * x[:4] + 1
    train([reset], momentum, x, y[:4], model)
    train([], 0.0, x, y[:4], twin)
    for old, new, expected in zip(before, statistics(model), statistics(twin), strict=True):
        np.testing.assert_allclose(new, expected, rtol=1e-3, atol=1e-4)
        assert np.abs(new - old).max() > 0.05
    train([reset], momentum, 5 * x, y[:4], model)  # later updates move them as before
    train([], 0.0, 5 * x, y[:4], twin)
    pairs = zip(statistics(model), statistics(twin), strict=True)
    assert all(np.abs(a - b).max() > 0.01 for a, b in pairs)
    assert reset.names == ["bn", "cs"] and np.array_equal(reset.counts, [12, 8])


def test_initial_values_at_once():
    model = runs.compiled(network)
    reset = StatisticsReset(to="initial", layers=["cs"])
    runs.fit(model, [reset], tasks=range(1))
    before = statistics(model)
    reset.on_task_begin(1, model)
    after = statistics(model)
    np.testing.assert_array_equal(after[:2], before[:2])
    np.testing.assert_array_equal(after[2:], [np.zeros(4), np.ones(4)])
    assert np.abs(before[2]).max() > 0


def test_renormalised_layers():
    def renormalised():
        inputs = keras.Input((5,))
        x = keras.layers.BatchNormalization(renorm=True, name="bn")(inputs)
        return keras.Model(inputs, keras.layers.Dense(2)(x))

    model = runs.compiled(renormalised)
    with pytest.raises(ValueError, match="No layer with running statistics is left"):
        StatisticsReset().on_task_begin(1, model)
    reset = StatisticsReset(to="initial")
    runs.fit(model, [reset], tasks=range(1))
    reset.on_task_begin(1, model)
    layer = model.get_layer("bn")
    for name, value in (("renorm_mean", 0), ("renorm_stddev", 1), ("moving_stddev", 1)):
        np.testing.assert_array_equal(getattr(layer, name), np.full(5, value))


def test_layers_called_twice_in_a_step(caplog):
    norm, inner = keras.layers.BatchNormalization(name="twice"), keras.Input((5,))
    block = keras.Model(inner, norm(inner))
    inputs = keras.Input((5,))
    x = block(keras.layers.Rescaling(2.0)(block(inputs)))
    once = keras.layers.BatchNormalization(name="once")(x)
    model = runs.compiled(lambda: keras.Model(inputs, keras.layers.Dense(2)(once)))
    reset = StatisticsReset()
    reset.on_task_begin(1, model)
    assert reset.names == ["once"]
    assert "'twice' is skipped: it is called 2 times" in caplog.text
    reset = StatisticsReset(to="initial")
    reset.on_task_begin(1, model)
    assert reset.names == ["twice", "once"]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`to` must be one of.*Received: to='zero'"):
        StatisticsReset(to="zero")
    with pytest.raises(ValueError, match="`layers` must be a list.*Received"):
        StatisticsReset(layers="bn")
    model = runs.compiled(testing.mlp)
    with pytest.raises(ValueError, match="No layer with running statistics.*Received"):
        StatisticsReset().on_task_begin(1, model)
    frozen = network()
    for name in ("bn", "cs"):
        frozen.get_layer(name).trainable = False
    with pytest.raises(ValueError, match="No layer with running statistics"):
        StatisticsReset().build(frozen)
