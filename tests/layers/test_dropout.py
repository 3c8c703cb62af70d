"""Tests of the counter-based dropout layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp

ONES = np.ones((100, 1000), "float32")


def _calls(layer, n, jit_compile=None, inputs=ONES):
    if jit_compile is None:
        return [np.asarray(layer(inputs, training=True)) for _ in range(n)]
    layer.build(inputs.shape)
    function = tf.function(lambda x: layer(x, training=True), jit_compile=jit_compile)
    return [function(tf.constant(inputs)).numpy() for _ in range(n)]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_of_zeros_is_binomial_and_the_mean_is_kept(rate):
    outputs = _calls(kp.layers.Dropout(rate, seed=1), 1)[0]
    zeros = np.mean(outputs == 0)
    bound = 5 * np.sqrt(rate * (1 - rate) / outputs.size)
    assert abs(zeros - rate) < bound
    np.testing.assert_allclose(outputs[outputs != 0], 1 / (1 - rate), rtol=1e-6)
    assert abs(outputs.mean() - 1) < bound / (1 - rate)


def test_zeros_are_independent_between_rows_and_columns():
    mask = _calls(kp.layers.Dropout(0.5, seed=1), 1)[0] == 0
    # Five standard deviations of a mean of 100 and of 1000 fair coins.
    assert np.all(np.abs(mask.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(100))
    assert np.all(np.abs(mask.mean(axis=1) - 0.5) < 5 * 0.5 / np.sqrt(1000))


def test_half_precision_keeps_the_rate():
    layer = kp.layers.Dropout(0.003, seed=1, dtype="mixed_bfloat16")
    outputs = layer(np.ones((1000, 1000), "float32"), training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    zeros = np.mean(np.asarray(keras.ops.cast(outputs, "float32")) == 0)
    assert abs(zeros - 0.003) < 5 * np.sqrt(0.003 / 1e6)


def test_inference_is_the_identity_and_counts_no_call():
    layer = kp.layers.Dropout(0.5, seed=1)
    np.testing.assert_array_equal(layer(ONES), ONES)
    np.testing.assert_array_equal(layer(ONES, training=False), ONES)
    np.testing.assert_array_equal(layer.seed_and_calls, [1, 0])
    layer(ONES, training=True)
    np.testing.assert_array_equal(layer.seed_and_calls, [1, 1])


def test_rate_zero_is_the_identity_and_draws_nothing():
    keras.utils.set_random_seed(3)
    layer = kp.layers.Dropout(0)
    np.testing.assert_array_equal(layer(ONES, training=True), ONES)
    assert layer.variables == []
    after = kp.layers.Dropout(0.5)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(_calls(after, 1)[0], _calls(kp.layers.Dropout(0.5), 1)[0])


def test_rate_one_is_all_zeros():
    assert np.all(_calls(kp.layers.Dropout(1.0), 1)[0] == 0)


def test_masks_follow_from_seed_and_number_of_calls():
    first, second = _calls(kp.layers.Dropout(0.5, seed=7), 2)
    assert np.mean(first == second) == pytest.approx(0.5, abs=0.02)
    again = _calls(kp.layers.Dropout(0.5, seed=7), 2)
    np.testing.assert_array_equal(again, [first, second])
    other = _calls(kp.layers.Dropout(0.5, seed=8), 1)[0]
    assert np.mean(first == other) == pytest.approx(0.5, abs=0.02)
    layer = kp.layers.Dropout(0.5, seed=8)
    layer.build(ONES.shape)
    layer.seed_and_calls.assign([7, 1])
    np.testing.assert_array_equal(_calls(layer, 1)[0], second)


def test_default_seed_follows_set_random_seed():
    keras.utils.set_random_seed(5)
    a, b = kp.layers.Dropout(0.5), kp.layers.Dropout(0.5)
    keras.utils.set_random_seed(5)
    c = kp.layers.Dropout(0.5)
    a, b, c = (_calls(layer, 1)[0] for layer in (a, b, c))
    np.testing.assert_array_equal(a, c)
    assert np.mean(a == b) == pytest.approx(0.5, abs=0.02)


def test_jit_and_no_jit_draw_the_same():
    eager = _calls(kp.layers.Dropout(0.3, seed=2), 3)
    graph = _calls(kp.layers.Dropout(0.3, seed=2), 3, jit_compile=False)
    jit = _calls(kp.layers.Dropout(0.3, seed=2), 3, jit_compile=True)
    np.testing.assert_array_equal(graph, eager)
    np.testing.assert_allclose(jit, eager, rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_while_loop_draws_anew_each_time(jit_compile):
    layer = kp.layers.Dropout(0.3, seed=2)
    layer.build((4, 5))

    @tf.function(jit_compile=jit_compile)
    def loop():
        def body(i, outputs):
            x = layer(tf.ones((4, 5)), training=True)
            return i + 1, tf.tensor_scatter_nd_update(outputs, [[i]], x[None])

        return tf.while_loop(lambda i, _: i < 3, body, (0, tf.zeros((3, 4, 5))))[1]

    expected = _calls(kp.layers.Dropout(0.3, seed=2), 3, inputs=np.ones((4, 5), "float32"))
    np.testing.assert_allclose(loop(), expected, rtol=1e-6)


def test_gradient_is_the_mask():
    layer = kp.layers.Dropout(0.5, seed=1)
    x = tf.constant(ONES)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x, training=True)
    np.testing.assert_array_equal(tape.gradient(outputs, x), outputs)


def test_masks_pass_through():
    embedding = keras.layers.Embedding(5, 3, mask_zero=True)
    outputs = kp.layers.Dropout(0.5)(embedding(np.array([[1, 0]])))
    np.testing.assert_array_equal(outputs._keras_mask, [[True, False]])


def test_config_round_trip():
    layer = kp.layers.Dropout(0.25, seed=11, name="drop")
    config = layer.get_config()
    assert (config["rate"], config["seed"], config["name"]) == (0.25, 11, "drop")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert isinstance(again, kp.layers.Dropout)
    assert again.get_config() == config
    np.testing.assert_array_equal(_calls(again, 1), _calls(layer, 1))


def test_a_loaded_model_goes_on_with_the_same_masks(tmp_path):
    model = keras.Sequential([keras.Input((1000,)), kp.layers.Dropout(0.5)])
    model(ONES, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(ONES, training=True), model(ONES, training=True))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_counts_its_training_steps(jit_compile):
    layer = kp.layers.Dropout(0.5, seed=1)
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    model.fit(x, y, batch_size=2, epochs=2, verbose=0)
    model.evaluate(x, y, verbose=0)
    np.testing.assert_array_equal(layer.seed_and_calls, [1, 8])


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_wrong_rate(rate):
    with pytest.raises(ValueError, match=r"`rate` must be .* Received: rate="):
        kp.layers.Dropout(rate)


@pytest.mark.parametrize("seed", [1.5, True, "1"])
def test_wrong_seed(seed):
    with pytest.raises(ValueError, match=r"`seed` must be .* Received: seed="):
        kp.layers.Dropout(0.5, seed=seed)
