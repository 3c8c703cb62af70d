"""Optimizers, used as Keras' own."""

from keras_plasticity.optimizers.adam import Adam
from keras_plasticity.optimizers.adamw import adamw
from keras_plasticity.optimizers.decay_policy import DecayPolicy
from keras_plasticity.optimizers.decoupled_decay import DecoupledDecay
from keras_plasticity.optimizers.gradient_noise import GradientNoise
from keras_plasticity.optimizers.regularized import Regularized
from keras_plasticity.optimizers.upgd import UPGD

__all__ = [
    "UPGD",
    "Adam",
    "DecayPolicy",
    "DecoupledDecay",
    "GradientNoise",
    "Regularized",
    "adamw",
]
