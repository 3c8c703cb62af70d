"""The table of mechanisms, severities, and what is told from masks, on cases with known answers."""

import math

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity import unit_groups
from keras_plasticity.diagnosis import MECHANISMS, Diagnosis, Finding, causes, unit_masks
from keras_plasticity.diagnosis.growth import growth, rms
from keras_plasticity.diagnosis.mechanisms import BY_NAME, INDICATORS
from keras_plasticity.probes import ProbeInputs


@pytest.mark.parametrize("name", INDICATORS)
def test_severity_is_one_at_the_warning_and_two_at_failing(name):
    row = INDICATORS[name]
    assert row.severity(row.warning) == pytest.approx(1)
    assert row.severity(row.failing) == pytest.approx(2)
    assert row.severity(math.nan) == 0
    assert row.source and row.formula and row.meaning


def test_severity_is_linear_or_logarithmic():
    share, ratio = INDICATORS["dead_share"], INDICATORS["hidden_growth"]
    middle = (share.warning + share.failing) / 2
    assert share.severity(middle) == pytest.approx(1.5)
    assert ratio.severity(math.sqrt(ratio.warning * ratio.failing)) == pytest.approx(1.5)
    assert ratio.severity(1e-9) == 0
    assert ratio.severity(1e30) == 10


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda m: m.name)
def test_remedies_run(mechanism):
    """Every line of code runs as it stands, and what it makes is of use on a network."""
    assert set(mechanism.leads_to) <= set(BY_NAME)
    assert 3 <= len(mechanism.remedies) <= 5
    x = np.random.default_rng(0).normal(size=(8, 8)).astype("float32")
    for remedy in mechanism.remedies:
        scope = {"kp": kp, "keras": keras, "x": x, "y": 9 + 2 * x[:, :4]}
        scope |= {"shape": (8,), "outputs": 4, "low": -10.0, "high": 30.0, "bins": 4}
        scope["model"] = model = kp.models.mlp((8,), 4, widths=(8, 8))
        scope["optimizer"] = keras.optimizers.Adam()
        target, equals, code = remedy.code.partition(" = ")
        made = eval(code if equals else remedy.code, scope)
        for thing in made if isinstance(made, tuple) else (made,):
            use(thing, model, x)
        assert not equals or target in ("loss", "strong")


def use(thing, model, x):
    if isinstance(thing, keras.optimizers.Optimizer):
        thing.build(model.trainable_variables)
    elif isinstance(thing, keras.losses.Loss):
        sparse = type(thing).__name__.startswith("SmoothedSparse")
        targets = 9 + 2 * x[:, :4] if type(thing) is kp.losses.TargetNormalization else x[:, 0]
        value = thing(np.zeros(8, "int32") if sparse else targets, model(x))
        assert np.isfinite(float(value))
    elif isinstance(thing, keras.layers.Layer):  # models among them
        assert np.isfinite(np.asarray(thing(x))).all()
    elif isinstance(thing, kp.callbacks.PopArtUpdate):
        pass  # for networks that end in PopArt
    elif isinstance(thing, keras.callbacks.Callback):
        model.compile("adam", "mse", run_eagerly=True)
        model.fit(x, x[:, :4], verbose=0, callbacks=[thing])
    else:
        assert type(thing).__name__ in ("Fortified", "Constrained")


def test_remedies_name_the_newer_members():
    lines = {m.name: " ".join(r.code for r in m.remedies) for m in MECHANISMS}
    wanted = {
        "large_targets": "TwoHot HLGauss PopArt PopArtUpdate TargetNormalization",
        "preactivation_shift": "fortify CenterScale",
        "norm_growth": "L2Init DecoupledDecay WeightClipping FrobeniusProjection",
        "linearised_units": "fortify LayerReset",
        "dead_units": "fortify ReDo SelfNormalizedResets ContinualBackprop",
        "rank_collapse": "ParsevalRegularizer SpectralRegularizer OrthogonalReset",
        "cloned_units": "ParsevalRegularizer OrthogonalReset",
        "saturation": "SmoothedSparseCategoricalCrossentropy NormalizedLogits LayerReset",
    }
    for name, members in wanted.items():
        assert all(f".{member}(" in lines[name].replace(".of(", "(") for member in members.split())


def test_rank_without_living_units():
    model = kp.models.mlp((8,), 3, widths=(16, 16))
    for name in ("dense_0", "dense_1"):
        model.get_layer(name).bias.assign(np.full(16, -50.0))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1000, 8)).astype("float32"), rng.integers(0, 3, 1000)
    diagnosis = kp.diagnose(model, (x, y))
    found = diagnosis["rank_collapse"]
    assert found.follows_from == ("dead_units",)
    assert found.reason == "in no layer are there enough units that live and are no copies"
    assert "nan" not in str(diagnosis)


def hand_made():
    """Six ReLU units: dead, always on, twice the same, the same with other weights, constant."""
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(6, activation="relu", name="hidden")
    model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
    kernel = np.array([[1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0]], "float32")
    layer.kernel.assign(kernel)
    layer.bias.assign(np.array([-9, 9, 0, 0, 0, 1], "float32"))
    return model


def test_units_of_a_hand_made_layer():
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype("float32")
    (units,) = unit_masks.units(ProbeInputs(hand_made(), x))
    assert units.dead.tolist() == [True, False, False, False, False, False]
    assert units.linear.tolist() == [False, True, False, False, False, False]
    assert units.constant.tolist() == [False, False, False, False, False, True]
    assert units.copies.tolist() == [False, False, False, True, False, False]
    assert units.distinct.tolist() == [False, True, True, False, True, False]


@pytest.mark.parametrize(
    ("activation", "low", "wanted"),
    [("relu", -3.0, False), ("leaky_relu", -3.0, True), ("gelu", 4.0, True), ("tanh", 0.0, True)],
)
def test_which_units_are_lines(activation, low, wanted):
    """Preactivations in a narrow range left of zero, right of it, or about it."""
    inputs = keras.Input((1,))
    layer = keras.layers.Dense(1, activation=activation)
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    layer.kernel.assign([[1.0]])
    x = (low + np.random.default_rng(0).uniform(-0.1, 0.1, (1000, 1))).astype("float32")
    (units,) = unit_masks.units(ProbeInputs(model, x))
    assert bool(units.linear[0]) is wanted
    assert bool(units.dead[0]) is (activation == "relu")


def test_leaders_of_a_chain_are_every_other_one():
    similar = np.eye(4, dtype=bool) | np.eye(4, k=1, dtype=bool) | np.eye(4, k=-1, dtype=bool)
    alive = np.ones(4, bool)
    assert unit_masks.leaders(similar, alive).tolist() == [True, False, True, False]
    alive[0] = False
    assert unit_masks.leaders(similar, alive).tolist() == [False, True, False, True]


def test_kernel_of_a_convolution_has_a_column_per_channel():
    inputs = keras.Input((5, 5, 2))
    layer = keras.layers.Conv2D(3, 3, activation="relu")
    x = keras.layers.Flatten()(layer(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    matrix = unit_masks.kernel(unit_groups(model)[0])
    np.testing.assert_array_equal(matrix, np.asarray(layer.kernel).reshape(-1, 3))


def test_growth_of_hidden_and_output_weights():
    model = hand_made()
    start = ProbeInputs(model, np.zeros((1, 2), "float32")).snapshot()
    model.get_layer("hidden").kernel.assign(model.get_layer("hidden").kernel.value * 3)
    grown = growth(model, start)
    assert list(grown.hidden.values()) == pytest.approx([3])
    assert list(grown.output.values()) == pytest.approx([1])
    assert rms(np.array([3.0, 4.0])) == pytest.approx(math.sqrt(12.5))


def test_order_causes_then_consequences_then_healthy():
    found = [
        Finding("saturation", "failing", 9.0, follows_from=("norm_growth",)),
        Finding("dead_units", "healthy", 0.2),
        Finding("trainability", "not applicable"),
        Finding("cloned_units", "warning", 1.5),
        Finding("norm_growth", "failing", 2.5),
    ]
    names = [finding.mechanism for finding in causes.order(found)]
    assert names == ["norm_growth", "cloned_units", "saturation", "dead_units", "trainability"]
    diagnosis = Diagnosis("m", causes.order(found))
    assert [f.mechanism for f in diagnosis.causes] == ["norm_growth", "cloned_units"]
    assert not diagnosis.healthy
    with pytest.raises(KeyError, match="no mechanism"):
        diagnosis["boredom"]


def test_a_network_beside_itself_has_not_shifted():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(20, "relu", name="half_dead")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    model.compile("adam", "mse")
    bias = model.get_layer("half_dead").bias
    bias.assign(np.where(np.arange(20) < 10, -50.0, 0.5))
    data = np.random.default_rng(0).normal(size=(300, 6)), np.zeros((300, 2))
    finding = kp.diagnose(model, data, reference=model)["preactivation_shift"]
    assert finding.evidence[0].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("treated", [False, True])
def test_targets_that_are_treated_are_not_large(treated):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 6)), 1000 + rng.normal(size=(300, 1))
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    )
    model.compile("adam", kp.losses.TargetNormalization.of(y) if treated else "mse")
    finding = kp.diagnose(model, (x, y))["large_targets"]
    assert (finding.status == "healthy") == treated
