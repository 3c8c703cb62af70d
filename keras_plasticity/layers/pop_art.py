"""An output layer that adapts to the scale of targets and keeps its outputs doing so."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_plasticity")
class PopArt(keras.layers.Dense):
    """Last layer of a regression: predicts normalised targets, returns them in their units.

    Use it where the scale or the offset of targets is not known or moves. Give `fit` or
    `kp.experiment.run` the callback `kp.callbacks.PopArtUpdate()`, which shows each batch of
    targets to the layer before the update, and train with the mean squared error in units of
    the targets.

    ```python
    outputs = sigma * (inputs @ kernel + bias) + mu
    # before each update, on its targets y:
    new_mu = mu + step * (mean(y) - mu);  new_nu = nu + step * (mean(y**2) - nu)
    new_sigma = sqrt(clip(new_nu - new_mu**2, minimum**2, maximum**2))
    kernel = sigma / new_sigma * kernel
    bias = (sigma * bias + mu - new_mu) / new_sigma  # outputs are what they were
    ```

    In training (`training=True`) the gradient that comes into the layer is divided by
    `sigma**2`, so that the squared error of outputs trains the network as the squared error
    of normalised outputs on normalised targets does, while the loss that is shown keeps its
    units. With another loss it is the gradient of `loss / sigma**2`. In inference mode, where
    probes look, the gradient is that of the formula.

    Example:

    ```python
    layers = [keras.Input((8,)), keras.layers.Dense(64, "relu"), kp.layers.PopArt()]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    model.fit(x, y, callbacks=[kp.callbacks.PopArtUpdate()])
    ```

    Args:
        units: int, dimensions of a target, each with statistics of its own. Default 1.
        step: float in (0, 1], how fast statistics follow the targets. Default 3e-4.
        minimum: float above 0, least sigma. Default 1e-4.
        maximum: float, greatest sigma. Default 1e6.
        debias: bool, whether `step` is divided by `1 - (1 - step)**t` at the t-th update, so
            that the first batch sets the statistics alone; kernel and bias are left as they
            are at that one update. Without it statistics begin with `mu = 0` and `nu = 1`,
            large targets need some `10 / step` updates, and outputs never move. Default True.
        preserve_outputs: bool; False leaves kernel and bias, so that outputs move with the
            statistics: plain running target normalisation. Default True.
        **kwargs: further arguments of `keras.layers.Dense`, but neither `activation` nor
            `use_bias`.

    Call arguments:
        inputs: shape `(..., features)`.
        training: bool, see above. Default False.

    Returns:
        Values in units of the targets, shape `(..., units)`, float32 also in mixed precision.

    Attributes:
        mu: variable of shape `(units,)`, mean of the targets.
        variance: variable of shape `(units,)`, `nu - mu**2`.

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        van Hasselt et al., "Learning values across many orders of magnitude", 2016,
        https://arxiv.org/abs/1602.07714, algorithm 1 and section 2.1 (`debias`). Step and
        bounds are those of rlax (https://github.com/google-deepmind/rlax), which does not
        debias.

    Deviations:
        With `debias`, outputs are not kept at the first update: there is nothing to keep
        before training, and a first mean of 1000 deviations would leave a bias of -1000, which
        Adam takes 1000 / learning_rate updates to mend. The variance is kept in place of `nu`
        and moved by `(1 - step) * variance + step * var(y) + step * (1 - step) * (mean(y) -
        mu)**2`, the same number without the difference of two large ones, which in float32
        would lose a deviation of 0.1 beside a mean of 1000. Moments of the optimizer stay.
    """

    def __init__(
        self,
        units: int = 1,
        step: float = 3e-4,
        minimum: float = 1e-4,
        maximum: float = 1e6,
        debias: bool = True,
        preserve_outputs: bool = True,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(units, **kwargs)
        if not 0 < step <= 1:
            raise ValueError(f"`step` must be above 0 and at most 1. Received: step={step!r}")
        if not 0 < minimum <= 1 <= maximum < math.inf:  # sigma begins with 1
            raise ValueError(
                "`minimum` must be positive, and 1 between it and `maximum`. "
                f"Received: minimum={minimum!r}, maximum={maximum!r}"
            )
        if self.activation is not keras.activations.linear or not self.use_bias:
            raise ValueError(
                "PopArt must have a bias and no activation. Received: "
                f"activation={kwargs.get('activation')!r}, use_bias={self.use_bias!r}"
            )
        self.step, self.minimum, self.maximum = step, minimum, maximum
        self.debias, self.preserve_outputs = debias, preserve_outputs

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        super().build(input_shape)
        dtype = self._wide

        def statistic(name: str, shape: tuple, start: str) -> keras.Variable:
            return self.add_weight(
                name=name,
                shape=shape,
                initializer=start,
                dtype=dtype,
                trainable=False,
                autocast=False,
            )

        self.mu = statistic("mu", (self.units,), "zeros")
        self.variance = statistic("variance", (self.units,), "ones")
        # 1 - (1 - step)**t, the weight of all targets seen so far.
        self.seen = statistic("seen", (), "zeros" if self.debias else "ones")

    @property
    def _wide(self) -> str:
        return "float64" if self.variable_dtype == "float64" else "float32"

    @property
    def sigma(self) -> typing.Any:
        """Deviation of the targets, within its bounds, shape `(units,)`."""
        return deviation(self.variance, self.minimum, self.maximum)

    @property
    def nu(self) -> typing.Any:
        """Mean square of the targets, shape `(units,)`."""
        return self.variance + ops.square(self.mu)

    def call(self, inputs: typing.Any, training: bool | None = None) -> typing.Any:
        """Computes the outputs."""
        normalized = ops.cast(super().call(inputs), self._wide)
        mu, sigma = ops.convert_to_tensor(self.mu), self.sigma
        if training:
            return _with_scaled_gradient(normalized, sigma, mu)
        return normalized * sigma + mu

    def compute_output_spec(
        self, inputs: typing.Any, training: bool | None = None
    ) -> keras.KerasTensor:
        """Returns shape and dtype of the outputs."""
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self._wide)

    def update(self, targets: typing.Any) -> None:
        """Moves the statistics, and kernel and bias so that outputs stay.

        Args:
            targets: shape `(...,)` or `(..., 1)` for one unit, else `(..., units)`.

        Raises:
            ValueError: they do not fit `units`.
        """
        y = ops.cast(targets, self._wide)
        if self.units > 1 and y.shape[-1] != self.units:
            raise ValueError(
                f"Targets must have {self.units} dimensions (`units`). "
                f"Received: targets of shape {tuple(y.shape)}"
            )
        y = ops.reshape(y, (-1, self.units))
        mu, variance, old = (ops.copy(x) for x in (self.mu, self.variance, self.sigma))
        first = ops.equal(self.seen, 0)  # nothing is learned yet that could be lost
        seen = self.seen + self.step * (1 - self.seen)
        new_mu, new_variance = statistics(y, mu, variance, self.step / seen)
        self.seen.assign(seen)
        self.mu.assign(new_mu)
        self.variance.assign(new_variance)
        if self.preserve_outputs:
            new = deviation(new_variance, self.minimum, self.maximum)
            for weight, value in zip(
                (self._kernel, self.bias),
                rescaled(self._kernel, self.bias, mu, old, new_mu, new),
                strict=True,
            ):
                weight.assign(ops.where(first, weight, ops.cast(value, weight.dtype)))

    def save_own_variables(self, store: dict) -> None:
        """Stores all variables; those of Dense are kernel and bias alone."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: dict) -> None:
        """Takes them back."""
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "step": self.step,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "debias": self.debias,
            "preserve_outputs": self.preserve_outputs,
        }


def statistics(
    y: typing.Any, mu: typing.Any, variance: typing.Any, step: typing.Any
) -> tuple[typing.Any, typing.Any]:
    """Returns mean and variance after a batch of targets.

    Args:
        y: shape `(examples, units)`.
        mu: shape `(units,)`.
        variance: shape `(units,)`.
        step: scalar, the share of the batch.
    """
    mean = ops.mean(y, axis=0)
    within = ops.mean(ops.square(y - mean), axis=0)
    apart = mean - mu
    between = step * (1 - step) * ops.square(apart)
    return mu + step * apart, (1 - step) * variance + step * within + between


def deviation(variance: typing.Any, minimum: float, maximum: float) -> typing.Any:
    """Returns `sqrt(clip(variance, minimum**2, maximum**2))`."""
    return ops.sqrt(ops.clip(variance, minimum**2, maximum**2))


def rescaled(
    kernel: typing.Any,
    bias: typing.Any,
    mu: typing.Any,
    sigma: typing.Any,
    new_mu: typing.Any,
    new_sigma: typing.Any,
) -> tuple[typing.Any, typing.Any]:
    """Returns kernel and bias for which outputs are the same at the new statistics."""
    return kernel * (sigma / new_sigma), (sigma * bias + (mu - new_mu)) / new_sigma


@ops.custom_gradient
def _with_scaled_gradient(normalized: typing.Any, sigma: typing.Any, mu: typing.Any) -> tuple:
    """`normalized * sigma + mu`, with a gradient divided by `sigma**2`."""

    def gradient(upstream: typing.Any) -> tuple:
        return upstream / sigma, ops.zeros_like(sigma), ops.zeros_like(mu)

    return normalized * sigma + mu, gradient
