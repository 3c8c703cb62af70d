"""A network of any layers, one behind the other, put together in a gin file."""

import gin
import keras


@gin.configurable
def stack(input_shape: tuple, num_outputs: int, layers=(), output=keras.layers.Dense):
    """Returns the network.

    Args:
        input_shape: shape of an example.
        num_outputs: outputs of the last layer.
        layers: the layers before the last, in order.
        output: class of the last layer.
    """
    inputs = x = keras.Input(input_shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, output(num_outputs, name="output")(x), name="stack")
