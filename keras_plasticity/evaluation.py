"""Loss and accuracy of a model on arrays, in one call."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.hooks import to_float


class Evaluator:
    """Loss and accuracy of a model in inference mode, on rows of device arrays.

    The loss is the mean of the task's loss over examples, without regularisation
    terms, so that it compares across methods. Traced once for any number of rows.

    Example:

    ```python
    evaluate = Evaluator(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss, accuracy = evaluate(x, y, np.arange(len(x)))
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
            losses = tf.cast(values(y, outputs), tf.float32)
            losses = tf.reduce_mean(tf.reshape(losses, [batch_size, -1]), 1)
            hits = tf.zeros_like(losses)
            if classification:
                labels = tf.cast(tf.reshape(y, [-1]), tf.int32)
                hits = tf.cast(tf.argmax(outputs, -1, output_type=tf.int32) == labels, tf.float32)
            zero = tf.zeros_like(losses)
            sums = [tf.reduce_sum(tf.where(present, v, zero)) for v in (losses, hits)]
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

    def __call__(self, x, y, rows) -> tuple[float | None, float | None]:
        """Returns (loss, accuracy); accuracy is None for regression, both without rows.

        Args:
            x: tensor or variable, shape `(examples, ...)`.
            y: tensor or variable, shape `(examples, ...)`.
            rows: int array, the examples to evaluate.
        """
        count = len(rows)
        if count == 0:
            return None, None
        blocks = np.full((-(-count // self.batch_size), self.batch_size), rows[0], np.int32)
        blocks.flat[:count] = rows
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        loss, hits = self._all_batches(x, y, tf.constant(blocks), tf.constant(count)).numpy()
        return float(loss / count), float(hits / count) if self.classification else None
