"""Units of the layers of this library: cuts, taps, reasons, and what probes read of them."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity.units.nonlinearities import nonlinearities
from tests.units import oracle

K, L = keras.layers, kp.layers


def dense(units, name, **options):
    return K.Dense(units, name=name, **options)


def exact_norms():
    x = inputs = keras.Input((6, 6, 2))
    x = L.SmoothLeakyReLU()(L.CenterScale("batch", "batch", True)(K.Conv2D(3, 3, name="a")(x)))
    x = L.CenterScale("group", "group", True, groups=4)(K.Conv2D(4, 3, name="b")(x))
    x = K.Flatten()(L.Rational()(x))
    x = L.AdaLin("tanh")(L.CenterScale(None, "batch")(dense(5, "c")(x)))
    return keras.Model(inputs, dense(3, "out")(x))


def mixing_norms():
    x = inputs = keras.Input((5,))
    x = K.ReLU()(L.CenterScale("batch", "feature", True)(dense(4, "a")(x)))
    x = K.ReLU()(L.CenterScale("group", "batch", groups=2)(dense(6, "b")(x)))
    x = L.UnitBall()(dense(4, "c", activation=L.SmoothLeakyReLU())(x))
    return keras.Model(inputs, dense(3, "out")(x))


def normalized_kernels():
    x = inputs = keras.Input((6, 6, 2))
    x = K.ReLU()(L.NormalizedConv2D(4, 3, name="a", use_bias=True)(x))
    x = K.Flatten()(L.NormalizedConv2D(3, 3, name="b", activation="relu")(x))
    x = dense(6, "plain", activation="relu")(x)
    x = K.ReLU()(L.NormalizedDense(5, name="c")(x))
    return keras.Model(inputs, dense(3, "out")(x))


def standardized():
    x = inputs = keras.Input((6, 6, 2))
    x = K.ReLU()(L.WeightStandardization(K.Conv2D(4, 3), name="a")(x))
    x = dense(6, "plain", activation="relu")(K.Flatten()(x))
    x = L.WeightStandardization(dense(5, "inner", activation="tanh"), name="b")(x)
    return keras.Model(inputs, dense(3, "out")(x))


def products():
    x = inputs = keras.Input((5,))
    x = L.HadamardDense(6, name="a")(x)
    x = L.HadamardDense(4, use_bias=False, name="b")(x)
    return keras.Model(inputs, dense(3, "out")(x))


def scaled_outputs():
    x = inputs = keras.Input((5,))
    x = K.ReLU()(L.Diagonal()(dense(6, "a")(x)))
    x = dense(4, "b", activation="relu")(x)
    x = L.NormalizedLogits(5, learn_scale=True, name="c")(x)
    x = L.PopArt(4, minimum=0.1, name="d")(K.ReLU()(x))
    return keras.Model(inputs, dense(3, "out")(x))


def doubled():
    x = inputs = keras.Input((6, 6, 2))
    x = L.CReLU()(K.Conv2D(3, 3, name="a")(x))
    x = K.Flatten()(L.DeepFourier()(K.BatchNormalization()(K.Conv2D(4, 3, name="b")(x))))
    x = L.CReLU()(dense(5, "c")(x))
    return keras.Model(inputs, dense(3, "out")(x))


def along_positions():
    """Channels are not where these layers have their parameters or halves."""
    x = inputs = keras.Input((4, 3))
    x = L.AdaLin(axis=1)(L.CReLU(axis=1)(dense(5, "a")(x)))
    x = K.Flatten()(L.CenterScale("batch", "batch", axis=1)(dense(4, "b")(x)))
    return keras.Model(inputs, dense(3, "out")(x))


def attention():
    x = inputs = keras.Input((4, 6))
    x = dense(8, "a", activation="relu")(x)
    x = L.NormalizedAttention(2, 3, name="it")(x, x)
    x = K.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, dense(3, "out")(x))


NETWORKS = {  # names of the free groups, and of those whose units act on each other
    exact_norms: ({"a", "b", "c"}, set()),
    mixing_norms: ({"a", "b", "c"}, {"a", "b", "c"}),
    normalized_kernels: ({"a", "b", "plain", "c"}, {"a", "b", "c"}),
    standardized: ({"a", "b"}, set()),
    products: ({"a", "b"}, set()),
    scaled_outputs: ({"a", "b", "c", "d"}, {"b"}),
    doubled: ({"a", "b", "c"}, set()),
    attention: ({"a", "it/value", "it/attention_output"}, set()),
}
IDS = [make.__name__ for make in NETWORKS]


@pytest.mark.parametrize("make,expected", NETWORKS.items(), ids=IDS)
def test_cuts(make, expected):
    groups = oracle.check(make())
    assert {group.name for group in groups.free} == expected[0], str(groups)
    assert {group.name for group in groups.free if not group.exact} == expected[1], str(groups)
    assert not groups.unknown


@pytest.mark.parametrize("make", NETWORKS, ids=IDS)
def test_taps(make):
    oracle.check_taps(make())


def test_reasons():
    groups = kp.unit_groups(standardized())
    assert groups["plain"].blocked == "read by b, whose kernel is centred"
    groups = kp.unit_groups(along_positions())
    assert not groups["b"].exact and groups["a"].exact
    oracle.check(along_positions())


def test_pieces():
    def names(group):
        found = (group.incoming, group.attached, group.outgoing)
        return [[piece.variable.name for piece in part] for part in found]

    groups = kp.unit_groups(exact_norms())
    statistics = ["gamma", "beta", "moving_mean", "moving_variance"]
    assert names(groups["a"]) == [["kernel", "bias"], statistics, ["kernel"]]
    assert names(groups["c"])[1] == ["moving_variance", "alpha"]
    groups = kp.unit_groups(standardized())
    assert names(groups["a"])[1] == ["gain"]
    groups = kp.unit_groups(products())
    both = ["kernel", "bias", "second_kernel", "second_bias"]
    assert names(groups["a"]) == [both, [], ["kernel", "second_kernel"]]
    groups = kp.unit_groups(scaled_outputs())
    assert names(groups["a"]) == [["kernel", "bias"], ["scale"], ["kernel"]]
    assert names(groups["c"]) == [["kernel"], [], ["kernel"]]
    assert names(groups["d"]) == [["kernel", "bias"], ["mu", "variance"], ["kernel"]]
    assert groups["b"].outgoing[0].bias is None and groups["c"].outgoing[0].bias is not None
    groups = kp.unit_groups(doubled())
    np.testing.assert_array_equal(groups["a"].outgoing[0].owner, [0, 1, 2] * 2)
    assert kp.unit_groups(normalized_kernels())["a"].outgoing[0].bias is None
    assert kp.unit_groups(exact_norms())["c"].outgoing[0].bias is not None


def test_nonlinearities_of_groups():
    def kinds(model):
        return {g.name: type(g.nonlinearity).__name__ for g in kp.unit_groups(model).free}

    expected = {"a": "SmoothLeakyReLU", "b": "Rational", "c": "AdaLin"}
    assert kinds(exact_norms()) == expected
    assert kinds(mixing_norms()) == {"a": "ReLU", "b": "ReLU", "c": "SmoothLeakyReLU"}
    assert kinds(standardized()) == {"a": "ReLU", "b": "function"}
    assert kinds(products()) == dict.fromkeys("ab", "NoneType")  # two preactivations
    assert kinds(doubled()) == dict.fromkeys("abc", "NoneType")  # two activations


def test_places_for_normalisations():
    kept = [place.kept for place in nonlinearities(doubled())]
    assert kept[0] is None and kept[1].startswith("normalised by") and kept[2] is None
    activations = [type(place.operation).__name__ for place in nonlinearities(exact_norms())]
    assert activations == ["SmoothLeakyReLU", "Rational", "AdaLin"]
    arguments = {p.name: p.argument for p in nonlinearities(normalized_kernels())}
    assert arguments["b"] is True and arguments["plain"] is True
    assert nonlinearities(products()) == []


@pytest.mark.parametrize("layer", [L.PopArt, L.NormalizedLogits])
def test_output_layers(layer):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layer(3, name="out")(dense(4, "a", activation="relu")(inputs)))
    groups = oracle.check(model)
    assert [group.name for group in groups.free] == ["a"] and not groups.unknown
    assert groups["out"].blocked == "output of the model"
    assert groups["a"].exact is (layer is L.PopArt)


def test_factors_along_positions():
    """A factor for each position is none of a unit's, and stays."""
    x = inputs = keras.Input((4, 3))
    x = K.Permute((2, 1))(L.Diagonal()(K.Permute((2, 1))(dense(5, "a")(x))))
    groups = oracle.check(keras.Model(inputs, dense(3, "out")(K.Flatten()(x))))
    assert groups["a"].exact and not groups["a"].attached and groups["a"].blocked is None


@pytest.mark.parametrize("make", [doubled, normalized_kernels, scaled_outputs])
def test_resets_of_units(make):
    """ReDo draws units anew and cuts them; the network stays finite and goes on learning."""
    model = make()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, *model.input_shape[1:]))
    redo = kp.callbacks.ReDo(2, threshold=0.9)
    model.fit(x, rng.normal(size=(16, 3)), batch_size=4, verbose=0, callbacks=[redo])
    assert int(np.sum(redo.counts)) > 0
    assert all(np.isfinite(np.asarray(v)).all() for v in model.weights)


@pytest.mark.parametrize("name,linear", [("AdaLin", 1), ("Rational", 0), ("SmoothLeakyReLU", 2)])
def test_probes_find_planted_units(name, linear):
    """Preactivations near -9, +9 and 0: ReLU's are dead and linear, a smooth leaky one's linear."""
    inputs = keras.Input((2,))
    x = getattr(L, name)()(dense(3, "hidden", bias_initializer="zeros")(inputs))
    model = keras.Model(inputs, dense(2, "out")(x))
    layer = model.get_layer("hidden")
    layer.kernel.assign(np.full((2, 3), 0.5))
    layer.bias.assign([-9, 9, 0])
    x = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype("float32")
    found = kp.probes.ProbeInputs(model, x)
    dead = 1 / 3 if name == "AdaLin" else 0
    assert kp.probes.dead_fraction(found)["hidden"] == pytest.approx(dead)
    assert kp.probes.gradient_dead_fraction(found)["hidden"] == pytest.approx(dead)
    if name != "Rational":  # bends far from zero, more or less
        assert kp.probes.linearised_fraction(found)["hidden"] == pytest.approx(linear / 3)
