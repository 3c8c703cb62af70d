"""A network like another one, with normalisations in it."""

from __future__ import annotations

import collections
import typing

import keras
from keras.src.models.functional import functional_like_constructor

from keras_plasticity.models.normalization import normalization
from keras_plasticity.units.nonlinearities import Nonlinearity
from keras_plasticity.units.trace import graph_of


class Rebuilding:
    """Copies a model layer by layer and puts a normalisation before some nonlinearities.

    Layers keep their names and weights. A layer whose `activation` is to be normalised returns
    what it had before it; normalisation and activation follow as layers of their own, and its
    penalty on activations goes with the activation. Constraints on weights are kept.

    Args:
        model: Functional or built Sequential `keras.Model`.
        places: list of `Nonlinearity`, before which a normalisation comes.
        norm: see `normalization`.
        affine: see `normalization`.

    Attributes:
        model: the new `keras.Model`, not compiled.
        norms: dict from (name, call) of a place to the layer that stands before it.
        variables: dict from the `id` of each weight of the old model to the new one.
    """

    def __init__(
        self, model: keras.Model, places: list[Nonlinearity], norm: typing.Any, affine: bool
    ) -> None:
        self._norm, self._affine = norm, affine
        self._places = {(id(place.operation), place.call): place for place in places}
        self._split = {id(place.operation) for place in places if place.argument}
        self._copies: dict[typing.Hashable, typing.Any] = {}
        self._originals: dict[int, typing.Any] = {}  # of copies, by their `id`
        self._calls: dict[int, int] = collections.defaultdict(int)
        self._shared: dict[int, keras.layers.Layer] = {}  # norms of layers with weights
        self._taken = {part.name for part in model._flatten_layers()}
        self.norms: dict[tuple[str, int], keras.layers.Layer] = {}
        self.variables: dict[int, keras.Variable] = {}
        self.model = self._graph(model)
        for original in model._flatten_layers(include_self=False):
            copy = self._copies.get(id(original))
            if copy is None or graph_of(copy) is not None:
                continue
            copy.set_weights(original.get_weights())
            for old, new in zip(original.weights, copy.weights, strict=True):
                self.variables[id(old)] = new
                new.constraint = new.constraint or old.constraint

    def _graph(self, model: typing.Any) -> keras.Model:
        graph = graph_of(model)
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name),
            graph._inputs_struct,
        )
        outputs = graph._run_through_graph(inputs, operation_fn=self._copy, call_fn=self._call)
        kind = type(model) if functional_like_constructor(type(model)) else keras.Model
        return kind(inputs, outputs, name=model.name, trainable=model.trainable)

    def _copy(self, operation: typing.Any) -> typing.Any:
        key = id(operation)
        if key not in self._copies:
            if graph_of(operation) is not None:
                copy: typing.Any = self._graph(operation)
            else:
                config = operation.get_config()
                if key in self._split:
                    config |= {"activation": "linear", "activity_regularizer": None}
                copy = type(operation).from_config(config)
            self._copies[key] = copy
            self._originals[id(copy)] = operation
        return self._copies[key]

    def _call(self, copy: typing.Any, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        operation = self._originals[id(copy)]
        number = self._calls[id(operation)]
        self._calls[id(operation)] += 1
        place = self._places.get((id(operation), number))
        if id(operation) in self._split:  # also in calls that are left without normalisation
            x = copy(*args, **kwargs)
            x = x if place is None else self._normalize(x, operation, place)
            return self._activation(operation)(x)
        if place is None:
            return copy(*args, **kwargs)
        x, *others = args
        return copy(self._normalize(x, operation, place), *others, **kwargs)

    def _normalize(self, x: typing.Any, operation: typing.Any, place: Nonlinearity) -> typing.Any:
        shared = bool(getattr(operation, "weights", None))
        key = place.name, place.call
        if shared and id(operation) in self._shared:
            self.norms[key] = self._shared[id(operation)]
            return self.norms[key](x)
        axis = 1 if getattr(operation, "data_format", None) == "channels_first" else -1
        layer = normalization(
            self._norm,
            x.shape,
            self._affine,
            self._name(f"{operation.name}_norm"),
            axis=axis,
            dtype=getattr(operation, "dtype_policy", None),
        )
        self._shared[id(operation)] = self.norms[key] = layer
        return layer(x)

    def _activation(self, operation: typing.Any) -> keras.layers.Layer:
        key = (id(operation), "activation")
        if key not in self._copies:
            function, name = operation.activation, self._name(f"{operation.name}_activation")
            if isinstance(function, keras.layers.Layer):
                layer = type(function).from_config({**function.get_config(), "name": name})
            else:
                layer = keras.layers.Activation(function, name=name, dtype=operation.dtype_policy)
            layer.activity_regularizer = operation.activity_regularizer
            self._copies[key] = layer
        return self._copies[key]

    def _name(self, name: str) -> str:
        free, number = name, 0
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free
