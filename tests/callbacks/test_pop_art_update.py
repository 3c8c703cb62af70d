"""PopArt in `fit`, in fused steps and in runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.callbacks.pop_art_update import PopArtUpdate
from keras_plasticity.hooks import FusedSteps
from keras_plasticity.layers.pop_art import PopArt
from tests.toy_runs import go, rows_without_times, stream

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (32, 6)).astype("uint8")
Y = (1000 + 5 * RNG.normal(size=32)).astype("float32")
ORDER = np.concatenate([RNG.permutation(32).reshape(8, 4) for _ in range(3)]).astype("int32")


def network(jit=False, dtype="float32", step=0.05, optimizer=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, "relu", dtype=dtype)(inputs)
    model = keras.Model(inputs, PopArt(step=step, dtype=dtype)(x))
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    if dtype != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse", jit_compile=jit)
    model._symbolic_build(data_batch=(tf.zeros((4, 6)), tf.zeros(4)))
    return model


def values(model):
    return [np.asarray(v) for v in (*model.variables, *model.optimizer.variables)]


def fused(model, steps):
    callback, losses = FusedSteps(X, Y), []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: losses.append(callback.step_logs["loss"])
    )
    blocks = FusedSteps.blocks(ORDER, steps)
    model.fit(blocks, shuffle=False, verbose=0, callbacks=[callback, PopArtUpdate(), record])
    return np.concatenate(losses)


def test_statistics_move_before_the_update():
    model = network(step=1.0)  # the statistics are those of the last batch
    x = X[ORDER[0]] / np.float32(255)
    expected = keras.models.clone_model(model)
    expected.set_weights(model.get_weights())
    expected.layers[-1].update(Y[ORDER[0]])
    expected.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
    expected.fit(x, Y[ORDER[0]], batch_size=4, shuffle=False, verbose=0)
    model.fit(x, Y[ORDER[0]], batch_size=4, shuffle=False, verbose=0, callbacks=[PopArtUpdate()])
    assert float(model.layers[-1].mu[0]) == pytest.approx(Y[ORDER[0]].mean(), rel=1e-6)
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_without_learning_outputs_stay_though_statistics_move():
    model = network(optimizer=keras.optimizers.SGD(0.0))
    x, layer = X / np.float32(255), model.layers[-1]
    model.fit(x[:4], Y[:4] / 1000, verbose=0, callbacks=[PopArtUpdate()])
    before = model.predict(x, verbose=0)
    statistics = float(layer.mu[0]), float(layer.sigma[0])
    model.fit(x, Y / 100, batch_size=4, epochs=2, verbose=0, callbacks=[PopArtUpdate()])
    assert float(layer.mu[0]) > 2 * statistics[0] and float(layer.sigma[0]) > 2 * statistics[1]
    np.testing.assert_allclose(model.predict(x, verbose=0), before, atol=1e-5)


def test_fused_equals_unfused_bit_for_bit_and_nearly_with_jit():
    one, many, compiled = network(), network(), network(jit=True)
    losses = [fused(one, 1), fused(many, 7), fused(compiled, 7)]
    assert np.array_equal(losses[0], losses[1])
    assert all(np.array_equal(a, b) for a, b in zip(values(one), values(many), strict=True))
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_learns_targets_with_an_offset(dtype):
    model = network(dtype=dtype, optimizer=keras.optimizers.Adam(0.02))
    x = X / np.float32(255)
    y = 1e5 + 100 * x[:, 0]
    model.fit(x, y, batch_size=8, epochs=40, verbose=0, callbacks=[PopArtUpdate()])
    assert model.evaluate(x, y, verbose=0) < 0.3 * y.var()
    plain = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    )
    plain.compile(keras.optimizers.Adam(0.02), "mse")
    plain.fit(x, y, batch_size=8, epochs=40, verbose=0)
    assert plain.evaluate(x, y, verbose=0) > 1000 * y.var()


def head(input_shape, num_outputs):
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(8, "relu")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, PopArt(num_outputs, step=0.05)(x))


def test_in_a_run_that_is_stopped_and_resumed(tmp_path):
    class Stop(keras.callbacks.Callback):
        at = 2

        def on_task_begin(self, task, model):
            if task.index == self.at:
                raise KeyboardInterrupt

    def started(name, at):
        tasks = stream([kp.streams.PermutePixels()], regression=True)
        stop = Stop()
        stop.at = at
        arguments = tasks, head, keras.optimizers.Adam(1e-2), [PopArtUpdate(), stop]
        return go(tmp_path, *arguments, run_dir=tmp_path / name, checkpoint_seconds=0.0)

    whole = started("whole", -1)
    assert all(row["online_loss"] == row["online_squared_error"] for row in whole)
    with pytest.raises(KeyboardInterrupt):
        started("cut", 2)
    assert rows_without_times(started("cut", -1)) == rows_without_times(whole)


def test_other_models_are_refused():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="one `kp.layers.PopArt` layer.* with 0"):
        model.fit(X, Y, verbose=0, callbacks=[PopArtUpdate()])
    assert PopArtUpdate().get_config() == {} and PopArtUpdate().variables == []


def test_other_places_of_the_layer_are_refused():
    def model(ends):
        inputs = keras.Input((6,))
        model = keras.Model(inputs, ends(PopArt()(inputs)))
        model.compile("sgd", "mse")
        return model

    nested = keras.Sequential([keras.Input((6,)), model(lambda x: x)])
    PopArtUpdate().build(nested)
    for ends in (keras.layers.Dense(1), lambda x: [x, x], keras.layers.ReLU()):
        with pytest.raises(ValueError, match="whose output is that of.*Received: a model that"):
            model(ends).fit(X, Y, verbose=0, callbacks=[PopArtUpdate()])
