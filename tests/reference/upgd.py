"""UPGD in NumPy, from its formulas; the noise is given."""

import numpy as np


def sigmoid(x):
    """Returns `1 / (1 + exp(-x))`, without overflow."""
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), 1 - 1 / (1 + np.exp(-np.abs(x))))


class UPGD:
    """State and step of it, on a list of weights.

    Args:
        lr, beta, decay, scope, protecting, adam, released: as the optimizer has them.
    """

    def __init__(self, lr, beta, decay=0.0, scope="global", protecting=True, adam=False,
                 released=False):  # fmt: skip
        self.lr, self.beta, self.decay, self.scope = lr, beta, decay, scope
        self.protecting, self.adam, self.released, self.t = protecting, adam, released, 0
        self.u, self.m, self.v = {}, {}, {}

    def step(self, weights, gradients, noises):
        """Returns the new weights."""
        self.t += 1
        corrected = {}
        for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            self.u[i] = self.beta * self.u.get(i, 0) + (1 - self.beta) * (-g * w)
            corrected[i] = self.u[i] / (1 - self.beta**self.t)
            self.m[i] = 0.9 * self.m.get(i, 0) + 0.1 * g
            self.v[i] = 0.999 * self.v.get(i, 0) + 0.001 * g**2
        eta = max(np.max(u) for u in (self.u if self.released else corrected).values())
        new = []
        for i, (w, g, x) in enumerate(zip(weights, gradients, noises, strict=True)):
            scale = eta if self.scope == "global" else np.sqrt(np.sum(corrected[i] ** 2))
            utility = sigmoid(corrected[i] / max(scale, 1e-12))
            if self.adam:
                first, second = (1 - 0.9**self.t), (1 - 0.999**self.t)
                g = self.m[i] / first / (np.sqrt(self.v[i] / second) + 1e-8)
            change = (g + x) * (1 - utility) if self.protecting else g + x * (1 - utility)
            new.append((1 - self.lr * self.decay) * w - self.lr * change)
        return new
