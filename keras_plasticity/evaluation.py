"""Loss and accuracy, or squared error, of a model on arrays, in one call."""

from __future__ import annotations

import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.hooks import to_float
from keras_plasticity.losses.shapes import squared_errors


class Evaluation(typing.NamedTuple):
    """What a model does on some examples; a value that means nothing is None.

    Attributes:
        loss: float, mean loss without penalties.
        accuracy: float, of a classifier.
        squared_error: float, of a regression, in squared units of the targets: outputs are
            decoded by the loss where it has `decode`.
    """

    loss: float | None = None
    accuracy: float | None = None
    squared_error: float | None = None


class Evaluator:
    """Loss, accuracy or squared error of a model in inference mode, on rows of device arrays.

    The loss is the mean of the task's loss over examples, without regularisation
    terms, so that it compares across methods. Traced once for any number of rows.

    Example:

    ```python
    evaluate = Evaluator(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss, accuracy, _ = evaluate(x, y, np.arange(len(x)))
    ```

    Args:
        model: built `keras.Model` with one output.
        loss: `keras.losses.Loss`, or a function of `(y_true, y_pred)` that returns
            one value per example.
        scale: float, factor for integer inputs. Default 1/255.
        classification: bool, whether targets are class labels. Default True.
        batch_size: int, examples per forward pass. Default 500.
        jit_compile: bool, whether XLA compiles the forward pass. Default True.
    """

    def __init__(
        self, model, loss, scale=1 / 255, classification=True, batch_size=500, jit_compile=True
    ):
        self.classification = classification
        self.batch_size = batch_size
        values = loss.call if isinstance(loss, keras.losses.Loss) else loss

        @tf.function(jit_compile=jit_compile, autograph=False)
        def one_batch(x, y, present):
            outputs = model(to_float(x, scale), training=False)
            if not classification:  # in half precision large targets would overflow
                outputs = tf.cast(outputs, tf.float32)
            losses = tf.cast(values(y, outputs), tf.float32)
            losses = tf.reduce_mean(tf.reshape(losses, [batch_size, -1]), 1)
            if classification:
                labels = tf.cast(tf.reshape(y, [-1]), tf.int32)
                marks = tf.cast(tf.argmax(outputs, -1, output_type=tf.int32) == labels, tf.float32)
            else:
                errors = tf.cast(squared_errors(loss, y, outputs), tf.float32)
                marks = tf.reduce_mean(tf.reshape(errors, [batch_size, -1]), 1)
            zero = tf.zeros_like(losses)
            sums = [tf.reduce_sum(tf.where(present, v, zero)) for v in (losses, marks)]
            return tf.cast(tf.stack(sums), tf.float64)

        @tf.function(reduce_retracing=True, autograph=False)
        def all_batches(x, y, blocks, count):
            def body(i, sums):
                rows = blocks[i]
                present = i * batch_size + tf.range(batch_size) < count
                return i + 1, sums + one_batch(tf.gather(x, rows), tf.gather(y, rows), present)

            start = [tf.constant(0), tf.zeros([2], tf.float64)]
            return tf.while_loop(lambda i, _: i < tf.shape(blocks)[0], body, start)[1]

        self._all_batches = all_batches

    def __call__(self, x, y, rows) -> Evaluation:
        """Returns loss and accuracy, or loss and squared error; nothing without rows.

        Args:
            x: tensor or variable, shape `(examples, ...)`.
            y: tensor or variable, shape `(examples, ...)`.
            rows: int array, the examples to evaluate.
        """
        count = len(rows)
        if count == 0:
            return Evaluation()
        blocks = np.full((-(-count // self.batch_size), self.batch_size), rows[0], np.int32)
        blocks.flat[:count] = rows
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        sums = self._all_batches(x, y, tf.constant(blocks), tf.constant(count)).numpy()
        loss, mark = (float(value) for value in sums / count)
        return Evaluation(loss, mark) if self.classification else Evaluation(loss, None, mark)
