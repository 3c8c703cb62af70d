"""Targets of a regression that are drawn anew."""

import numpy as np
import pytest

from keras_plasticity import streams


class TestRedrawTargets:
    def stream(self, **options):
        x = np.arange(400, dtype=np.float32).reshape(200, 2)
        source = streams.from_arrays(x, np.arange(200) % 4)
        transform = streams.RedrawTargets(**options)
        return streams.make(source, num_tasks=4, transforms=[transform], batch_size=20)

    def test_mean_and_deviation(self):
        y = self.stream(offset=100.0, deviation=3.0)[1].arrays().y
        assert y.dtype == np.float32 and y.shape == (200,)
        assert abs(y.mean() - 100) < 4 * 3 / 200**0.5
        assert 2.5 < y.std() < 3.5

    def test_it_makes_a_regression(self):
        stream = self.stream()
        assert stream.num_classes is None and stream.num_outputs == 1
        assert not stream[0].data.test_labels_meaningful

    def test_offset_moves_the_same_noise(self):
        near, far = (np.asarray(self.stream(offset=c)[2].arrays().y) for c in (0.0, 64.0))
        assert np.allclose(far - near, 64, atol=1e-4)

    def test_first_targets_are_held(self):
        tasks = [np.asarray(task.arrays().y) for task in self.stream(hold=3)]
        assert np.array_equal(tasks[0], tasks[1]) and np.array_equal(tasks[0], tasks[2])
        assert not np.array_equal(tasks[0], tasks[3])

    @pytest.mark.parametrize(
        "options", [{"offset": np.nan}, {"deviation": -1.0}, {"hold": 0}, {"offset": "1"}]
    )
    def test_bad_arguments(self, options):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            streams.RedrawTargets(**options)
