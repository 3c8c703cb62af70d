"""Learned position embeddings, added to tokens."""

from __future__ import annotations

import typing

import keras


@keras.saving.register_keras_serializable(package="keras_plasticity")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector to every token: `outputs[:, t] = inputs[:, t] + embeddings[t]`.

    Inputs and outputs have the shape (batch, tokens, dim). The embeddings begin with
    normal draws of standard deviation 0.02, as is usual in vision transformers.
    """

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=input_shape[1:],
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.built = True

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        return inputs + self.embeddings

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return input_shape
