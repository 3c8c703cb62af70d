"""Whole weights: which layer they belong to, how it draws them, and writing them."""

from __future__ import annotations

import logging
import math
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.surgery import draws
from keras_plasticity.surgery.draws import Initializer
from keras_plasticity.surgery.network import seeded
from keras_plasticity.surgery.noise import noise
from keras_plasticity.units.rules.kernels import einsum_initializer

_LOG = logging.getLogger("keras_plasticity")
_NOT_KERNELS = ("bias", "gamma", "beta", "scale", "offset", "alpha", "embeddings")


class Borrowed(list):
    """What a callback writes to and does not own, so that it is no part of its state.

    Trees do not look into it: `InGraphCallback.variables` are what is saved for the
    callback, and weights and what the optimizer keeps are saved with their owners.
    """


def weighted_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers of a model that have weights to train, in topological order.

    Nested models are looked into, their layers are named "outer/inner". Layers made of
    layers (attention, recurrent layers, wrappers) are one layer. Frozen layers are left out.
    A layer that stands at several places has the name of the first.
    """
    layers = _layers(model, set())
    return {name: layer for name, layer in layers.items() if layer.trainable_variables}


def layers_of_statistics(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers that have nothing to train and yet change: they keep statistics.

    Such as a `BatchNormalization` without scale and offset. Frozen layers are left out, and
    so is `Normalization`, whose statistics are those of the data before training.
    """
    return {
        name: layer
        for name, layer in _layers(model, set()).items()
        if layer.trainable
        and not layer.trainable_variables
        and not isinstance(layer, keras.layers.Normalization)
        and unfrozen_variables(layer)
    }


def ordered_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns `weighted_layers` of a model whose order of computation is known.

    Raises:
        ValueError: it is not, in subclassed models.
    """
    if not isinstance(model, (keras.Sequential, keras.src.models.functional.Functional)):
        raise ValueError(
            "The last layers are known of Functional and Sequential models alone; name the "
            f"layers instead. Received: model={model!r}"
        )
    return weighted_layers(model)


def select_layers(
    model: keras.Model, layers: typing.Sequence[str] | None = None
) -> dict[str, keras.layers.Layer]:
    """Returns the named layers among those with weights to train; logs which are not there.

    Args:
        model: `keras.Model`.
        layers: names, see `weighted_layers`. Default: all.

    Raises:
        ValueError: none is left, or `layers` is one string.
    """
    if isinstance(layers, str):
        raise ValueError(f"`layers` must be a list of names. Received: layers={layers!r}")
    found = weighted_layers(model)
    chosen = named(found, layers, model, "weights to train")
    if not chosen:
        raise ValueError(
            f"No layer with weights to train is left in model {model.name!r} "
            f"({'' if model.built else 'not '}built); it has "
            f"{list(found)}. Received: layers={layers!r}"
        )
    return chosen


def float_variables(thing: keras.layers.Layer, trainable: bool = False) -> list[keras.Variable]:
    """Returns parameters and statistics of a layer or model, without seeds and counters.

    Args:
        thing: a layer or a model.
        trainable: bool, whether only what is trained is wanted. Default False.
    """
    variables = thing.trainable_variables if trainable else thing.variables
    return [v for v in variables if keras.backend.is_float_dtype(v.dtype)]


def unfrozen_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns `float_variables` of a layer without those of frozen layers in it."""
    parts = [part for part in layer._flatten_layers() if not part.trainable]
    frozen = {id(variable) for part in parts for variable in part.variables}
    return [variable for variable in float_variables(layer) if id(variable) not in frozen]


def named(
    found: dict[str, typing.Any],
    layers: typing.Sequence[str] | None,
    model: keras.Model,
    having: str,
) -> dict[str, typing.Any]:
    """Returns those of `found` that `layers` names, all without it; logs what is not there.

    Args:
        found: layers by name.
        layers: names, or None.
        model: `keras.Model`, for the log.
        having: what the layers have, for the log.
    """
    wanted = list(found) if layers is None else list(layers)
    for name in wanted:
        if name not in found:
            _LOG.warning(
                "%r is skipped: no layer of %r with this name has %s", name, model.name, having
            )
    return {name: layer for name, layer in found.items() if name in wanted}


def is_kernel(variable: keras.Variable) -> bool:
    """Whether a weight multiplies inputs: no bias, scale, slope or table of embeddings."""
    return len(variable.shape) >= 2 and variable.name not in _NOT_KERNELS


def initializers(model: keras.Model) -> dict[int, Initializer]:
    """Returns by `id` of each weight the initializer its own layer draws it by.

    It is the attribute of the layer that Keras names after the weight
    (`kernel_initializer`, also of parts of attentions and recurrent cells), else what a
    copy of the layer hands to `add_weight`. Weights for which neither is found are named
    in the log and left out.
    """
    found: dict[int, Initializer] = {}
    unknown = []
    for layer in model._flatten_layers():
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
        own = [v for v in own if keras.backend.is_float_dtype(v.dtype)]
        known = {id(v): by for v in own if (by := _by_attribute(layer, v)) is not None}
        missing = [v for v in own if id(v) not in known]
        recorded = _recorded(layer) if missing else {}
        known |= {id(v): recorded[v.name] for v in missing if v.name in recorded}
        unknown += [v.path for v in missing if v.name not in recorded]
        found |= known
    if unknown:
        _LOG.warning(
            "No initializer is known for %s; these weights are never drawn anew. Give the layer "
            "an attribute `<name of the weight>_initializer`.",
            ", ".join(unknown),
        )
    return found


def redraw(
    variables: typing.Iterable[keras.Variable],
    by: typing.Mapping[int, Initializer],
    seed: tf.Tensor,
) -> None:
    """Draws whole weights anew, in the graph or out of it.

    Args:
        variables: weights; one without an initializer in `by` is left as it is.
        by: initializers, see `initializers`.
        seed: int32, shape `(2,)`.
    """
    for i, variable in enumerate(variables):
        if id(variable) in by:
            at = draws.fold(seed, i)
            initializer = by[id(variable)]
            variable.assign(draws.draw(initializer, variable.shape, variable.dtype, at))


def perturb(
    variable: keras.Variable,
    initializer: Initializer | None,
    shrink: float,
    scale: float,
    seed: tf.Tensor,
) -> None:
    """Shrinks a weight and adds noise: `w = shrink * w + scale * noise`.

    Args:
        variable: the weight.
        initializer: draws the noise as for the whole weight; None for the standard
            normal distribution.
        shrink: float, factor of the weight.
        scale: float, factor of the noise; with 0 nothing is drawn.
        seed: int32, shape `(2,)`.
    """
    value = variable.value * tf.cast(shrink, variable.dtype)
    if scale:
        drawn = noise(initializer, variable.shape, variable.dtype, seed)
        value += tf.cast(scale, variable.dtype) * drawn
    variable.assign(value)


def law(initializer: Initializer, shape: typing.Sequence[int]) -> tuple[float, float]:
    """Returns mean and standard deviation of the entries of a weight at its start.

    Exact for Keras' constant, uniform, normal and scaled initializers; of others the mean
    and deviation over the entries of one draw.

    Args:
        initializer: a Keras initializer, or any function of shape and dtype.
        shape: shape of the whole weight.
    """
    known = draws.distribution(initializer, tuple(shape))
    if known is None:
        drawn = draws.draw(initializer, shape, "float32", tf.constant([0, 0]))
        return float(np.mean(drawn)), float(np.std(drawn))
    kind, a, b = known
    if kind == "uniform":
        return (a + b) / 2, (b - a) / math.sqrt(12)
    return a, b * draws.TRUNCATED if kind == "truncated" else b


def copy_of(variable: keras.Variable) -> keras.Variable:
    """Returns a variable of its own with the same value, that nothing trains."""
    value = tf.identity(variable.value)  # Keras would take the variable itself as its own
    name = variable.path.replace("/", "_")
    return keras.Variable(value, dtype=variable.dtype, trainable=False, name=name)


def size_of(variable: keras.Variable, axes: typing.Iterable[int]) -> int:
    """Returns the number of places along some axes of a weight."""
    return math.prod(variable.shape[axis] for axis in axes)


def entries(variables: typing.Iterable[keras.Variable]) -> int:
    """Returns how many numbers some weights hold."""
    return sum(math.prod(variable.shape) for variable in variables)


def _layers(model: keras.Model, seen: set[int]) -> dict[str, keras.layers.Layer]:
    """All layers but those whose `id` was seen, by name; those of nested models too."""
    found: dict[str, keras.layers.Layer] = {}
    for layer in model.layers:
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, keras.Model):
            inner = _layers(layer, seen)
            found |= {f"{layer.name}/{name}": part for name, part in inner.items()}
        else:
            found[layer.name] = layer
    return found


def _by_attribute(layer: keras.layers.Layer, variable: keras.Variable) -> Initializer | None:
    if variable.name == "bias" and getattr(layer, "unit_forget_bias", False):
        return None  # its gates start differently
    if variable.name == "kernel" and isinstance(layer, keras.layers.EinsumDense):
        return einsum_initializer(layer)
    stem = variable.name.removesuffix("_kernel")  # recurrent, depthwise, pointwise
    names = [variable.name, stem]
    if isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)):
        names = ["depthwise"] if variable.name == "kernel" else names
    for name in names:
        initializer = getattr(layer, f"{name}_initializer", None)
        if initializer is not None:
            return keras.initializers.get(initializer)
    return None


def _recorded(layer: keras.layers.Layer) -> dict[str, Initializer]:
    """Initializers by name of the weight, as a copy of the layer asks for them."""
    found: dict[str, Initializer] = {}
    try:
        with seeded(0):
            copy = type(layer).from_config(layer.get_config())
            add_weight = copy.add_weight

            def record(*args, **kwargs):
                variable = add_weight(*args, **kwargs)
                given = kwargs.get("initializer", args[1] if len(args) > 1 else None)
                found[variable.name] = keras.initializers.get(given or "glorot_uniform")
                return variable

            copy.add_weight = record
            copy.build_from_config(layer.get_build_config())
    except Exception as error:  # what a user's layer raises is not known
        _LOG.debug("%r cannot be rebuilt from its configuration: %s", layer.name, error)
    return found
