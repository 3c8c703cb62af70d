"""Layers, used as Keras' own."""

from keras_plasticity.layers.adalin import AdaLin
from keras_plasticity.layers.center_scale import CenterScale
from keras_plasticity.layers.crelu import CReLU
from keras_plasticity.layers.deep_fourier import DeepFourier
from keras_plasticity.layers.diagonal import Diagonal
from keras_plasticity.layers.dropout import Dropout
from keras_plasticity.layers.hadamard_dense import HadamardDense
from keras_plasticity.layers.normalized_attention import NormalizedAttention
from keras_plasticity.layers.normalized_conv2d import NormalizedConv2D
from keras_plasticity.layers.normalized_dense import NormalizedDense
from keras_plasticity.layers.normalized_logits import NormalizedLogits
from keras_plasticity.layers.pop_art import PopArt
from keras_plasticity.layers.position_embedding import PositionEmbedding
from keras_plasticity.layers.rational import Rational
from keras_plasticity.layers.rms_normalization import RMSNormalization
from keras_plasticity.layers.smooth_leaky_relu import SmoothLeakyReLU
from keras_plasticity.layers.unit_ball import UnitBall
from keras_plasticity.layers.weight_standardization import WeightStandardization

__all__ = [
    "AdaLin",
    "CReLU",
    "CenterScale",
    "DeepFourier",
    "Diagonal",
    "Dropout",
    "HadamardDense",
    "NormalizedAttention",
    "NormalizedConv2D",
    "NormalizedDense",
    "NormalizedLogits",
    "PopArt",
    "PositionEmbedding",
    "RMSNormalization",
    "Rational",
    "SmoothLeakyReLU",
    "UnitBall",
    "WeightStandardization",
]
