"""Interventions and controls as Keras callbacks."""

from keras_plasticity.callbacks.fresh_network import FreshNetwork

__all__ = ["FreshNetwork"]
