import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity.callbacks.frobenius_projection import FrobeniusProjection, projected
from tests.sample_models import SAMPLES

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6)).astype("float32"), RNG.normal(size=(16, 2)).astype("float32")


def network():
    with kp.surgery.seeded(1):
        x = inputs = keras.Input((6,))
        for name in ("one", "two"):
            x = keras.layers.Dense(8, use_bias=False, name=name)(x)
            x = keras.layers.LayerNormalization(epsilon=1e-9, center=False, scale=False)(x)
            x = keras.layers.ReLU()(x)
        return keras.Model(inputs, keras.layers.Dense(2, name="out")(x))


def norms(model):
    return {v.path: float(np.linalg.norm(v)) for v in model.trainable_variables}


def test_projection_by_hand():
    np.testing.assert_allclose(projected(np.array([[3.0, 4.0]], "float32"), 10.0), [[6.0, 8.0]])
    np.testing.assert_array_equal(projected(np.zeros((2, 2), "float32"), 3.0), 0)


@pytest.mark.parametrize("period", [1, 2])
def test_hidden_kernels_keep_their_norm_and_the_output_is_left_alone(period):
    model = network()
    start = norms(model)
    model.compile(keras.optimizers.Adam(0.1), "mse")
    callback = FrobeniusProjection(period)
    model.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
    now = norms(model)
    for path in ("one/kernel", "two/kernel"):
        assert now[path] == pytest.approx(start[path], rel=1e-6)
    assert abs(now["out/kernel"] - start["out/kernel"]) > 0.01
    assert callback.names == ["one", "two"] and list(np.array(callback.counts)) == [4 // period] * 2
    if period == 2:
        model.fit(X[:4], Y[:4], verbose=0, callbacks=[callback])  # one step: not projected
        assert abs(norms(model)["one/kernel"] - start["one/kernel"]) > 0.01


def test_outputs_do_not_change_where_a_norm_follows():
    model = network()
    model.compile("sgd", "mse")
    callback = FrobeniusProjection(1, "task")
    model.fit(X, Y, verbose=0, callbacks=[callback])
    before, kernel = np.array(model(X)), model.get_layer("one").kernel
    kernel.assign(kernel * 7.0)
    large = float(np.linalg.norm(kernel))
    callback.on_task_begin(1, model)
    assert float(np.linalg.norm(kernel)) == pytest.approx(large / 7, rel=0.2)
    np.testing.assert_allclose(model(X), before, atol=1e-5)


def test_weights_are_the_projection_of_a_plain_step():
    plain, projecting = network(), network()
    start = {v.path: np.array(v) for v in plain.trainable_variables}
    for model, callbacks in ((plain, []), (projecting, [FrobeniusProjection()])):
        model.compile(keras.optimizers.SGD(0.5), "mse")
        model.fit(X, Y, batch_size=16, verbose=0, callbacks=callbacks)
    for a, b in zip(plain.trainable_variables, projecting.trainable_variables, strict=True):
        value = np.array(a)
        if a.path in ("one/kernel", "two/kernel"):
            value *= np.linalg.norm(start[a.path]) / np.linalg.norm(value)
        np.testing.assert_allclose(b, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLES)
def test_output_layers_of_networks_of_every_kind(name):
    model = SAMPLES[name]()
    model.compile("sgd", "mse")
    callback = FrobeniusProjection()
    callback.set_model(model)
    kp.hooks.StepHooks.of(model).build(callback)
    kernels = {v.path for v in model.trainable_variables if kp.surgery.weights.is_kernel(v)}
    left = kernels - {v.path for v in callback._kernels}
    heads = ["head", "other_head"] if name == "two_heads" else [model.layers[-1].name]
    assert left == {model.get_layer(head).kernel.path for head in heads}


def test_a_kernel_of_zeros_is_left_alone(caplog):
    model = network()
    model.get_layer("one").kernel.assign(np.zeros((6, 8)))
    model.compile("sgd", "mse")
    callback = FrobeniusProjection()
    with caplog.at_level("WARNING", logger="keras_plasticity"):
        kp.hooks.StepHooks.of(model).build(callback)
    assert callback.names == ["two"] and "'one' is skipped" in caplog.text
    with pytest.raises(ValueError, match="no kernel.*Received: layers=\\['one'\\]"):
        FrobeniusProjection(layers=["one"]).build(model)


def test_schedule_of_the_docstring():
    rate = keras.optimizers.schedules.CosineDecay(
        1e-8, decay_steps=50_000, alpha=1.6e-3, warmup_target=6.25e-4, warmup_steps=1000
    )
    expected = {0: 1e-8, 1000: 6.25e-4, 51_000: 1e-6, 10**6: 1e-6}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-3)
    model = network()
    model.compile(keras.optimizers.Adam(rate), "mse")
    model.fit(X, Y, batch_size=4, verbose=0)
    assert float(model.optimizer.learning_rate) > 1e-6
    kp.callbacks.OptimizerReset(what="step").on_task_begin(1, model)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-8)
