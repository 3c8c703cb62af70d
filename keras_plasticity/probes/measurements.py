"""A set of probes on one model over time: what is compared with what, and at what cost."""

from __future__ import annotations

import collections.abc
import logging
import math
import time
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.probes.inputs import ProbeInputs, Snapshot
from keras_plasticity.probes.probe import NotApplicableError, describe
from keras_plasticity.units import UnitGroup

_LOG = logging.getLogger("keras_plasticity")
Probe = collections.abc.Callable[..., dict]


class Measurements:
    """Runs probes on two sets of examples, one frozen for the run and one of the task.

    The state of the network when this is made is what `initial` means to probes, and that at
    the record before is `previous`.

    Args:
        model: built `keras.Model`.
        probes: probes, see `kp.probes.probe`.
        reference: (x, y), the frozen examples; y may be None.
        groups: `UnitGroup`s made by hand, for a model without a graph.
        asked: bool, whether somebody chose these probes, so that it is a warning, and no mere
            message, why one does not apply. Default True.

    Attributes:
        cheap: dict from the names of probes that are not expensive to these.
        expensive: dict of those that are.
        descriptions: dict from names to what `probes.describe` says.
        seconds: dict from `"cheap"` and the name of each expensive probe to what it took when
            it was measured last.

    Raises:
        ValueError: two probes have the same name, or one is no probe.
    """

    def __init__(
        self,
        model: keras.Model,
        probes: collections.abc.Iterable[Probe],
        reference: tuple,
        groups: collections.abc.Sequence[UnitGroup] | None = None,
        asked: bool = True,
    ) -> None:
        self.cheap, self.expensive = split(probes)
        self.descriptions = {n: describe(p) for n, p in (self.cheap | self.expensive).items()}
        self._reference = ProbeInputs(model, *reference, groups=groups)
        self._task: ProbeInputs | None = None
        self._told: set[str] = set()
        self._asked = asked
        self.seconds: dict[str, float] = {}
        compared = [n for n in self.expensive if self.descriptions[n]["on"] == "reference"]
        first = self.cheap | {name: self.expensive[name] for name in compared}
        self._expect(first)
        for name, probe in first.items():  # traces, and computes what later is compared with
            self._run(name, probe, self._reference)
        initial = self._reference.snapshot()
        self._initial = self._reference.initial = initial
        self._outputs = isinstance(initial.outputs, np.ndarray) and any(
            d["on"] in ("reference", "both") and "outputs" in d["needs"]
            for d in self.descriptions.values()
        )
        self._previous: Snapshot | None = None
        self._saved: list[keras.Variable] = []

    @property
    def layers(self) -> dict[str, typing.Any]:
        """What readers of the records must know of the layers.

        `"units"`, a dict from the layers with hidden units to their number, and `"outputs"`, a
        list of the kernels that compute the outputs, by the names that probes give kernels.
        """
        from keras_plasticity.diagnosis.growth import output_kernels

        inputs = self._reference
        last = output_kernels(inputs.model)
        return {
            "units": {group.name: group.size for group in inputs.groups},
            "outputs": [name for name, path in inputs.kernel_paths.items() if path in last],
        }

    @property
    def variables(self) -> list[keras.Variable]:
        """What later records are compared with; what is assigned to it counts from then on.

        The number of snapshots, its weights, and its outputs where a probe compares them.
        """
        outputs = [self._initial.outputs] if self._outputs else []
        if not self._saved:
            values = [np.int64(0), *self._initial.weights.values(), *outputs]
            self._saved = [
                keras.Variable(tf.identity(v), dtype=v.dtype.name, trainable=False) for v in values
            ]
        if self._previous is not None:
            outputs = [self._previous.outputs] if self._outputs else []
            now = [np.int64(1), *self._previous.weights.values(), *outputs]
            for variable, value in zip(self._saved, now, strict=True):
                variable.assign(value)
            self._previous = None
        return self._saved

    def _expect(self, names: collections.abc.Iterable[str]) -> None:
        """Has one pass over examples compute what these probes need."""
        for name in names:
            about = self.descriptions[name]
            task = self._task or self._reference
            if about["on"] in ("task", "both"):
                task.expect(about["needs"])
            if about["on"] in ("reference", "both"):
                self._reference.expect(about["needs"])

    def set_task(self, x: typing.Any, y: typing.Any = None) -> None:
        """Takes the examples of the present task."""
        if self._task is None:
            self._task = ProbeInputs(self._reference.model, x, y, like=self._reference)
            self._task.initial = self._reference.initial
        else:
            self._task.refresh(x, y)

    def record(
        self,
        names: collections.abc.Iterable[str] = (),
        cheap: bool = True,
        same_weights: bool = False,
    ) -> dict:
        """Measures the network as it is now.

        Args:
            names: of the expensive probes to measure.
            cheap: bool, whether to measure all others. Default True.
            same_weights: bool, whether the weights are those of the record before, so that
                only probes that look at the examples of the task are measured. Default False.

        Returns:
            Dict from a probe's name, "reference/" before it where the frozen examples are not
            those of the task, to a dict from layers to floats.
        """
        everyone = [self._reference] + ([self._task] if self._task is not None else [])
        previous = self._snapshot_before()
        for inputs in everyone:
            inputs.refresh()
            inputs.forget()
            inputs.previous = previous
        self._expect([*(self.cheap if cheap else ()), *names])
        values: dict[str, dict] = {}
        if cheap:
            begun = time.perf_counter()
            for name, probe in self.cheap.items():
                if not same_weights or self.descriptions[name]["on"] in ("task", "both"):
                    values |= self._measure(name, probe, same_weights)
            self.seconds["cheap"] = time.perf_counter() - begun
        for name in names:
            begun = time.perf_counter()
            values |= self._measure(name, self.expensive[name])
            self.seconds[name] = time.perf_counter() - begun
        if not same_weights:
            self._keep(self._reference)
        return values

    def histograms(self, layers: int = 100) -> dict[str, list]:
        """Returns the histogram of preactivations of each layer, rows of (left, right, count)."""
        from keras_plasticity.probes.preactivations import preactivation_histogram

        inputs = self._task or self._reference
        try:
            found = preactivation_histogram(inputs)
        except NotApplicableError:
            return {}
        chosen = [name for name in list(found)[:layers] if np.all(np.isfinite(found[name]))]
        return {name: np.round(found[name], 6).tolist() for name in chosen}

    def _measure(self, name: str, probe: Probe, task_alone: bool = False) -> dict[str, dict]:
        on = self.descriptions[name]["on"]
        if self._task is None:
            return self._named(name, name, probe, self._reference)
        values: dict[str, dict] = {}
        if on != "reference":
            values |= self._named(name, name, probe, self._task)
        if on in ("reference", "both") and not task_alone:
            label = name if on == "reference" else f"reference/{name}"
            values |= self._named(label, name, probe, self._reference)
        return values

    def _named(self, label: str, name: str, probe: Probe, inputs: ProbeInputs) -> dict[str, dict]:
        found = self._run(name, probe, inputs)
        return {} if not found else {label: {k: float(v) for k, v in found.items()}}

    def _run(self, name: str, probe: Probe, inputs: ProbeInputs) -> dict | None:
        try:
            return probe(inputs)
        except NotApplicableError as error:
            if inputs.previous is not None and name not in self._told:
                self._told.add(name)
                level = logging.WARNING if self._asked else logging.INFO
                _LOG.log(level, "The probe %s is skipped: %s", name, error)
            return None

    def _snapshot_before(self) -> Snapshot | None:
        if self._previous is None and self._saved and int(self._saved[0].value):
            values = [tf.convert_to_tensor(v.value) for v in self._saved[1:]]
            outputs = values[-1].numpy() if self._outputs else None
            weights = dict(zip(self._initial.weights, values, strict=False))
            self._previous = Snapshot(weights, outputs=outputs)
        return self._previous

    def _keep(self, inputs: ProbeInputs) -> None:
        """Notes the present state, which the next record is compared with."""
        # Reading shares memory until training writes: no copy is made here.
        weights = {path: v.value.read_value() for path, v in inputs.variables.items()}
        self._previous = Snapshot(weights, outputs=inputs.outputs if self._outputs else None)


def split(probes: collections.abc.Iterable[Probe]) -> tuple[dict[str, Probe], dict[str, Probe]]:
    """Returns cheap and expensive probes by name.

    Raises:
        ValueError: two have the same name, or one is no probe.
    """
    if isinstance(probes, str):
        raise ValueError(f"`probes` must be a sequence of probes. Received: {probes!r}")
    cheap: dict[str, Probe] = {}
    expensive: dict[str, Probe] = {}
    for probe in probes:
        about = describe(probe)
        name = about["name"]
        if name in cheap or name in expensive:
            raise ValueError(f"`probes` must have different names. Received: {name!r} twice")
        (expensive if about["expensive"] else cheap)[name] = probe
    return cheap, expensive


def finite(values: dict) -> dict:
    """Returns values with None in place of what JSON cannot hold."""
    return {
        name: {k: v if math.isfinite(v) else None for k, v in layers.items()}
        for name, layers in values.items()
    }
