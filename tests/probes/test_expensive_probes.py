"""Probes of gradients, curvature and training on networks of every kind."""

import functools
import gc
import resource

import keras
import numpy as np
import pytest

from keras_plasticity.probes import (
    behaviour,
    curvature,
    gradient_covariance,
    plasticity,
    tangent_kernel,
)
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import describe
from tests.sample_models import SAMPLES


def few(function, **parameters):
    return functools.partial(function, **parameters)


PROBES = [
    few(curvature.hessian_top_eigenvalue, steps=6),
    few(curvature.hessian_bottom_eigenvalue, steps=6),
    few(curvature.hessian_trace, vectors=2),
    tangent_kernel.tangent_kernel_condition,
    tangent_kernel.tangent_kernel_rank,
    tangent_kernel.tangent_kernel_effective_rank,
    tangent_kernel.tangent_kernel_top_share,
    tangent_kernel.tangent_kernel_offdiagonal,
    tangent_kernel.tangent_kernel_collinearity,
    tangent_kernel.tangent_kernel_rank_one_residual,
    few(tangent_kernel.tangent_kernel_rank, scalarisation="all"),
    tangent_kernel.predicted_decrease,
    gradient_covariance.gradient_cosine_mean,
    gradient_covariance.gradient_effective_rank,
    gradient_covariance.gradient_alignment,
    plasticity.sample_plasticity,
    plasticity.churn_of_step,
    few(behaviour.trainability_gap, steps=6, targets=2),
]


def tokens():
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(9, 4),
            keras.layers.LSTM(6),
            keras.layers.Dense(3),
        ]
    )


def dropping():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def one_layer():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])


MODELS = {**SAMPLES, "tokens": tokens, "dropping": dropping, "one_layer": one_layer}


def inputs_for(name, optimizer="adam"):
    model = MODELS[name]()
    logits = name != "dropping"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(optimizer, loss)
    draw = np.random.default_rng(0)
    shape = (16, *model.input_shape[1:])
    x = draw.integers(9, size=shape) if name == "tokens" else draw.normal(size=shape)
    y = draw.integers(3, size=16)
    return ProbeInputs(model, x if name == "tokens" else x.astype("float32"), y)


def measure(inputs):
    return {describe(probe)["name"]: probe(inputs) for probe in PROBES}


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: describe(probe)["name"])
def test_probes_say_what_they_are(probe):
    about = describe(probe)
    assert about["expensive"] and about["unit"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_values_are_finite_and_nothing_changes(name):
    inputs = inputs_for(name)
    before = [np.array(v) for v in [*inputs.model.variables, *inputs.model.optimizer.variables]]
    found = measure(inputs)
    for probe, values in found.items():
        assert np.isfinite(list(values.values())).all(), (probe, values)
    after = [*inputs.model.variables, *inputs.model.optimizer.variables]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_close(policy):
    keras.config.set_dtype_policy(policy)
    try:
        half = inputs_for("mlp", keras.optimizers.SGD(0.1))
    finally:
        keras.config.set_dtype_policy("float32")
    full = inputs_for("mlp", keras.optimizers.SGD(0.1))
    full.model.set_weights(half.model.get_weights())
    a, b = measure(half), measure(full)
    for name in ("hessian_top_eigenvalue(6)", "tangent_kernel_effective_rank",
                 "predicted_decrease", "gradient_cosine_mean", "churn_of_step"):  # fmt: skip
        assert a[name]["model"] == pytest.approx(b[name]["model"], rel=0.15, abs=0.02), name
    for values in a.values():
        assert np.isfinite(list(values.values())).all()


@pytest.mark.slow
def test_memory_stays_flat():
    inputs = inputs_for("mlp")

    def run(times):
        for _ in range(times):
            inputs.refresh()
            measure(inputs)
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = run(15)
    assert run(30) - before < 30_000  # kB
