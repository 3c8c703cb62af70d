"""Tests of penalties in the gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.optimizers import DecayPolicy, GradientNoise, Regularized
from keras_plasticity.optimizers.gradient_noise import deviation

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 4)).astype("float32"), RNG.normal(size=(8, 2)).astype("float32")
KERNEL = np.array([[1.0, -2.0], [3.0, 4.0]], "float32")


def one_step(optimizer, value=KERNEL, gradient=None, name="kernel"):
    variable = keras.Variable(value, name=name)
    gradient = np.zeros(variable.shape, "float32") if gradient is None else gradient
    optimizer.apply([tf.constant(gradient)], [variable])
    return np.array(variable)


def test_l2_by_hand():
    optimizer = Regularized(keras.optimizers.SGD(0.5), [keras.regularizers.L2(0.1)])
    gradient = np.ones((2, 2), "float32")
    expected = KERNEL - 0.5 * (gradient + 2 * 0.1 * KERNEL)
    np.testing.assert_allclose(one_step(optimizer, gradient=gradient), expected, rtol=1e-6)


def test_it_is_the_penalty_in_the_loss():
    results = []
    for penalty in (None, keras.regularizers.L1L2(0.01, 0.1)):
        with kp.surgery.seeded(1):
            inputs = keras.Input((4,))
            x = keras.layers.Dense(3, "tanh", kernel_regularizer=penalty)(inputs)
            model = keras.Model(inputs, keras.layers.Dense(2, kernel_regularizer=penalty)(x))
        optimizer = keras.optimizers.Adam(0.01, clipnorm=0.1)
        if penalty is None:
            optimizer = Regularized(optimizer, [keras.regularizers.L1L2(0.01, 0.1)])
        model.compile(optimizer, "mse")
        history = model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        results.append((history.history["loss"], [np.array(v) for v in model.weights]))
    (ours, weights), (keras_, expected) = results
    assert ours[0] < keras_[0] - 0.1  # it is no part of the loss that is reported
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_two_forms_of_the_same_penalty():
    forms = [
        Regularized(keras.optimizers.Adam(0.1), [kp.regularizers.L2Init(0.3)]),
        Regularized(
            keras.optimizers.Adam(0.1),
            [keras.regularizers.L2(0.3)],
            DecayPolicy("kernels", "initial"),
        ),
    ]
    results = []
    for optimizer in forms:
        variable, draws = keras.Variable(KERNEL, name="kernel"), np.random.default_rng(0)
        for _ in range(4):
            optimizer.apply([tf.constant(draws.normal(size=(2, 2)), "float32")], [variable])
        results.append(np.array(variable))
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_penalties_add_up_and_biases_are_left_alone():
    penalties = [keras.regularizers.L2(0.1), keras.regularizers.L2(0.2), lambda w: 0.0 * w[0, 0]]
    optimizer = Regularized(keras.optimizers.SGD(1.0), penalties)
    kernel, bias = keras.Variable(KERNEL, name="kernel"), keras.Variable([1.0], name="bias")
    optimizer.apply([tf.zeros((2, 2)), tf.zeros(1)], [kernel, bias])
    np.testing.assert_allclose(kernel, 0.4 * KERNEL, rtol=1e-5)
    np.testing.assert_array_equal(bias, [1.0])


def test_half_precision_weights():
    variable = keras.Variable(KERNEL, dtype="bfloat16", name="kernel")
    optimizer = Regularized(keras.optimizers.SGD(0.5), [kp.regularizers.L2Init(0.5)])
    optimizer.apply([tf.ones((2, 2), "bfloat16")], [variable])
    optimizer.apply([tf.zeros((2, 2), "bfloat16")], [variable])
    assert variable.dtype == "bfloat16"
    np.testing.assert_allclose(np.array(variable).astype("float32"), KERNEL - 0.25, atol=0.02)


def test_what_is_kept_has_the_precision_of_the_weights():
    value = np.random.default_rng(0).normal(size=(3, 2))
    variable = keras.Variable(value, dtype="float64", name="kernel")
    penalties = [
        kp.regularizers.L2Init(1.0),
        kp.regularizers.WassersteinInit(every=2),
        kp.regularizers.SpectralRegularizer(),
        kp.regularizers.ParsevalRegularizer(turns=2),
    ]
    optimizer = Regularized(keras.optimizers.SGD(0.5), penalties[:1])
    optimizer.apply([tf.zeros((3, 2), "float64")], [variable])
    np.testing.assert_array_equal(variable, value)
    both = Regularized(keras.optimizers.SGD(0.5), penalties)
    for _ in range(3):
        both.apply([tf.zeros((3, 2), "float64")], [variable])
    assert all(v.dtype == "float64" for _, state in both._applied[0] for v in state)
    half = keras.Variable(value, dtype="bfloat16", name="kernel")
    optimizer = Regularized(keras.optimizers.SGD(0.5), penalties[:1])
    optimizer.build([half])
    assert optimizer._applied[0][0][1][0].dtype == "float32"


def test_what_cannot_be_used():
    adam = keras.optimizers.Adam
    for penalties in (keras.regularizers.L2(), ["l2"], [keras.regularizers.L2], None):
        with pytest.raises(ValueError, match="`penalties` must .*Received: penalties="):
            Regularized(adam(), penalties)
    with pytest.raises(ValueError, match="`policy` must .*Received: policy='all'"):
        Regularized(adam(), [keras.regularizers.L2()], "all")
    optimizer = Regularized(adam(), [kp.regularizers.L2Init()], DecayPolicy("kernels", "initial"))
    with pytest.raises(ValueError, match="L2Init.*toward='zero'"):
        one_step(optimizer)


def test_noise_has_the_stated_size_and_is_drawn_anew_at_every_step():
    zeros = np.zeros((300, 300), "float32")
    optimizer = GradientNoise(keras.optimizers.SGD(1.0), sigma=0.5, annealing=2.0)
    variable = keras.Variable(zeros, name="kernel")
    steps = []
    for _ in range(3):
        before = np.array(variable)
        optimizer.apply([tf.constant(zeros)], [variable])
        steps.append(np.array(variable) - before)
    for t, step in enumerate(steps):
        assert step.std() == pytest.approx(0.5 / (1 + t), rel=0.01)
        assert abs(step.mean()) < 5 * step.std() / 300
    for a, b in ((0, 1), (1, 2)):
        assert abs(np.corrcoef(steps[a].ravel(), steps[b].ravel())[0, 1]) < 0.02
    assert float(deviation(3, 0.5, 0.5)) == pytest.approx(0.5 / 4**0.25)
    assert float(deviation(9, 0.5, 0.0)) == 0.5


def test_noise_of_a_seed_with_and_without_xla():
    def steps(seed, jit):
        optimizer = GradientNoise(keras.optimizers.SGD(1.0), seed=seed)
        variables = [keras.Variable(np.zeros(s), name="kernel") for s in ((4, 3), (4, 3))]
        optimizer.build(variables)
        step = tf.function(
            lambda: optimizer.apply([tf.zeros((4, 3))] * 2, variables), jit_compile=jit
        )
        step()
        return [np.array(v) for v in variables]

    first, second = steps(1, False)
    assert not np.allclose(first, second, atol=1e-3)  # each weight has draws of its own
    np.testing.assert_allclose(first, steps(1, True)[0], atol=1e-6)
    assert not np.allclose(first, steps(2, False)[0], atol=1e-3)


def test_noise_of_size_zero_is_the_inner_optimizer():
    assert np.array_equal(one_step(GradientNoise(keras.optimizers.SGD(1.0), 0.0)), KERNEL)
    only = GradientNoise(keras.optimizers.SGD(1.0), which="kernels")
    kernel, bias = keras.Variable(KERNEL, name="kernel"), keras.Variable([1.0], name="bias")
    only.apply([tf.zeros((2, 2)), tf.zeros(1)], [kernel, bias])
    assert not np.array_equal(kernel, KERNEL) and np.array_equal(bias, [1.0])


@pytest.mark.parametrize("wrong", [{"sigma": -1}, {"annealing": float("nan")}, {"seed": 0.5}])
def test_arguments_of_noise_are_checked(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must .*Received"):
        GradientNoise(keras.optimizers.SGD(), **wrong)
