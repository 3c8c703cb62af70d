"""What `run` is measured against: the same training, written otherwise.

Each function returns a function that trains on one task (`x`, `y` uint8 and int32
arrays, `order` int32 `(updates, batch)`) and returns the seconds that took.
"""

import time

import keras
import numpy as np


def plain_fit(model, optimizer, epochs):
    """Keras' `fit` on the same rows, as a user would call it."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])

    def train(x, y, order):
        rows = order[: len(order) // epochs].reshape(-1)
        inputs, targets = x[rows] * np.float32(1 / 255), y[rows]
        start = time.perf_counter()
        model.fit(inputs, targets, batch_size=order.shape[1], epochs=epochs, verbose=0)
        return time.perf_counter() - start

    return train


def xla_loop(sizes, learning_rate, adam):
    """A whole task in one XLA call, written by hand without Keras."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    draws = [rng.normal(size=p).astype("float32") * np.float32((2 / p[0]) ** 0.5) for p in pairs]
    kernels = [tf.Variable(draw) for draw in draws]
    biases = [tf.Variable(tf.zeros(p[1])) for p in pairs]
    weights = kernels + biases
    first = [tf.Variable(tf.zeros_like(w)) for w in weights]
    second = [tf.Variable(tf.zeros_like(w)) for w in weights]
    steps = tf.Variable(0.0)

    def update(x, y):
        with tf.GradientTape() as tape:
            h = tf.reshape(tf.cast(x, tf.float32) * (1 / 255), [x.shape[0], -1])
            for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
                h = h @ kernel + bias
                h = tf.nn.relu(h) if i < len(kernels) - 1 else h
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, h)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, weights)
        hits = tf.reduce_mean(tf.cast(tf.argmax(h, -1, output_type=tf.int32) == y, tf.float32))
        if not adam:
            for w, g in zip(weights, gradients, strict=True):
                w.assign_sub(learning_rate * g)
            return loss, hits
        steps.assign_add(1.0)
        rate = learning_rate * tf.sqrt(1 - 0.999**steps) / (1 - 0.9**steps)
        for w, g, m, v in zip(weights, gradients, first, second, strict=True):
            m.assign_add((g - m) * 0.1)
            v.assign_add((g * g - v) * 0.001)
            w.assign_sub(rate * m / (tf.sqrt(v) + 1e-7))
        return loss, hits

    @tf.function(jit_compile=True)
    def task(x, y, order):
        def body(i, values):
            rows = tf.gather(order, i)
            value = tf.stack(update(tf.gather(x, rows), tf.gather(y, rows)))
            return i + 1, tf.tensor_scatter_nd_update(values, [[i]], value[None])

        count = order.shape[0]
        return tf.while_loop(lambda i, _: i < count, body, [0, tf.zeros([count, 2])])[1]

    def train(x, y, order):
        x, y, order = tf.constant(x), tf.constant(y), tf.constant(order)
        start = time.perf_counter()
        task(x, y, order).numpy()
        return time.perf_counter() - start

    return train


def torch_loop(sizes, learning_rate, adam):
    """PyTorch's eager loop; None where PyTorch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    layers = []
    for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = (torch.optim.Adam if adam else torch.optim.SGD)(model.parameters(), learning_rate)
    criterion = torch.nn.CrossEntropyLoss()

    def train(x, y, order):
        x = torch.tensor(x.reshape(len(x), -1))
        y, order = torch.tensor(y.astype("int64")), torch.tensor(order)
        hits = 0
        start = time.perf_counter()
        for rows in order:
            logits = model(x[rows].float() * (1 / 255))
            loss = criterion(logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hits += (logits.argmax(-1) == y[rows]).sum().item()
        return time.perf_counter() - start

    return train
