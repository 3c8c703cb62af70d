"""Gradients of single examples, and their inner products."""

from __future__ import annotations

import collections.abc
import typing

import keras
import numpy as np
import tensorflow as tf

_BYTES = 256e6  # of float32 gradients that one block may hold


def example_gradients(
    value: collections.abc.Callable,
    variables: collections.abc.Sequence[keras.Variable],
    data: typing.Any,
) -> tf.Tensor:
    """Returns a flat gradient for each example, float32 of shape `(examples, weights)`.

    To be traced. One backward pass for each example, in a loop, so that every layer can be
    part of it.

    Args:
        value: maps data of one example, with the axis of examples, to a scalar tensor.
        variables: trainable weights.
        data: structure of tensors with examples along the first axis.
    """

    def gradient(i: tf.Tensor) -> tf.Tensor:
        one = keras.tree.map_structure(lambda a: tf.gather(a, i[None]), data)
        with tf.GradientTape() as tape:
            scalar = value(*one)
        return flat_gradient(tape, scalar, variables)

    count = tf.shape(keras.tree.flatten(data)[0])[0]
    # One after the other, so that the memory of one backward pass is enough.
    return tf.map_fn(
        gradient, tf.range(count), parallel_iterations=1, fn_output_signature=tf.float32
    )


def flat_gradient(
    tape: tf.GradientTape,
    value: tf.Tensor,
    variables: collections.abc.Sequence[keras.Variable],
) -> tf.Tensor:
    """Returns the gradient with respect to all weights as one float32 vector; 0 if unconnected."""
    gradients = tape.gradient(
        value,
        [variable.value for variable in variables],
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients]
    return tf.concat([tf.reshape(g, [-1]) for g in dense], 0)


def half_scale(model: keras.Model) -> float:
    """Returns a factor for losses, so that small float16 gradients do not vanish; else 1.

    That of a `LossScaleOptimizer` is for means over a batch; single examples overflow with it.
    """
    layers = model._flatten_layers()
    return 256.0 if any(layer.compute_dtype == "float16" for layer in layers) else 1.0


def gram(
    rows: collections.abc.Callable[[int, int], typing.Any], count: int, size: int
) -> np.ndarray:
    """Returns inner products of all pairs of rows, float64 of shape `(count, count)`.

    Where all rows do not fit into 256 MB they are computed in blocks, and some again.

    Args:
        rows: returns rows `start` to `stop` as a float32 array of shape `(stop - start, size)`.
        count: int, rows.
        size: int, numbers in a row.
    """
    block = int(max(1, min(count, _BYTES // (4 * max(size, 1)))))
    result = np.zeros((count, count))
    starts = range(0, count, block)
    for start in starts:
        stop = min(start + block, count)
        left = np.asarray(rows(start, stop))
        for other in (s for s in starts if s >= start):
            end = min(other + block, count)
            right = left if other == start else np.asarray(rows(other, end))
            products = _products(left, right)
            result[start:stop, other:end] = products
            result[other:end, start:stop] = products.T
    return result


def _products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`left @ right.T` in float64, without a float64 copy of all of them."""
    result = np.zeros((len(left), len(right)))
    columns = max(1, 2**22 // max(len(left), 1))
    for start in range(0, left.shape[1], columns):
        part = slice(start, start + columns)
        a = tf.constant(left[:, part], tf.float64)
        b = a if right is left else tf.constant(right[:, part], tf.float64)
        # By TensorFlow: the threads of NumPy's BLAS would fight its threads.
        result += tf.matmul(a, b, transpose_b=True).numpy()
    return result
