import keras
import numpy as np
import pytest

import keras_plasticity as kp

CenterScale = kp.layers.CenterScale
RNG = np.random.default_rng(0)
SHAPES = {"vectors": (5, 6), "tokens": (5, 3, 6), "images": (5, 4, 3, 6)}
INPUTS = {name: RNG.normal(2, 3, shape).astype("float32") for name, shape in SHAPES.items()}
AXES = (None, "batch", "feature", "group")


def reference(x, center, scale, groups=2, epsilon=1e-3):
    """In float64, with loops over groups; statistics over the batch are those of `x`."""
    x = x.astype("float64")

    def over(function, kind):
        if kind == "batch":
            return function(x, axis=tuple(range(x.ndim - 1)), keepdims=True)
        if kind == "feature":
            axes = tuple(range(1, x.ndim)) if x.ndim > 3 else -1
            return function(x, axis=axes, keepdims=True)
        out, size = np.empty_like(x), x.shape[-1] // groups
        for n in range(len(x)):
            for g in range(groups):
                part = slice(g * size, (g + 1) * size)
                out[n, ..., part] = function(x[n, ..., part], axis=None, keepdims=False)
        return out

    outputs = x - (over(np.mean, center) if center else 0)
    if scale:
        variance = over(np.var, scale) if center else over(lambda v, **k: np.mean(v**2, **k), scale)
        outputs = outputs / np.sqrt(variance + epsilon)
    return outputs


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("scale", AXES)
@pytest.mark.parametrize("center", AXES)
def test_every_pair_of_axes_agrees_with_numpy(name, center, scale):
    layer = CenterScale(center, scale, groups=2 if "group" in (center, scale) else None)
    outputs = layer(INPUTS[name], training=True)
    np.testing.assert_allclose(outputs, reference(INPUTS[name], center, scale), atol=2e-5)


def test_hybrid_by_hand():
    # Unit means 2 and 5. The examples' features have deviations 1 and 2 about their own means.
    x = np.array([[1.0, 3.0], [3.0, 7.0]], "float32")
    outputs = CenterScale("batch", "feature", epsilon=1e-12)(x, training=True)
    np.testing.assert_allclose(outputs, [[-1, -2], [0.5, 1]], rtol=1e-6)


def points():
    """Layers of Keras with the same scale and offset, and where they are in the family."""
    K, epsilon = keras.layers, 1e-3
    for name in INPUTS:
        axes = (1, 2, 3) if name == "images" else -1
        layer_norm = K.LayerNormalization(axis=-1, epsilon=epsilon)
        if name == "images":
            layer_norm = K.GroupNormalization(1, epsilon=epsilon)
        yield name, ("feature", "feature", None), layer_norm
        yield name, ("group", "group", 3), K.GroupNormalization(3, epsilon=epsilon)
        rms = K.RMSNormalization(axis=axes, epsilon=epsilon)
        yield name, (None, "feature", None), rms
        yield name, ("batch", "batch", None), K.BatchNormalization(epsilon=epsilon)


@pytest.mark.parametrize(
    "name,point,theirs", points(), ids=lambda v: type(v).__name__ if hasattr(v, "call") else None
)
def test_points_of_the_family_are_layers_of_keras(name, point, theirs):
    x = INPUTS[name]
    center, scale, groups = point
    ours = CenterScale(center, scale, True, groups)
    ours.build(x.shape)
    theirs.build(x.shape)
    gamma, beta = RNG.normal(size=(2, 6))
    if isinstance(theirs, keras.layers.RMSNormalization):  # a scale per element, no offset
        theirs.scale.assign(np.broadcast_to(gamma, theirs.scale.shape))
        beta = np.zeros(6)
    else:
        theirs.gamma.assign(gamma)
        theirs.beta.assign(beta)
    ours.gamma.assign(gamma)
    ours.beta.assign(beta)
    batch = isinstance(theirs, keras.layers.BatchNormalization)
    for training in (True, True, False) if batch else (False,):
        options = {"training": training} if batch else {}
        np.testing.assert_allclose(ours(x, **options), theirs(x, **options), atol=3e-5)
        x = 2 * x + 1
    if batch:
        for variable in ("moving_mean", "moving_variance"):
            np.testing.assert_allclose(
                getattr(ours, variable), getattr(theirs, variable), rtol=1e-5
            )
        theirs.trainable = ours.trainable = False  # runs in inference, as Keras' does
        before = np.asarray(ours.moving_mean)
        np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=3e-5)
        np.testing.assert_array_equal(ours.moving_mean, before)


@pytest.mark.parametrize("center,scale", [("batch", "feature"), ("feature", "batch")])
def test_inference_of_a_hybrid_uses_the_running_statistic(center, scale):
    x = INPUTS["vectors"]
    layer = CenterScale(center, scale, momentum=0.75, epsilon=1e-3)
    layer(x, training=True)
    assert len(layer.weights) == 1
    y = x[:2] + 1
    expected = {
        "batch": (y - 0.25 * x.mean(0)) / np.sqrt(y.var(1, keepdims=True) + 1e-3),
        "feature": (y - y.mean(1, keepdims=True)) / np.sqrt(0.75 + 0.25 * x.var(0) + 1e-3),
    }[center]
    np.testing.assert_allclose(layer(y), expected, atol=1e-5)
    np.testing.assert_allclose(layer(y[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("center,scale", [("group", "group"), ("batch", "batch"), (None, "group")])
def test_channels_first(center, scale):
    x = INPUTS["images"]
    groups = 2 if "group" in (center, scale) else None
    last, first = (CenterScale(center, scale, True, groups, axis=axis) for axis in (-1, 1))
    expected = np.moveaxis(np.asarray(last(x, training=True)), -1, 1)
    np.testing.assert_allclose(first(np.moveaxis(x, -1, 1), training=True), expected, atol=1e-5)


def test_sizes_that_are_not_known():
    x = keras.Input((None, None, 4))
    model = keras.Model(x, CenterScale("batch", "group", groups=2, momentum=0.0)(x))
    values = INPUTS["images"][..., :4]
    expected = reference(values, "batch", "group")
    model(values, training=True)
    np.testing.assert_allclose(model(values), expected, atol=2e-5)


def test_half_precision_does_not_overflow():
    x = (INPUTS["vectors"] * 3000).astype("float16")
    layer = CenterScale("batch", "feature", dtype="mixed_float16")
    outputs = layer(x, training=True)
    assert outputs.dtype == "float16" and layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(outputs, reference(x, "batch", "feature"), atol=3e-3)


@pytest.mark.parametrize(
    "options,match",
    [
        ({"center_axis": "layer"}, "`center_axis`"),
        ({"scale_axis": "channel"}, "`scale_axis`"),
        ({"center_axis": "group"}, "`groups` must be given"),
        ({"groups": 2}, "`groups` must be given"),
        ({"scale_axis": "group", "groups": 0}, "`groups` must be a positive"),
        ({"momentum": 1.5}, "`momentum`"),
        ({"epsilon": 0}, "`epsilon`"),
    ],
)
def test_wrong_arguments(options, match):
    with pytest.raises(ValueError, match=f"{match}.*Received"):
        CenterScale(**options)


def test_wrong_shapes():
    with pytest.raises(ValueError, match="`groups` must divide the channels. Received: groups=4"):
        CenterScale("group", "group", groups=4).build((None, 6))
    with pytest.raises(ValueError, match="`axis` must be.*Received"):
        CenterScale(axis=0).build((None, 6))
