"""Optimizers, used as Keras' own."""

from keras_plasticity.optimizers.adamw import adamw

__all__ = ["adamw"]
