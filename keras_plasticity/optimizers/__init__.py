"""Optimizers, used as Keras' own."""

from keras_plasticity.optimizers.adam import Adam
from keras_plasticity.optimizers.adamw import adamw
from keras_plasticity.optimizers.decay_policy import DecayPolicy
from keras_plasticity.optimizers.decoupled_decay import DecoupledDecay
from keras_plasticity.optimizers.regularized import Regularized

__all__ = ["Adam", "DecayPolicy", "DecoupledDecay", "Regularized", "adamw"]
