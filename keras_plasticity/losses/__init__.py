"""Losses, used as Keras' own, and what turns outputs into units of the targets."""

from keras_plasticity.losses.decoded_mean_squared_error import DecodedMeanSquaredError
from keras_plasticity.losses.hl_gauss import HLGauss
from keras_plasticity.losses.smoothed_sparse_categorical_crossentropy import (
    SmoothedSparseCategoricalCrossentropy,
)
from keras_plasticity.losses.target_normalization import TargetNormalization
from keras_plasticity.losses.two_hot import TwoHot

__all__ = [
    "DecodedMeanSquaredError",
    "HLGauss",
    "SmoothedSparseCategoricalCrossentropy",
    "TargetNormalization",
    "TwoHot",
]
