"""Looks at a network and says which mechanisms of plasticity loss are at work."""

from __future__ import annotations

import os
import typing

import keras
import numpy as np

from keras_plasticity.diagnosis import causes, examples
from keras_plasticity.diagnosis.findings import Diagnosis, Evidence, Finding, judged
from keras_plasticity.diagnosis.growth import Growth, growth, rms
from keras_plasticity.diagnosis.indicators import PIECES, Measured, measure
from keras_plasticity.probes.inputs import ProbeInputs, Snapshot
from keras_plasticity.surgery.slots import innermost
from keras_plasticity.units import UnitGroup


def diagnose(
    model: keras.Model | None = None,
    data: typing.Any = None,
    reference: keras.Model | Snapshot | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    run_dir: str | os.PathLike | None = None,
    trainability: bool | dict = False,
    groups: typing.Sequence[UnitGroup] | None = None,
) -> Diagnosis:
    """Says which mechanisms of plasticity loss are at work in a network, the cause first.

    Every mechanism of `diagnosis.MECHANISMS` is healthy, at a warning, failing or not
    applicable, with its numbers, thresholds and what to do. One that another explains
    says what it follows from. Model, optimizer and random states stay as they are.

    Where dead or linearised units or a low rank stand beside large targets, three fresh copies
    of the network are trained on these targets, 300 updates each, to see whether they come to
    the same; of a large network that takes minutes.

    Example:

    ```python
    diagnosis = kp.diagnose(model, (x, y))
    print(diagnosis)
    diagnosis.to_html("diagnosis.html")
    ```

    Args:
        model: built `keras.Model`. Of subclassed models, whose units are not known, pass
            `groups` too. May be left out with `run_dir`, whose rows are then all there is.
        data: `(x, y)` arrays as the model takes them, an array of inputs, or a
            `tf.data.Dataset`, of which the first 1,000 examples or a few more are read, which
            moves the order of a shuffled one on. At most 2,000 examples are used, and 1,000
            should be there: a unit that fires on 1 % of inputs is silent on 64 examples with
            probability .53.
        reference: the model as it was before (a model or a `probes.Snapshot`), or one freshly
            built in the same way. Default None: growth is judged against what the layers'
            own initializers give, and the preactivation shift is not.
        optimizer: to judge the size of steps. Default: the one the model is compiled with.
        run_dir: directory of a run with `metrics.jsonl`, whose story over time is told as well.
        trainability: bool, whether a copy is trained on random targets beside a fresh
            network, which takes seconds; or a dict of arguments for `probes.trainability_gap`.
            Default False.
        groups: `UnitGroup`s made by hand. Default: `kp.unit_groups(model)`.

    Returns:
        `Diagnosis`: `.findings`, `.healthy`, `.to_json()`, `.to_html(path)`.

    Raises:
        ValueError: there are no (finite) examples, they do not fit the model, the model is not
            built, holds or returns values that are not finite, or the reference has other weights.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762.

    Deviations:
        The paper names mechanisms and gives no thresholds; those here come from a study on
        planted mechanisms, see `diagnosis.mechanisms` and `tests/benchmarks/diagnosis.py`.
    """
    if model is None or data is None:
        if run_dir is None or model is not None or data is not None:
            raise ValueError(
                "`diagnose` needs `model` and `data`, or `run_dir`. Received: "
                f"model={model!r}, data of {type(data).__name__}, run_dir={run_dir!r}"
            )
        from keras_plasticity.diagnosis.story import diagnose_run

        return diagnose_run(run_dir)
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a `keras.Model`. Received: model={model!r}")
    if not model.built:
        raise ValueError(f"`model` must be built. Received: {model.name!r}, which is not")
    _check_weights(model)
    x, y, notes = examples.arrays(data, model)
    with _random_states_kept():
        inputs = ProbeInputs(model, x, y, groups=groups)
        grown = growth(model, reference)
        found = examine(inputs, grown, _preactivations(reference, x), optimizer, trainability)
    if inputs.examples < examples.LEAST:
        notes.append(
            f"{inputs.examples} examples: shares of dead and linear units need 1,000 to be sure"
        )
    if grown.unknown:
        notes.append(f"no start is known of {', '.join(grown.unknown)}; pass a reference")
    story: dict = {}
    if run_dir is not None:
        from keras_plasticity.diagnosis.story import tell

        story = tell(run_dir)
    return Diagnosis(model.name, found, inputs.examples, tuple(notes), story)


def examine(
    inputs: ProbeInputs,
    grown: Growth,
    preactivations: dict | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    trainability: bool | dict = False,
) -> tuple[Finding, ...]:
    """Returns a finding for each mechanism, the likely cause first; see `diagnose`.

    Args:
        inputs: `ProbeInputs`. Where it is used again after `refresh`, nothing is traced anew.
        grown: `Growth` of the weights.
        preactivations: pieces "preactivation" of the reference by layer, or None.
        optimizer: see `diagnose`.
        trainability: see `diagnose`.

    Raises:
        ValueError: the model returns values that are not finite.
    """
    _check_outputs(inputs)
    measured = measure(inputs, grown, preactivations)
    _add_steps(measured, inputs.model, optimizer, grown)
    _add_trainability(measured, inputs, trainability)
    return causes.findings(measured, inputs)


def _preactivations(reference: keras.Model | Snapshot | None, x: typing.Any) -> dict | None:
    """The reference's preactivations by layer, None where there are none."""
    if reference is None:
        return None
    if isinstance(reference, Snapshot):
        return reference.preactivation
    from keras_plasticity.probes.probe import NotApplicableError

    try:
        return ProbeInputs(reference, x).units("preactivation")
    except NotApplicableError:
        return None


def _add_steps(
    measured: Measured, model: keras.Model, optimizer: typing.Any, grown: Growth
) -> None:
    """How far a step of the optimizer turns the weights, as a remark on their growth."""
    optimizer = optimizer or getattr(model, "optimizer", None)
    evidence = measured.evidence.get("norm_growth")
    if optimizer is None or evidence is None:
        return
    rate = float(np.asarray(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    values = {v.path: v.value for v in model.trainable_variables}
    now = {path: rms(values[path]) for path in grown.hidden or grown.output}
    sizes = [rate / max(size, 1e-30) for size in now.values()]
    then = [rate / max(grown.start[path], 1e-30) for path in now]
    inner = innermost(optimizer)
    normalised = not isinstance(inner, keras.optimizers.SGD)
    text = (
        "effective learning rate, rate / rms(w), median of layers; "
        f"{np.median(then):.2g} at the start" + ("" if normalised else " (times the gradient)")
    )
    evidence.append(
        Evidence("effective_rate", float(np.median(sizes)), text=text, unit="share per step")
    )


def _add_trainability(measured: Measured, inputs: ProbeInputs, wanted: bool | dict) -> None:
    name = "trainability"
    if not wanted:
        measured.missing[name] = "not asked for: diagnose(..., trainability=True), some seconds"
        return
    from keras_plasticity.probes.behaviour import trainability_gap
    from keras_plasticity.probes.probe import NotApplicableError

    try:
        gaps = trainability_gap(inputs, **(wanted if isinstance(wanted, dict) else {}))
    except (NotApplicableError, ValueError) as error:
        measured.missing[name] = str(error)
        return
    measured.evidence[name] = [judged("trainability_gap", float(next(iter(gaps.values()))))]


def _check_weights(model: keras.Model) -> None:
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            values = np.asarray(variable.value, np.float64)
            if not np.isfinite(values).all():
                raise ValueError(
                    "`model` must have finite weights. Received: "
                    f"{(~np.isfinite(values)).sum()} of {values.size} values of "
                    f"{variable.path!r} are not"
                )


def _check_outputs(inputs: ProbeInputs) -> None:
    inputs.expect(PIECES)  # one pass over the examples
    for values in keras.tree.flatten(inputs.outputs):
        if not np.isfinite(values).all():
            raise ValueError(
                "`model` must return finite values for finite inputs. Received: "
                f"{(~np.isfinite(values)).sum()} of {values.size} outputs are not"
            )


class _random_states_kept:  # noqa: N801, used like a function
    """Puts Python's and NumPy's generators back to what they were."""

    def __enter__(self) -> None:
        import random

        self._states = random.getstate(), np.random.get_state()

    def __exit__(self, *exception: object) -> None:
        import random

        random.setstate(self._states[0])
        np.random.set_state(self._states[1])
