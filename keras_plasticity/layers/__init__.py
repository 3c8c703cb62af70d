"""Layers, used as Keras' own."""

from keras_plasticity.layers.dropout import Dropout
from keras_plasticity.layers.position_embedding import PositionEmbedding
from keras_plasticity.layers.rms_normalization import RMSNormalization

__all__ = ["Dropout", "PositionEmbedding", "RMSNormalization"]
