"""Gives a constraint to the weights of a model that is built already."""

from __future__ import annotations

import dataclasses
import math
import typing

import keras

from keras_plasticity.layers.normalized_kernel import Projection
from keras_plasticity.optimizers.decay_policy import DecayPolicy
from keras_plasticity.surgery.weights import is_kernel
from keras_plasticity.units.rules.kernels import Equation

_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_PLAIN = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True, eq=False)
class Constrained:
    """What `constrain` did, and the way back.

    Attributes:
        constraints: dict from the path of a weight to the constraint it has now.
        left: dict from the path of a weight that was chosen to why it was left alone.
        unsaved: list of paths whose constraint is lost when the model is saved, because the
            configuration of the layer that is saved has no place for it. Of a layer made of
            layers (attention) that is the outer one.
    """

    constraints: dict[str, typing.Any]
    left: dict[str, str]
    unsaved: list[str]
    _before: list[tuple[typing.Any, str, typing.Any]]
    _model: keras.Model

    def undo(self) -> None:
        """Puts all constraints back to what they were; the weights stay as they are."""
        for owner, attribute, value in reversed(self._before):
            setattr(owner, attribute, value)
        self._model.train_function = None

    def __str__(self) -> str:
        lines = [f"{path}: {_text(c)}" for path, c in self.constraints.items()]
        lines += [f"{path}: left alone, {why}" for path, why in self.left.items()]
        return "\n".join(lines)


def constrain(
    model: keras.Model, constraint: keras.constraints.Constraint, which: str = "all"
) -> Constrained:
    """Gives a constraint to weights of a model that is built already.

    Keras applies it after every update, in any training loop that uses an optimizer of Keras.
    It takes effect at the next `fit`, and weights at the first update after it. Where a layer
    has an argument for it (`kernel_constraint`), that is set as well, so it is saved and loaded
    with the model. For a layer made of layers (`MultiHeadAttention`) the constraint holds but is
    not saved, see `Constrained.unsaved`. Kernels that the layer itself keeps at a norm
    (`kp.layers.NormalizedDense`) are left alone.

    A constraint with a method `with_fan_in(n)`, as `WeightClipping`, is told the number of
    inputs of the units: of the layer's kernel, also for its bias.

    Example:

    ```python
    done = kp.constraints.constrain(model, kp.constraints.WeightClipping(2.0))
    print(done)
    done.undo()
    ```

    Args:
        model: built `keras.Model`.
        constraint: `keras.constraints.Constraint`, or a function of a weight.
        which: `"all"`: kernels and biases; `"kernels"`; or a regular expression that is searched
            for in the path of a weight: `"^(?!logits/)"` for all but those of `logits`.
            Never scales and offsets of normalisations, and never embeddings. Default "all".

    Returns:
        `Constrained`.

    Raises:
        ValueError: an argument is no such thing, or no weight is chosen.
    """
    if not callable(constraint):
        raise ValueError(f"`constraint` must be callable. Received: constraint={constraint!r}")
    policy = DecayPolicy(which)
    done: dict[str, typing.Any] = {}
    left: dict[str, str] = {}
    unsaved: list[str] = []
    before: list[tuple] = []
    saved_by = {id(part): top for top in _saved(model) for part in top._flatten_layers()}
    for layer in model._flatten_layers():
        kernels = [v for v in layer._trainable_variables if is_kernel(v)]
        for variable in layer._trainable_variables:
            path = variable.path
            if not (is_kernel(variable) or _is_bias(variable)) or not policy.chooses(variable):
                continue
            if isinstance(variable.constraint, Projection):
                left[path] = "its layer keeps it at a norm"
                continue
            new = constraint
            if hasattr(constraint, "with_fan_in") and constraint.fan_in is None:
                known = [variable] if is_kernel(variable) else kernels
                fan_in = fan_in_of(layer, known[-1]) if known else None
                if fan_in is None:
                    left[path] = "the number of inputs of its units is not known"
                    continue
                new = constraint.with_fan_in(fan_in)
            before.append((variable, "constraint", variable.constraint))
            variable.constraint = done[path] = new
            argument = f"{_argument(layer, variable)}_constraint"
            if hasattr(layer, argument):
                before.append((layer, argument, getattr(layer, argument)))
                if not _set_and_saved(layer, argument, new, saved_by.get(id(layer))):
                    unsaved.append(path)
            else:
                unsaved.append(path)
    if not done:
        raise ValueError(
            f"`which` chooses none of the kernels and biases of {model.name!r} that can have "
            f"the constraint; left alone: {left}. Received: which={which!r}"
        )
    model.train_function = None  # a step that is traced already knows no constraint
    return Constrained(done, left, unsaved, before, model)


def constrained(
    builder: typing.Callable[..., keras.Model],
    constraint: keras.constraints.Constraint,
    which: str = "all",
) -> typing.Callable[..., keras.Model]:
    """Returns a function that builds what `builder` builds, with a constraint on its weights.

    Example:

    ```python
    kp.experiment.run(
        stream, kp.constraints.constrained(kp.models.mlp, kp.constraints.WeightClipping()), ...
    )
    ```

    Args:
        builder: function that returns a built `keras.Model`.
        constraint: see `constrain`.
        which: see `constrain`. Default `"all"`.
    """

    def build(*args: typing.Any, **kwargs: typing.Any) -> keras.Model:
        model = builder(*args, **kwargs)
        constrain(model, constraint, which)
        return model

    return build


def fan_in_of(layer: keras.layers.Layer, kernel: keras.Variable) -> int | None:
    """Returns how many inputs a unit has by its kernel, or None where it is not known."""
    shape = tuple(kernel.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        equation = Equation(layer)
        pairs = zip(equation.kernel, shape, strict=True)
        return math.prod(n for letter, n in pairs if letter not in equation.outputs)
    if isinstance(layer, _DEPTHWISE) or kernel.name == "depthwise_kernel":
        return math.prod(shape[:-2])
    if isinstance(layer, _TRANSPOSED):
        return math.prod(shape[:-2]) * shape[-1]
    if isinstance(layer, _PLAIN) or kernel.name == "pointwise_kernel" or len(shape) == 2:
        return math.prod(shape[:-1])
    return None


def _saved(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers whose configurations are saved; what is in them comes from these alone."""
    if not isinstance(model, (keras.Sequential, keras.src.models.functional.Functional)):
        return [model]
    parts = [_saved(part) if isinstance(part, keras.Model) else [part] for part in model.layers]
    return [layer for layers in parts for layer in layers]


def _set_and_saved(layer, argument: str, new: typing.Any, top: typing.Any) -> bool:
    """Sets an argument of a layer; whether the configuration of the layer that is saved has it."""
    configurations = []
    for value in (None, new):
        setattr(layer, argument, value)
        try:
            configurations.append(repr(top.get_config()))
        except Exception:  # what a user's layer raises is not known
            configurations.append("")
    return configurations[0] != configurations[1]


def _is_bias(variable: keras.Variable) -> bool:
    return variable.name == "bias"


def _argument(layer: keras.layers.Layer, variable: keras.Variable) -> str:
    if isinstance(layer, _DEPTHWISE) and variable.name == "kernel":
        return "depthwise"
    return variable.name.removesuffix("_kernel")


def _text(constraint: typing.Any) -> str:
    name = getattr(constraint, "__name__", type(constraint).__name__)
    config = constraint.get_config() if hasattr(constraint, "get_config") else {}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in config.items())})"
