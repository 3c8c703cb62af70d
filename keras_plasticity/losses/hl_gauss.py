"""Regression as a classification of bins: a target is a normal distribution over them."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops

from keras_plasticity.losses.binned import Binned


@keras.saving.register_keras_serializable(package="keras_plasticity")
class HLGauss(Binned):
    """Cross-entropy of bins, each target spread over them as a normal distribution.

    Use it as `TwoHot`; here neighbouring bins learn together, about six of them from each
    target. The network has `bins` outputs without an activation: `num_outputs=bins` with a
    builder of `kp.models`; `kp.experiment.run` asks for them by itself.

    ```python
    # grid="edges": the bins fill [low, high]
    w = (h(high) - h(low)) / bins;        e = linspace(h(low), h(high), bins + 1)
    # grid="centres": the outer centres are low and high
    w = (h(high) - h(low)) / (bins - 1);  e = linspace(h(low) - w / 2, h(high) + w / 2, bins + 1)
    c = erf((e - h(y)) / (sqrt(2) * sigma * w))
    p[k] = (c[k + 1] - c[k]) / (c[-1] - c[0])
    loss = -sum(p * log_softmax(logits))
    value = h_inverse(sum(softmax(logits) * centres))  # decode
    ```

    Targets at least four standard deviations inside the range are decoded to within 0.01 bin,
    and to 1e-4 bin where the two end bins are left out of the range. Nearer to an end the
    distribution is cut off on one side and the value is pulled inwards: on [-5, 5] with 11
    bins 4.9 decodes to 4.344 (`"edges"`) or 4.583 (`"centres"`). Choose the range wider than
    the targets by about four bins on either side.

    Args:
        low: float, the lowest target, in units of the targets; below it they are clipped.
        high: float, the highest target; above it they are clipped.
        bins: int, at least 2.
        sigma: float, standard deviation in bin widths. Default 0.75.
        grid: `"edges"` or `"centres"`, which of the two touch `low` and `high`. Default
            `"edges"`.
        transform: None, `"symlog"` or `"sqrt"`, see `TwoHot`. Default None.
        reduction: as in Keras. Default `"sum_over_batch_size"`.
        name: str. Default `"hl_gauss"`.
        dtype: as in Keras. Default None. Computed in float32 at least.

    Raises:
        ValueError: an argument is out of its range; later, logits and targets do not fit.

    References:
        Imani and White, "Improving Regression Performance with Distributional Losses", 2018,
        https://arxiv.org/abs/1806.04613. Farebrother et al., "Stop Regressing: Training Value
        Functions via Classification for Scalable Deep RL", 2024,
        https://arxiv.org/abs/2403.03950, whose grid is `"edges"` and whose sigma is 0.75 bins.

    Deviations:
        Targets outside of the range are clipped. With a transform the distribution is normal
        in `h(y)`.
    """

    def __init__(
        self,
        low: float,
        high: float,
        bins: int,
        sigma: float = 0.75,
        grid: str = "edges",
        transform: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "hl_gauss",
        dtype: typing.Any = None,
    ) -> None:
        if not 0 < sigma < math.inf:
            raise ValueError(f"`sigma` must be positive. Received: sigma={sigma!r}")
        if grid not in ("edges", "centres"):
            raise ValueError(f"`grid` must be 'edges' or 'centres'. Received: grid={grid!r}")
        self.sigma, self.grid = sigma, grid
        super().__init__(low, high, bins, transform, reduction, name, dtype)

    def _grid(self, low: float, high: float) -> tuple[float, float]:
        if self.grid == "centres":
            return low, (high - low) / (self.bins - 1)
        width = (high - low) / self.bins
        return low + width / 2, width

    def _spread(self, position: typing.Any) -> typing.Any:
        edges = ops.arange(self.bins + 1, dtype=position.dtype) - 0.5
        below = ops.erf((edges - position) / (math.sqrt(2.0) * self.sigma))
        total = below[..., -1:] - below[..., :1]
        return (below[..., 1:] - below[..., :-1]) / total

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "sigma": self.sigma, "grid": self.grid}
