"""Networks made by hand, whose units are known."""

import keras
import numpy as np
from keras import layers

import keras_plasticity as kp


def one_layer(biases, activation="relu", inputs=2, outputs=2, kernel=None):
    """A dense layer with these biases, and one that reads it; compiled for class labels."""
    x = keras.Input((inputs,))
    hidden = layers.Dense(len(biases), activation=activation, name="hidden")
    model = keras.Model(x, layers.Dense(outputs, name="output")(hidden(x)))
    if kernel is None:
        kernel = np.random.default_rng(0).normal(size=(inputs, len(biases)))
    hidden.set_weights([np.asarray(kernel, "float32"), np.asarray(biases, "float32")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss)
    return model


def examples(count=1000, inputs=2, classes=2, seed=1):
    generator = np.random.default_rng(seed)
    x = generator.uniform(-1, 1, (count, inputs)).astype("float32")
    return x, generator.integers(0, classes, count).astype("int32")


def inputs_of(model, count=1000, seed=1, **options):
    classes = model.output_shape[-1]
    x, y = examples(count, model.input_shape[-1], classes, seed)
    return kp.probes.ProbeInputs(model, x, y, **options)
