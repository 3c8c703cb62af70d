import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.callbacks.gradient_norm_penalty import GradientNormPenalty, gradient_slope

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6)).astype("float32"), RNG.normal(size=(16, 2)).astype("float32")


def network(activation=None):
    with kp.surgery.seeded(1):
        x = inputs = keras.Input((6,))
        if activation:
            x = keras.layers.Dense(8, activation, name="hidden")(x)
        model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False, name="out")(x))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def test_slope_of_a_quadratic_by_hand():
    w = keras.Variable([1.0, -2.0])
    curvature = tf.constant([[3.0, 1.0], [1.0, 2.0]])
    before = np.array(w)

    def gradients():
        return [tf.linalg.matvec(curvature, w.value)]

    (slope,) = gradient_slope([w], gradients, 1e-2)
    np.testing.assert_allclose(slope, [0.0, -5.0], atol=1e-3)  # H @ (1, -3)
    assert np.array_equal(w, before)


def test_without_a_gradient_there_is_no_step():
    w = keras.Variable([1.0, -2.0])
    (slope,) = gradient_slope([w], lambda: [tf.zeros(2)], 1e-2)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_a_step_is_that_of_the_penalty(activation):
    plain, penalised = network(activation), network(activation)
    for model, callbacks in ((plain, []), (penalised, [GradientNormPenalty(0.5)])):
        model.fit(X, Y, batch_size=16, verbose=0, callbacks=callbacks)
    variables = plain.trainable_variables
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            loss = tf.reduce_mean(tf.square(plain(X) - Y))
        slope = inner.gradient(loss, [v.value for v in variables])
        penalty = 0.5 / 2 * tf.add_n([tf.reduce_sum(g**2) for g in slope])
    expected = outer.gradient(penalty, [v.value for v in variables])
    for a, b, h in zip(variables, penalised.trainable_variables, expected, strict=True):
        step = np.array(a) - np.array(b)
        assert np.abs(step).max() > 1e-3
        np.testing.assert_allclose(step, 0.1 * h, rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"strength": -1}, {"radius": 0}, {"period": 0}])
def test_arguments_are_checked(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must .*Received"):
        GradientNormPenalty(**wrong)


def test_pop_art_is_refused():
    model = keras.Sequential([keras.Input((3,)), kp.layers.PopArt(name="head")])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`PopArt`.*Received: a model with \['head'\]"):
        GradientNormPenalty().build(model)
    GradientNormPenalty(0.0).build(model)  # the plain run
