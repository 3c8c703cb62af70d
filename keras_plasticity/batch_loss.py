"""The loss of a batch as the model was compiled with it, and its gradients."""

from __future__ import annotations

import typing

import keras
import tensorflow as tf


def batch_loss(
    model: keras.Model,
    x: typing.Any,
    y: typing.Any,
    sample_weight: typing.Any = None,
    predictions: typing.Any = None,
) -> tf.Tensor:
    """Returns the mean loss of a batch without penalties, in inference mode, a scalar.

    Metrics that the loss updates are left as they were.

    Args:
        model: compiled `keras.Model`.
        x: inputs of the batch.
        y: targets of the batch.
        sample_weight: weights of the batch, or None.
        predictions: what a model of the same kind returned for `x`, in place of this one; a
            `compute_loss` of the model's own is not asked then.
    """
    states = [state for metric in model.metrics for state in metric.variables]
    before = [tf.identity(state.value) for state in states]
    if predictions is not None:  # penalties on activations would be those of another pass
        loss = model._compile_loss(y, predictions, sample_weight)
    else:
        predictions = model(x, training=False)
        loss = model.compute_loss(x, y, predictions, sample_weight, training=False)
        for penalty in model.losses:  # not always scalars; Keras adds them up as well
            loss -= tf.reduce_sum(penalty)
    for state, value in zip(states, before, strict=True):
        state.assign(value)
    return loss


def loss_gradients(
    model: keras.Model,
    variables: list,
    x: typing.Any,
    y: typing.Any,
    sample_weight: typing.Any = None,
) -> list[tf.Tensor]:
    """Returns the float32 gradients of `batch_loss`.

    Args:
        model: compiled `keras.Model`.
        variables: trainable `keras.Variable`s.
        x: inputs of the batch.
        y: targets of the batch.
        sample_weight: weights of the batch, or None.
    """
    return scaled_gradients(model, variables, lambda: batch_loss(model, x, y, sample_weight))


def scaled_gradients(
    model: keras.Model, variables: list, loss: typing.Callable[[], tf.Tensor]
) -> list[tf.Tensor]:
    """Returns the float32 gradients of a scalar, zeros where it does not depend on a variable.

    Args:
        model: compiled `keras.Model`, whose optimizer says how losses are scaled.
        variables: trainable `keras.Variable`s.
        loss: function that computes the scalar.
    """
    with tf.GradientTape() as tape:
        value = loss()
        # As Keras does, so that small float16 gradients do not vanish on the way.
        scale = tf.cast(model.optimizer.scale_loss(tf.constant(1.0)), value.dtype)
        value *= scale
    gradients = tape.gradient(
        value,
        [variable.value for variable in variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    scale = tf.cast(scale, tf.float32)
    return [tf.cast(tf.convert_to_tensor(g), tf.float32) / scale for g in gradients]
