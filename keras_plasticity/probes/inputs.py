"""What probes read."""

from __future__ import annotations

import dataclasses
import functools
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.batch_loss import loss_gradients
from keras_plasticity.probes.forward import Forward
from keras_plasticity.probes.probe import NotApplicableError
from keras_plasticity.surgery.weights import is_kernel
from keras_plasticity.units import UnitGroup, unit_groups

MODEL = "model"  # the name of a value that belongs to no layer
_OUTPUT = "output of the model"  # why the units of the last layer are blocked
_GRADIENT_EXAMPLES = 256


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Weights, and the state of preactivations, at some time.

    Attributes:
        weights: dict from the path of each trainable weight to a float tensor.
        preactivation: what `ProbeInputs.units("preactivation")` was, or None.
        samples: what `ProbeInputs.units("samples")` was, or None.
        outputs: what `ProbeInputs.outputs` was, or None.
    """

    weights: dict[str, tf.Tensor]
    preactivation: dict | None = None
    samples: dict | None = None
    outputs: typing.Any = None


class ProbeInputs:
    """A model, a batch of examples, and what follows from them: all that probes read.

    Everything is computed when it is first asked for and then kept, in inference mode:
    dropout is off, normalisations use their running statistics. One forward pass serves all
    probes. Nothing of the model changes. After training went on, call `refresh`.

    Example:
    >>> inputs = kp.probes.ProbeInputs(model, x, y)
    >>> kp.probes.dead_fraction(inputs)
    {'dense_0': 0.0, 'dense_1': 0.0625}

    Args:
        model: built `keras.Model`. Units are known of Functional and Sequential models; for
            others pass `groups`, or probes of units do not apply.
        x: inputs, arrays with examples along the first axis, as the model takes them. Shares of
            dead and linearised units need 1,000 examples or more to mean something.
        y: targets, or None: what needs a loss does not apply then.
        groups: `UnitGroup`s made by hand. Default: `kp.unit_groups(model)`.
        like: `ProbeInputs` of the same model, whose compiled functions are used as well.
        initial: `Snapshot` of the beginning of training, or None.
        previous: `Snapshot` of the time before, or None.

    Attributes:
        groups: list of `UnitGroup`, those whose units are hidden.

    Raises:
        ValueError: no examples, or the targets are not as many.
    """

    def __init__(
        self,
        model: keras.Model,
        x: typing.Any,
        y: typing.Any = None,
        *,
        groups: typing.Sequence[UnitGroup] | None = None,
        like: ProbeInputs | None = None,
        initial: Snapshot | None = None,
        previous: Snapshot | None = None,
    ) -> None:
        self.model, self.initial, self.previous = model, initial, previous
        self._pieces: set[str] = set()  # asked for so far: later passes compute them at once
        self._functions: dict[str, typing.Callable] = {}
        self._kept: dict = {}
        self.groups: list[UnitGroup]
        self._forward: Forward
        self._why: str
        if like is not None:
            self.groups, self._why, self._forward = like.groups, like._why, like._forward
            self._functions, self._kept = like._functions, like._kept
        else:
            found, self._why = (groups, "no groups") if groups is not None else _found(model)
            self.groups = [group for group in found if group.blocked != _OUTPUT]
            outputs = [group for group in found if group.blocked == _OUTPUT]
            self._forward = Forward(model, self.groups, outputs)
        self.refresh(x, y)

    def refresh(self, x: typing.Any = None, y: typing.Any = None) -> None:
        """Forgets what was computed; the next probe sees the weights as they are then.

        Args:
            x: further inputs in place of those before. Default: the same.
            y: their targets.
        """
        if x is not None:
            self.x = keras.tree.map_structure(_tensor, x)
            self.y = None if y is None else keras.tree.map_structure(_tensor, y)
            counts = {len(a) for a in keras.tree.flatten((self.x, self.y)) if a is not None}
            if len(counts) != 1 or 0 in counts:
                raise ValueError(
                    "`x` and `y` must hold the same number of examples, at least one. "
                    f"Received: {sorted(counts)} examples"
                )
        self._results: dict = {}
        self._values: dict = {}

    def expect(self, pieces: typing.Iterable[str]) -> None:
        """Has the next pass compute these pieces too, see `units`; saves passes later."""
        self._pieces.update(pieces)

    def forget(self) -> None:
        """Has the next pass compute only what is asked for from now on."""
        self._pieces.clear()

    @property
    def rows(self) -> int:
        """Examples that a forward pass takes at once, so that activations fit into memory."""
        return self._forward.rows

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(keras.tree.flatten(self.x)[0])

    def units(self, piece: str) -> dict:
        """Returns a piece of `Forward` for each group of hidden units that has it.

        Args:
            piece: `"activity"`, `"preactivation"`, `"moments"`, `"derivative"`, `"fit"`,
                `"features"`, `"readout"`, `"samples"` or `"sketch"`, see `Forward`.

        Raises:
            NotApplicableError: no group of the model has it.
        """
        found = self._piece(piece)
        if not found:
            why = "no unit has a nonlinearity of its own" if self.groups else self._why
            raise NotApplicableError(f"{self.model.name!r} has no such units: {why}")
        return found

    @property
    def outputs(self) -> typing.Any:
        """What the model returns: float32 arrays of shape `(examples, ...)`."""
        return self._piece("outputs")

    @property
    def features(self) -> np.ndarray:
        """What the output layer reads, averaged over positions, float32, `(examples, size)`.

        Raises:
            NotApplicableError: the output layer is not known, or there are several; they are in
                `units("readout")`.
        """
        read = self.units("readout")
        if len(read) > 1:
            raise NotApplicableError(f"{self.model.name!r} has {len(read)} output layers")
        return next(iter(read.values()))

    @property
    def logits(self) -> np.ndarray:
        """Logits of a classifier, float32, shape `(examples, classes)`.

        Of a model that returns probabilities their logarithms, which differ by a constant.

        Raises:
            NotApplicableError: the model is no classifier with one output.
        """
        outputs = self.outputs
        if not self.classifies:
            raise NotApplicableError("logits exist for one output of a classifier")
        return np.log(np.maximum(outputs, 1e-30)) if self._probabilities() else outputs

    @property
    def classifies(self) -> bool:
        """Whether the model has one output of class scores.

        It is compiled with a crossentropy other than the binary one; or with a loss that is not
        known as one of regressions, and ends in a softmax or has targets that are whole numbers
        within its outputs.
        """
        outputs = self.outputs
        if not isinstance(outputs, np.ndarray) or outputs.ndim != 2 or outputs.shape[1] < 2:
            return False
        name = _loss_name(_loss(self.model))
        if "crossentropy" in name:
            return "binary" not in name
        if name in _REGRESSIONS or self._probabilities():
            return name not in _REGRESSIONS
        if self.y is None or not isinstance(self.y, tf.Tensor):
            return False
        return bool(self.y.dtype.is_integer and int(tf.reduce_max(self.y)) < outputs.shape[1])

    def _probabilities(self) -> bool:
        outputs = self.outputs
        return bool(np.all(outputs >= 0) and np.allclose(outputs.sum(-1), 1, atol=1e-3))

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """Trainable weights by path; of several with one path the others have a number."""
        found: dict[str, keras.Variable] = {}
        for variable in self.model.trainable_variables:
            path, number = variable.path, 1
            while path in found:
                number += 1
                path = f"{variable.path}#{number}"
            found[path] = variable
        return found

    @property
    def kernels(self) -> dict[str, keras.Variable]:
        """Trainable weights that multiply inputs, by the name of `kernel_paths`."""
        variables = self.variables
        return {name: variables[path] for name, path in self.kernel_paths.items()}

    @property
    def kernel_paths(self) -> dict[str, str]:
        """Paths of the kernels in `variables`, by these without "/kernel"."""
        paths = [path for path, v in self.variables.items() if is_kernel(v)]
        return {path.replace("/kernel", ""): path for path in paths}

    @property
    def gradients(self) -> dict[str, tf.Tensor]:
        """Gradients of the mean loss of the first 256 examples, float32, by path of the weight.

        Raises:
            NotApplicableError: there are no targets, or the model is not compiled with a loss.
        """
        self.need_loss()
        variables = self.model.trainable_variables
        count = min(self.examples, _GRADIENT_EXAMPLES)
        rows = min(count, max(8, self.rows // 4))

        def total() -> list:
            sums = None
            for start in range(0, count, rows):
                size = min(rows, count - start)
                x, y = self.batch(slice(start, start + size))
                part = self.compiled(
                    "gradients", lambda x, y: loss_gradients(self.model, variables, x, y)
                )(x, y)
                if size < count:
                    part = [g * (size / count) for g in part]
                sums = part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]
            return sums or []

        values = self.once("gradients", total)
        return dict(zip(self.variables, values, strict=True))

    def need_loss(self) -> None:
        """Raises `NotApplicableError` where no loss can be computed."""
        if self.y is None or _loss(self.model) is None:
            missing = "targets" if self.y is None else "a model that is compiled with a loss"
            raise NotApplicableError(f"the loss needs {missing}")

    def batch(self, rows: slice) -> tuple:
        """Returns inputs and targets of some examples."""
        take = functools.partial(keras.tree.map_structure, lambda array: array[rows])
        return take(self.x), None if self.y is None else take(self.y)

    def snapshot(self) -> Snapshot:
        """Returns the weights, and of the units what was computed so far, to compare with later."""
        weights = {path: tf.identity(v.value) for path, v in self.variables.items()}
        known = [self._results.get(name) for name in ("preactivation", "samples", "outputs")]
        return Snapshot(weights, *known)

    def once(self, key: typing.Hashable, function: typing.Callable[[], typing.Any]) -> typing.Any:
        """Returns `function()`, computed once until `refresh`."""
        if key not in self._values:
            self._values[key] = function()
        return self._values[key]

    def kept(
        self,
        key: typing.Hashable,
        function: typing.Callable[[], typing.Any],
        version: typing.Hashable = None,
    ) -> typing.Any:
        """Returns `function()`, computed once; unlike `once` also after `refresh`.

        It is computed anew, and what was kept is dropped, when `version` is another.
        """
        if key not in self._kept or self._kept[key][0] != version:
            self._kept[key] = version, function()
        return self._kept[key][1]

    def compiled(self, name: str, function: typing.Callable) -> typing.Callable:
        """Returns `function` as a `tf.function`, the same one at every call with this name."""
        if name not in self._functions:
            compiled = tf.function(function, autograph=False, reduce_retracing=True)
            compiled._omit_frequent_tracing_warning = True  # a model is traced once, each of many
            self._functions[name] = compiled
        return self._functions[name]

    def _piece(self, name: str) -> typing.Any:
        self._pieces.add(name)
        if name not in self._results:
            self._results |= self._forward(self.x, self._pieces - set(self._results))
        return self._results[name]


def _found(model: keras.Model) -> tuple[typing.Sequence[UnitGroup], str]:
    """The groups of units, and why none is hidden."""
    try:
        return unit_groups(model), "it has no hidden units"
    except ValueError as error:  # a model without a graph
        return [], str(error)


def _loss(model: keras.Model) -> typing.Any:
    return getattr(model, "loss", None) if getattr(model, "compiled", False) else None


def _loss_name(loss: typing.Any) -> str:
    """Name of a loss in lower case without underscores; "" where there is none."""
    leaves = [leaf for leaf in keras.tree.flatten(loss) if leaf is not None]
    if len(leaves) != 1:
        return ""
    leaf = leaves[0]
    if not isinstance(leaf, str):
        leaf = type(leaf).__name__ if isinstance(leaf, keras.losses.Loss) else leaf.__name__
    return leaf.replace("_", "").lower()


_REGRESSIONS = (
    "mse",
    "meansquarederror",
    "mae",
    "meanabsoluteerror",
    "huber",
    "logcosh",
    "poisson",
)


def _tensor(values: typing.Any) -> tf.Tensor:
    return tf.convert_to_tensor(values)
