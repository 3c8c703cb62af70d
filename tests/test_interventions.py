"""What every intervention promises, on networks of every kind."""

import functools

import pytest

import keras_plasticity as kp
from keras_plasticity import testing
from tests.members import INTERVENTIONS
from tests.sample_models import SAMPLES

CHECKS = [name.removeprefix("check_") for name in testing.__all__ if name.startswith("check_")]
CHECKS.remove("intervention")


@functools.cache
def injectable(model):
    return lambda: kp.surgery.injectable(model(), last=1)


def run(name, check, model):
    make, off, kind = INTERVENTIONS[name]
    if name == "PlasticityInjection":
        model = injectable(model)
    function = getattr(testing, f"check_{check}")
    if check in ("config", "gin"):
        function(make)
    else:
        function(off if check == "off" else make, model)


def promised(name, check):
    return check != "reset_units" or INTERVENTIONS[name][2] == "units"


def cases(name_of_slow):
    for name in INTERVENTIONS:
        for check in CHECKS:
            if promised(name, check):
                marks = [pytest.mark.slow] if name_of_slow(name, check) else []
                yield pytest.param(name, check, id=f"{name}-{check}", marks=marks)


def costly(name, check):
    """What takes seconds and rests on code that others share with it."""
    jitted = ("ContinualBackprop", "ReDo", "SelfNormalizedResets", "ShrinkAndPerturb")
    shared = ("fused", "mixed_precision", "model_afterwards", "seed")
    return (check == "jit" and name not in jitted) or (
        check in shared and INTERVENTIONS[name][2] != "units"
    )


@pytest.mark.parametrize("name,check", cases(costly))
def test_contract(name, check):
    run(name, check, testing.mlp)


def not_few(name, check):
    return name not in ("ContinualBackprop", "ReDo") or check not in (
        "reset_units",
        "unknown_layer",
    )


UNFIT = {
    ("PlasticityInjection", "two_heads"): "its head is not cut off at one tensor, and it says so",
}
SILENT = {  # SelfNormalizedResets acts on silent units, and these networks have none
    (name, check) for name in ("residual", "transformer") for check in ("acts", "mixed_precision")
}


@pytest.mark.parametrize("model", SAMPLES, ids=SAMPLES)
@pytest.mark.parametrize("name,check", cases(not_few))
def test_contract_on_networks_of_every_kind(name, check, model):
    if (name, model) in UNFIT:
        pytest.skip(UNFIT[name, model])
    if name == "SelfNormalizedResets" and (model, check) in SILENT:
        pytest.skip("no unit of this network is silent for long enough")
    if check not in ("config", "gin"):
        run(name, check, SAMPLES[model])


def test_whole_contract_at_once():
    make, off, kind = INTERVENTIONS["OptimizerReset"]
    testing.check_intervention(make, off, kind=kind, jit=False)
    with pytest.raises(AssertionError, match="nothing was done"):
        testing.check_acts(off)
    with pytest.raises(AssertionError, match="switched off"):
        testing.check_off(make)
    with pytest.raises(ValueError, match="`kind`.*Received"):
        testing.check_intervention(make, kind="layers")
