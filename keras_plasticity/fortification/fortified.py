"""`fortify`, and what it returns."""

from __future__ import annotations

import dataclasses
import io
import math
import typing
import warnings

import keras
import rich.box
import rich.console
import rich.table

from keras_plasticity.fortification.rebuilding import Rebuilding
from keras_plasticity.fortification.transparency import make_transparent
from keras_plasticity.models.normalization import NORMS
from keras_plasticity.optimizers import DecayPolicy, DecoupledDecay, Regularized
from keras_plasticity.units.nonlinearities import Nonlinearity, nonlinearities

FORMS = ("l2", "decoupled")
_WIDTH = 118
_STEPS, _STRIDE = 10_000, 100  # of which the shrinkage is told, one looked at in so many
_FEWEST = 3  # units that a normalisation of each example needs


@dataclasses.dataclass(frozen=True)
class Change:
    """What became of one place of the network.

    Attributes:
        place: str, name of a layer, "outer/inner" within nested models, or "optimizer".
        layer: str, name of the layer that was put there; "" where it was left alone.
        what: str, what was done, or why it was left alone.
    """

    place: str
    layer: str
    what: str


@dataclasses.dataclass(frozen=True)
class Fortified:
    """A network with normalisations, an optimizer with decay, and a list of what was done.

    Attributes:
        model: `keras.Model`, compiled as the old one was if that was compiled.
        optimizer: `keras.optimizers.Optimizer` to train it with.
        changes: tuple of `Change`, in the order of computation.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        table = rich.table.Table(
            box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
        )
        for title in ("place", "new layer", "what"):
            table.add_column(title, overflow="fold")
        for change in self.changes:
            table.add_row(change.place, change.layer, change.what)
        text = io.StringIO()
        rich.console.Console(file=text, width=_WIDTH, color_system=None).print(table, markup=False)
        new = len({change.layer for change in self.changes} - {""})
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        return "\n".join([*lines, "", f"{new} normalisations added"])


def fortify(
    model: keras.Model,
    norm: str | keras.layers.Layer | None = "layer",
    affine: bool = False,
    decay: float | None = None,
    form: str | None = None,
    *,
    policy: DecayPolicy | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    transparent: typing.Any = None,
) -> Fortified:
    """Returns a copy of a network that keeps its plasticity better: with normalisation and decay.

    A normalisation comes before each nonlinearity that has none: behind Dense and convolutional
    layers, inside residual blocks and nested models, and before an activation that is an
    argument of a layer, which is taken out of it. All weights are kept, `model` is left as it
    is. Left alone, with the reason in `changes`: outputs, softmaxes, gates, layers of one or two
    units, what lies within recurrent layers, attention and layers whose `call` is their own.

    A normalised network computes something else than before. With `affine=True` and a batch as
    `transparent`, scales and offsets are set so that it computes nearly the same on the batch
    (least squares per unit; exact with `norm="batch"`). What normalises each example by itself
    cannot give back how examples differ in mean and size, so outputs stay close and not equal;
    train on before you use it.

    **Decay has no default.** Its two forms mean different things by the same number:

    ```python
    "l2":        loss + decay * sum(w**2)              # reaches w through the optimizer
    "decoupled": w = w - learning_rate * decay * w     # as in AdamW
    ```

    What decoupled decay alone leaves of a weight after 10,000 steps, `(1 - rate * decay)**10_000`:

    | learning rate | decay 1e-5 | 1e-3 | 1e-1 | 1 |
    | --- | --- | --- | --- | --- |
    | 1e-4 | 1.0000 | 0.9990 | 0.9048 | 0.3679 |
    | 1e-3 | 0.9999 | 0.9900 | 0.3679 | 0.00005 |
    | 1e-2 | 0.9990 | 0.9048 | 0.00005 | 0 |

    so 1e-5 there is a placebo, while "l2" with 1e-5 is what the paper used.

    Example:

    ```python
    model = keras.applications.ResNet50(weights=None, classes=10, input_shape=(64, 64, 3))
    strong = kp.fortify(model, decay=1e-5, form="l2")
    print(strong)  # what was done, place by place
    strong.model.compile(strong.optimizer, loss)
    ```

    Args:
        model: Functional or built Sequential `keras.Model`. If it is compiled, the new one is
            compiled with the same loss and metrics.
        norm: `"layer"`, `"rms"`, `"batch"` or `"group"`, see `kp.models.mlp`; a layer, which is
            copied for every place; or None: decay alone. Default `"layer"`.
        affine: bool, whether normalisations learn a scale and an offset. Default False: on
            streams of new labels undecayed ones lose plasticity again.
        decay: float above 0, strength. Default None: no decay.
        form: `"l2"` or `"decoupled"`; to be given with `decay`, and only then.
        policy: `kp.optimizers.DecayPolicy`, which weights decay and toward what. Default:
            kernels, toward zero.
        optimizer: `keras.optimizers.Optimizer`, not built. Default: one of the class and
            configuration that `model` is compiled with, else Adam.
        transparent: inputs of the model, see above. Default None.

    Returns:
        `Fortified`, with `model`, `optimizer` and `changes`.

    Raises:
        ValueError: an argument is out of its range; the model has no graph.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762: layer normalisation before every nonlinearity, and L2
        of 1e-5 on all parameters. Here kernels alone decay: nothing is said there of scales and
        offsets, and biases have no norm to keep small.
    """
    _check(norm, affine, decay, form, policy, transparent)
    optimizer = _checked(optimizer)
    found = [_large_enough(place, norm) for place in nonlinearities(model)]
    places = [place for place in found if norm is not None and place.kept is None]
    rebuilt = Rebuilding(model, places, norm or "layer", affine)
    if transparent is not None:
        added = {id(layer): layer for layer in rebuilt.norms.values()}
        make_transparent(rebuilt.model, list(added.values()), transparent)
    changes = []
    for place in found:
        layer = rebuilt.norms.get((place.name, place.call))
        kept = place.kept or "not asked for"
        if layer is None:
            changes.append(Change(place.name, "", f"left alone: {kept}"))
        else:
            where = "activation taken out, and before it" if place.argument else "before it"
            changes.append(Change(place.name, layer.name, f"{where} {type(layer).__name__}"))
    optimizer = optimizer or _like(model, rebuilt)
    new, changed = _decayed(optimizer, decay, form, policy or DecayPolicy())
    changes.append(Change("optimizer", "", changed))
    if getattr(model, "compiled", False):
        changes.append(Change("compilation", "", _compile(rebuilt.model, model, new)))
    return Fortified(rebuilt.model, new, tuple(changes))


def _check(norm, affine, decay, form, policy, transparent) -> None:
    own = isinstance(norm, keras.layers.Layer)
    if norm is not None and not own and norm not in NORMS:
        raise ValueError(
            f"`norm` must be one of {(None, *NORMS)} or a layer. Received: norm={norm!r}"
        )
    if own and affine:
        raise ValueError(f"`affine` is an argument of the layer. Received: norm={norm!r}")
    if (decay is None) != (form is None):
        raise ValueError(
            f"`decay` and `form`, one of {FORMS}, belong together: the same number means another "
            f"strength in each. Received: decay={decay!r}, form={form!r}"
        )
    if form is not None and form not in FORMS:
        raise ValueError(f"`form` must be one of {FORMS}. Received: form={form!r}")
    if decay is not None and not (isinstance(decay, (int, float)) and 0 < decay < math.inf):
        raise ValueError(f"`decay` must be a number above 0. Received: decay={decay!r}")
    if policy is not None and not isinstance(policy, DecayPolicy):
        raise ValueError(f"`policy` must be a `DecayPolicy`. Received: policy={policy!r}")
    if policy is not None and decay is None:
        raise ValueError(f"`policy` is one of decay. Received: decay=None, policy={policy!r}")
    if transparent is not None and (norm is None or own or not (affine or norm == "batch")):
        raise ValueError(
            "`transparent` needs scales and offsets to set, of a normalisation with a name. "
            f"Received: norm={norm!r}, affine={affine!r}"
        )


def _checked(optimizer: typing.Any) -> typing.Any:
    """An optimizer that is given, or None."""
    if optimizer is None:
        return None
    optimizer = keras.optimizers.get(optimizer)
    if optimizer.built:
        raise ValueError(
            "`optimizer` must be new, as it is to train another network. "
            f"Received: {optimizer!r}, which is built"
        )
    return _without_scale(optimizer)


def _without_scale(optimizer: typing.Any) -> typing.Any:
    """What a `LossScaleOptimizer` is around; `compile` puts it there again."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if scaled else optimizer


def _large_enough(place: Nonlinearity, norm: typing.Any) -> Nonlinearity:
    """Marks a place to be left alone where a normalisation of each example leaves nothing."""
    sizes = place.shape[1:] if len(place.shape) > 3 else place.shape[-1:]
    few = None not in sizes and math.prod(typing.cast(tuple[int, ...], sizes)) < _FEWEST
    if place.kept is None and few and norm in ("layer", "rms", "group"):
        kept = f"fewer than {_FEWEST} units, of which a normalisation leaves only signs"
        return dataclasses.replace(place, kept=kept)
    return place


def _like(model: keras.Model, rebuilt: Rebuilding) -> keras.optimizers.Optimizer:
    """A new optimizer like the one that a model is compiled with, else Adam."""
    old = _without_scale(getattr(model, "optimizer", None))
    if old is None:
        return keras.optimizers.Adam()
    new = type(old).from_config(old.get_config())
    pattern = getattr(old, "_exclude_from_weight_decay_pattern", None)
    names = [] if pattern is None else [pattern.pattern]
    excluded = getattr(old, "_exclude_from_weight_decay", None) or ()
    chosen = [v for v in model.trainable_variables if old._var_key(v) in excluded]
    variables = [rebuilt.variables[id(v)] for v in chosen if id(v) in rebuilt.variables]
    if names or variables:
        new.exclude_from_weight_decay(var_list=variables, var_names=names)
    return new


def _decayed(optimizer, decay, form, policy) -> tuple[typing.Any, str]:
    """The optimizer with decay, and what is to be said of it."""
    name = type(optimizer).__name__
    if decay is None:
        return optimizer, f"{name} without decay"
    if form == "l2":
        new = Regularized(optimizer, [keras.regularizers.L2(decay)], policy)
        return new, f"{name} with an L2 penalty of {decay:g} * sum(w**2), {policy}"
    left = math.exp(sum(_STRIDE * math.log1p(-min(r * decay, 1 - 1e-9)) for r in _rates(optimizer)))
    text = f"{name} with decoupled decay {decay:g}, {policy}; it alone leaves {left:.4g} of a"
    return DecoupledDecay(optimizer, decay, policy), f"{text} weight after {_STEPS:,} steps"


def _rates(optimizer) -> list[float]:
    """Learning rates of the first steps, one in so many."""
    schedule = optimizer._learning_rate
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        return [float(schedule(step)) for step in range(0, _STEPS, _STRIDE)]
    return [float(optimizer.learning_rate)] * (_STEPS // _STRIDE)


def _compile(new: keras.Model, old: keras.Model, optimizer: typing.Any) -> str:
    """Compiles a model as another one is; returns what was done."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of functions that have no name
            config = keras.saving.deserialize_keras_object(old.get_compile_config())
        new.compile(**{**config, "optimizer": optimizer})
    except Exception as error:  # what losses and metrics of users raise is not known
        reason = str(error).strip().split("\n")[0]
        return f"left to you, the old one's cannot be copied: {reason}"
    return "as before, with the optimizer above"
