"""Noise on gradients."""

from __future__ import annotations

import math
import typing

import keras
import tensorflow as tf
from keras import ops

from keras_plasticity.optimizers.decay_policy import DecayPolicy
from keras_plasticity.optimizers.regularized import dense
from keras_plasticity.optimizers.wrapper import Wrapper
from keras_plasticity.surgery import draws
from keras_plasticity.surgery.noise import noise


@keras.saving.register_keras_serializable(package="keras_plasticity")
class GradientNoise(Wrapper):
    """Adds normal noise to the gradients before another optimizer makes the step.

    ```python
    g = gradient + sigma / (1 + t)**(annealing / 2) * normal  # t: updates so far
    w = inner.update(w, g)
    ```

    so the variance is `sigma**2 / (1 + t)**annealing`. Adam divides the sum by the root of its
    second moment, so where gradients are small its steps become those of the noise.

    Draws are a function of the seed and of a counter that is saved with the optimizer; they are
    the same with and without XLA. A reset of the iterations (`kp.callbacks.OptimizerReset`) makes
    the noise as strong as at the start and leaves the counter, so no noise comes again.
    `kp.surgery.reset_optimizer` (`kp.callbacks.FreshNetwork`) builds everything anew, the counter
    too: the same noise comes again. A draw costs about 5 ns a weight on a CPU core, see
    `surgery/noise.py`.

    Example:

    ```python
    optimizer = kp.optimizers.GradientNoise(keras.optimizers.SGD(0.1), 0.01, annealing=0.0)
    ```

    Args:
        optimizer: `keras.optimizers.Optimizer`, what makes the step.
        sigma: float, at least 0, deviation of the noise at the first update. With 0 it is
            the inner optimizer, bit for bit. Default 0.1.
        annealing: float, at least 0, `gamma` of the paper: how fast the noise fades, 0 for
            never. Default 0.55.
        which: see `DecayPolicy`. Default "all".
        seed: int. Default 0.
        name: str. Default "gradient_noise".

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks",
        2015, https://arxiv.org/abs/1511.06807, section 3.1: variance `eta / (1 + t)**0.55`,
        `eta` one of 0.01, 0.3 and 1.

    Deviations:
        `sigma` is a deviation: `eta` of the paper is its square.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        sigma: float = 0.1,
        annealing: float = 0.55,
        which: str = "all",
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(optimizer, name)
        for argument, value in (("sigma", sigma), ("annealing", annealing)):
            if not (isinstance(value, (int, float)) and 0 <= value < math.inf):
                raise ValueError(f"`{argument}` must be at least 0. Received: {argument}={value!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"`seed` must be a whole number. Received: seed={seed!r}")
        self.sigma, self.annealing, self.seed = sigma, annealing, seed
        self.which = which
        self._policy = DecayPolicy(which)

    def build_state(self, variables: list) -> None:
        """Makes the counter of draws."""
        chosen = {id(variable) for variable in self._policy.chosen(variables)}
        self._noisy = [id(variable) in chosen for variable in variables]
        self._drawn = self.add_variable((), dtype="int32", name="drawn")

    def before(self, gradients: list, variables: list) -> list:
        """Adds the noise."""
        if not self.sigma:
            return gradients
        seed = tf.stack([tf.constant(self.seed, tf.int32), tf.identity(self._drawn.value)])
        self._drawn.assign_add(1)
        size = deviation(self.iterations, self.sigma, self.annealing)
        new = []
        for gradient, variable in zip(gradients, variables, strict=True):
            index = self._get_variable_index(variable)
            if self._noisy[index]:
                gradient = dense(gradient)
                drawn = noise(None, tuple(variable.shape), "float32", draws.fold(seed, index))
                gradient = gradient + ops.cast(size * drawn, gradient.dtype)
            new.append(gradient)
        return new

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        names = ("sigma", "annealing", "which", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def deviation(t: typing.Any, sigma: float, annealing: float) -> typing.Any:
    """Returns `sigma / (1 + t)**(annealing / 2)`, float32, the deviation after `t` updates."""
    return sigma / (1 + ops.cast(t, "float32")) ** (annealing / 2)
