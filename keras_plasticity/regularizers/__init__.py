"""Penalties on weights, for `kp.optimizers.Regularized`."""

from keras_plasticity.regularizers.l2_init import L2Init

__all__ = ["L2Init"]
