"""Gives normalisation and decay to a network that already exists."""

from keras_plasticity.fortification.fortified import Change, Fortified, fortify

__all__ = ["Change", "Fortified", "fortify"]
