"""`kp.fortify` on the networks of keras.applications: they train, save and load."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp

_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name,size,kwargs,least",
    [
        ("MobileNetV3Small", 32, {"include_preprocessing": False}, 10),
        pytest.param("ResNet50", 32, {}, 16, marks=_SLOW),
        pytest.param("VGG16", 32, {}, 15, marks=_SLOW),
        pytest.param("EfficientNetV2B0", 32, {"include_preprocessing": False}, 16, marks=_SLOW),
        pytest.param("ConvNeXtTiny", 32, {}, 18, marks=_SLOW),
        pytest.param("DenseNet121", 32, {}, 0, marks=_SLOW),
        pytest.param("InceptionV3", 75, {}, 0, marks=_SLOW),
        pytest.param("Xception", 71, {}, 11, marks=_SLOW),
    ],
)
def test_trains_saves_and_loads(name, size, kwargs, least, tmp_path):
    make = getattr(keras.applications, name)
    model = make(weights=None, classes=4, input_shape=(size, size, 3), **kwargs)
    fortified = kp.fortify(model, decay=1e-5, form="l2")
    added = [change for change in fortified.changes if change.layer]
    assert len(added) == least
    rng = np.random.default_rng(0)
    x = rng.random((8, size, size, 3)).astype("float32")
    copy = kp.fortify(model, norm=None).model
    assert np.allclose(model.predict(x, verbose=0), copy.predict(x, verbose=0), atol=1e-5)
    strong = fortified.model
    strong.compile(fortified.optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    history = strong.fit(x, rng.integers(0, 4, 8), batch_size=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    strong.save(tmp_path / "strong.keras")
    loaded = keras.models.load_model(tmp_path / "strong.keras")
    assert np.allclose(strong.predict(x, verbose=0), loaded.predict(x, verbose=0), atol=1e-5)
