"""Measures what interventions cost; prints JSON lines with ratios to the same run without.

Command: python tests/benchmarks/resets.py [PART ...]      (parts of the names below)

Fused steps on random images of MNIST's size. The run with and the run without take turns
in one process; `ratio` is the median over pairs, `ratio_of_minima` that of the fastest
runs, which a busy machine disturbs least. The load is printed beside them.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_plasticity as kp  # noqa: E402
from tests.benchmarks.pairs import compare, trainer  # noqa: E402

METHODS = {
    "ReDo": lambda: kp.callbacks.ReDo(period=1000, threshold=0.025),
    "ContinualBackprop": lambda: kp.callbacks.ContinualBackprop(rate=1e-4),
    "ContinualBackprop adaptable": lambda: kp.callbacks.ContinualBackprop(
        rate=1e-4, utility="adaptable_contribution"
    ),
    "SelfNormalizedResets": lambda: kp.callbacks.SelfNormalizedResets(),
    "GradientDormancyReset": lambda: kp.callbacks.GradientDormancyReset(period=1000),
    "SelectiveWeightReinit": lambda: kp.callbacks.SelectiveWeightReinit(period=1000),
    "ShrinkAndPerturb": lambda: kp.callbacks.ShrinkAndPerturb(
        period=1, unit="step", shrink=0.9999, perturb=0.01
    ),
    "HareAndTortoise": lambda: kp.callbacks.HareAndTortoise(0.999, 1000, "step"),
    "SoftReset": lambda: kp.callbacks.SoftReset(gamma=0.9999),
}
NETWORKS = {  # name: (hidden widths, batch, optimizer)
    "784-100x3-10 batch 1 SGD": ((100,) * 3, 1, keras.optimizers.SGD),
    "784-100x3-10 batch 1 Adam": ((100,) * 3, 1, keras.optimizers.Adam),
    "784-100x3-10 batch 32 SGD": ((100,) * 3, 32, keras.optimizers.SGD),
    "784-100x3-10 batch 32 Adam": ((100,) * 3, 32, keras.optimizers.Adam),
    "784-2000x3-10 batch 1 SGD": ((2000,) * 3, 1, keras.optimizers.SGD),
}


def measure(network, method, jit_compile):
    """Prints one line."""
    widths, batch, optimizer = NETWORKS[network]
    callback = METHODS[method]()
    plain, changed = (
        trainer(lambda: kp.models.mlp((784,), 10, widths=widths), optimizer(1e-3), batch,
                jit_compile, callbacks)
        for callbacks in ([], [callback])
    )  # fmt: skip
    figures = {"network": network, "method": method, "xla": jit_compile}
    figures |= compare(plain, changed)
    figures["resets"] = int(np.sum(callback.counts)) if callback.counts is not None else None
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    for network in NETWORKS:
        for method in METHODS:
            for jit_compile in (True, False):
                name = f"{network} {method} {'xla' if jit_compile else 'no-xla'}"
                if all(part in name for part in sys.argv[1:]):
                    measure(network, method, jit_compile)
