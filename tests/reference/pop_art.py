"""PopArt in NumPy with float64, as in the paper: it keeps the mean of squares."""

import numpy as np


class PopArt:
    """Statistics of targets of shape `(examples, units)`, and the layer's weights."""

    def __init__(self, kernel, bias, step, debias, bounds=(1e-4, 1e6)):
        self.kernel, self.bias = np.float64(kernel), np.float64(bias)
        self.step, self.debias, self.bounds, self.t = step, debias, bounds, 0
        units = self.bias.size
        self.mu, self.nu, self.sigma = np.zeros(units), np.ones(units), np.ones(units)

    def update(self, y):
        """Takes a batch of targets."""
        self.t += 1
        step = self.step / (1 - (1 - self.step) ** self.t) if self.debias else self.step
        mu, sigma = self.mu, self.sigma
        self.mu = mu + step * (y.mean(0) - mu)
        self.nu = self.nu + step * ((y**2).mean(0) - self.nu)
        variance = np.clip(self.nu - self.mu**2, self.bounds[0] ** 2, self.bounds[1] ** 2)
        self.sigma = np.sqrt(variance)
        if self.debias and self.t == 1:
            return
        self.kernel = self.kernel * sigma / self.sigma
        self.bias = (sigma * self.bias + mu - self.mu) / self.sigma
