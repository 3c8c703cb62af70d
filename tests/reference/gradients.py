"""Gradients of single examples, one after the other, and their inner products."""

import keras
import numpy as np
import tensorflow as tf


def flat(tape, value, variables):
    """Returns the gradient as one float64 vector."""
    gradients = tape.gradient(value, [v.value for v in variables])
    arrays = [
        np.zeros(v.shape) if g is None else np.asarray(tf.convert_to_tensor(g))
        for g, v in zip(gradients, variables, strict=True)
    ]
    return np.concatenate([a.reshape(-1) for a in arrays]).astype(np.float64)


def of_outputs(model, x):
    """Returns the Jacobian of all outputs, shape `(examples, outputs, weights)`."""
    rows = []
    for i in range(len(x)):
        with tf.GradientTape(persistent=True) as tape:
            parts = keras.tree.flatten(model(x[i : i + 1]))
            values = tf.unstack(tf.concat([tf.reshape(p, [-1]) for p in parts], 0))
        rows.append([flat(tape, v, model.trainable_variables) for v in values])
    return np.array(rows)


def of_loss(model, loss, x, y, variables=None):
    """Returns the gradient of the loss of each example, shape `(examples, weights)`."""
    rows = []
    for i in range(len(x)):
        with tf.GradientTape() as tape:
            value = loss(y[i : i + 1], model(x[i : i + 1]))
        rows.append(flat(tape, value, variables or model.trainable_variables))
    return np.array(rows)
