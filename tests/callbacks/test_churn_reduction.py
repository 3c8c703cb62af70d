import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity.callbacks.churn_reduction import ChurnReduction, churn_gradients

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)).astype("float32"), RNG.normal(size=(12, 2)).astype("float32")


def network(rate=0.1):
    with kp.surgery.seeded(1):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(2, use_bias=False)(inputs))
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def test_gradient_of_a_linear_network_by_hand():
    model = network()
    (kernel,) = model.trainable_variables
    before = keras.Variable(np.array(kernel) - np.eye(3, 2))
    (gradient,) = churn_gradients(model, [kernel], [before], X)
    np.testing.assert_allclose(gradient, 2 / 12 * X.T @ (X @ np.eye(3, 2)), rtol=1e-5)
    (none,) = churn_gradients(model, [kernel], [kp.surgery.weights.copy_of(kernel)], X)
    assert not np.any(none)


def test_three_steps_as_in_the_docstring():
    model = network()
    kernel = np.array(model.trainable_variables[0])
    callback = ChurnReduction(0.5, examples=3)
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0, callbacks=[callback])
    before = reference = None
    for i in range(0, 12, 4):
        x, y = X[i : i + 4], Y[i : i + 4]
        kernel = kernel - 0.1 * 2 / 8 * x.T @ (x @ kernel - y)
        if reference is not None:
            apart = reference @ (kernel - before)
            kernel = kernel - 0.1 * 0.5 * 2 / 3 * reference.T @ apart
        before, reference = kernel, x[:3]
    np.testing.assert_allclose(model.trainable_variables[0], kernel, rtol=1e-5, atol=1e-6)
    assert list(np.array(callback.counts)) == [2]


def test_outputs_on_the_batch_before_change_less():
    changes = []
    for strength in (0.0, 4.0):
        model, callback = network(), ChurnReduction(strength)
        model.fit(X[:4], Y[:4], batch_size=4, verbose=0, callbacks=[callback])
        before = np.array(model(X[:4]))
        model.fit(X[4:8], Y[4:8], batch_size=4, verbose=0, callbacks=[callback])
        changes.append(float(np.abs(np.array(model(X[:4])) - before).sum()))
    assert changes[1] < 0.8 * changes[0]


@pytest.mark.parametrize("first", [True, False])
def test_a_reset_at_a_task_is_not_taken_back(first):
    """The first update after it is that of the run without, whichever callback comes first."""
    kernels = []
    for strength in (0.0, 1.0):
        model, churn = network(), ChurnReduction(strength)
        callbacks = [churn, kp.callbacks.LayerReset()][:: 1 if first else -1]
        model.fit(X, Y, batch_size=4, verbose=0, shuffle=False, callbacks=callbacks)
        model.trainable_variables[0].assign(10 * np.ones((3, 2)))  # far from any new network
        model.fit(X[:4], Y[:4], batch_size=4, verbose=0, callbacks=callbacks)
        for callback in callbacks:
            callback.on_task_begin(1, model)
        model.fit(X[4:8], Y[4:8], batch_size=4, verbose=0, callbacks=callbacks)
        kernels.append(np.array(model.trainable_variables[0]))
    np.testing.assert_allclose(*kernels, rtol=1e-5, atol=1e-6)
    acted = int(churn.counts[0])
    model.fit(X[8:], Y[8:], batch_size=4, verbose=0, callbacks=callbacks)
    assert int(churn.counts[0]) == acted + 1


def test_what_it_cannot_do():
    with pytest.raises(ValueError, match="`strength` must .*Received: strength=-1"):
        ChurnReduction(-1)
    with pytest.raises(ValueError, match="`examples` must .*Received: examples=0"):
        ChurnReduction(examples=0)
    inputs = [keras.Input((3,)), keras.Input((3,))]
    two = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Add()(inputs)))
    with pytest.raises(ValueError, match="one input.*Received: a model of several"):
        ChurnReduction().build(two)
    inputs = keras.Input((None, 3))
    with pytest.raises(ValueError, match="one shape"):
        ChurnReduction().build(keras.Model(inputs, keras.layers.Dense(1)(inputs)))
