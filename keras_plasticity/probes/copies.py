"""Copies of a network and of its optimizer, which probes may train."""

from __future__ import annotations

import typing

import keras

from keras_plasticity import surgery
from keras_plasticity.probes.probe import NotApplicableError


def copy_network(model: keras.Model) -> keras.Model:
    """Returns a network with the architecture and the weights of `model` that shares nothing.

    It is not compiled. No random state outside is advanced.

    Args:
        model: built `keras.Model`, Functional or Sequential.

    Raises:
        NotApplicableError: the model cannot be copied (subclassed models), or has no weights
            to train.
    """
    try:
        with surgery.seeded(0):
            copy = keras.models.clone_model(model)
        assign_weights(copy, model.weights)
    except Exception as error:  # what the layers of users raise is not known
        reason = str(error).strip().split("\n")[0]
        raise NotApplicableError(f"{model.name!r} cannot be copied: {reason}") from error
    if not copy.trainable_variables:
        raise NotApplicableError(f"{model.name!r} has no weights to train")
    return copy


def copy_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Returns a fresh optimizer of the class and configuration of the compiled one.

    The learning rate is that of now, a schedule starts anew. Where there is none, Adam with a
    learning rate of 1e-3.

    Args:
        model: `keras.Model`.

    Raises:
        NotApplicableError: the optimizer cannot be made from its configuration.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return keras.optimizers.Adam(1e-3)
    try:
        return type(optimizer).from_config(optimizer.get_config())
    except Exception as error:  # what the optimizers of users raise is not known
        raise NotApplicableError(f"the optimizer cannot be copied: {error}") from error


def optimizer_key(model: keras.Model) -> str:
    """Returns what tells optimizers apart that cannot share a compiled step."""
    optimizer = getattr(model, "optimizer", None)
    return "" if optimizer is None else f"{type(optimizer)}{optimizer.get_config()}"


def assign_weights(model: keras.Model, values: typing.Sequence) -> None:
    """Writes all weights of a model.

    Args:
        model: `keras.Model`.
        values: list of arrays, tensors or variables, in the order of `model.weights`.

    Raises:
        ValueError: there are more or fewer, or shapes differ.
    """
    if len(model.weights) != len(values):
        raise ValueError(f"it has {len(values)} weights and its copy {len(model.weights)}")
    for variable, value in zip(model.weights, values, strict=True):
        variable.assign(getattr(value, "value", value))
