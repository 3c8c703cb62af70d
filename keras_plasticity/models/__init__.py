"""Networks of the field, as plain functional Keras models.

All take the same options for normalisation, activation, dropout, initialiser and
regulariser, described at `mlp`, and return logits or regression outputs.
"""

from keras_plasticity.models.convolutional import cnn
from keras_plasticity.models.perceptron import mlp
from keras_plasticity.models.residual import resnet18
from keras_plasticity.models.transformer import vit

__all__ = ["cnn", "mlp", "resnet18", "vit"]
