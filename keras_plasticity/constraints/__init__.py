"""Constraints on weights, and giving them to models that are built already."""

from keras_plasticity.constraints.constrain import Constrained, constrain, constrained
from keras_plasticity.constraints.weight_clipping import WeightClipping

__all__ = ["Constrained", "WeightClipping", "constrain", "constrained"]
