"""Penalties on weights, for `kp.optimizers.Regularized`, and on features."""

from keras_plasticity.regularizers.feature_norm import FeatureNorm
from keras_plasticity.regularizers.l2_init import L2Init
from keras_plasticity.regularizers.parseval_regularizer import ParsevalRegularizer
from keras_plasticity.regularizers.spectral_regularizer import SpectralRegularizer
from keras_plasticity.regularizers.stateful_regularizer import StatefulRegularizer
from keras_plasticity.regularizers.wasserstein_init import WassersteinInit

__all__ = [
    "FeatureNorm",
    "L2Init",
    "ParsevalRegularizer",
    "SpectralRegularizer",
    "StatefulRegularizer",
    "WassersteinInit",
]
