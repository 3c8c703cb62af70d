"""Interventions and controls as Keras callbacks."""

from keras_plasticity.callbacks.churn_reduction import ChurnReduction
from keras_plasticity.callbacks.continual_backprop import ContinualBackprop
from keras_plasticity.callbacks.fresh_network import FreshNetwork
from keras_plasticity.callbacks.frobenius_projection import FrobeniusProjection
from keras_plasticity.callbacks.gradient_dormancy_reset import GradientDormancyReset
from keras_plasticity.callbacks.gradient_norm_penalty import GradientNormPenalty
from keras_plasticity.callbacks.hare_and_tortoise import HareAndTortoise
from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.callbacks.layer_reset import LayerReset
from keras_plasticity.callbacks.monitor import Monitor
from keras_plasticity.callbacks.optimizer_reset import OptimizerReset
from keras_plasticity.callbacks.orthogonal_reset import OrthogonalReset
from keras_plasticity.callbacks.plasticity_alarm import PlasticityAlarm
from keras_plasticity.callbacks.plasticity_injection import PlasticityInjection
from keras_plasticity.callbacks.pop_art_update import PopArtUpdate
from keras_plasticity.callbacks.redo import ReDo
from keras_plasticity.callbacks.scheduled_rescaling import ScheduledRescaling
from keras_plasticity.callbacks.selective_weight_reinit import SelectiveWeightReinit
from keras_plasticity.callbacks.self_normalized_resets import SelfNormalizedResets
from keras_plasticity.callbacks.shrink_and_perturb import ShrinkAndPerturb
from keras_plasticity.callbacks.soft_reset import SoftReset
from keras_plasticity.callbacks.statistics_reset import StatisticsReset

__all__ = [
    "ChurnReduction",
    "ContinualBackprop",
    "FreshNetwork",
    "FrobeniusProjection",
    "GradientDormancyReset",
    "GradientNormPenalty",
    "HareAndTortoise",
    "Intervention",
    "LayerReset",
    "Monitor",
    "OptimizerReset",
    "OrthogonalReset",
    "PlasticityAlarm",
    "PlasticityInjection",
    "PopArtUpdate",
    "ReDo",
    "ScheduledRescaling",
    "SelectiveWeightReinit",
    "SelfNormalizedResets",
    "ShrinkAndPerturb",
    "SoftReset",
    "StatisticsReset",
]
