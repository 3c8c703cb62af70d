"""Measures what normalisation and decay cost; prints JSON lines with ratios to the plain run.

Command: python tests/benchmarks/decay.py [PART ...]      (parts of the names below)

An MLP 784-256x3-10 at batch 128 with Adam, in fused steps with XLA. The plain run and the other
take turns in one process; `ratio` is the median over 21 pairs, `ratio_of_minima` that of the
fastest runs, which a busy machine disturbs least. The load is printed beside them.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import keras  # noqa: E402

import keras_plasticity as kp  # noqa: E402
from tests.benchmarks.pairs import compare, trainer  # noqa: E402

WIDTHS, BATCH = (256, 256, 256), 128


def _regularized(penalty, which="kernels"):
    policy = kp.optimizers.DecayPolicy(which)
    return lambda: kp.optimizers.Regularized(keras.optimizers.Adam(1e-3), [penalty], policy)


def mlp(**options):
    """Returns a function that builds the network."""
    return lambda: kp.models.mlp((784,), 10, widths=WIDTHS, **options)


def clipped():
    """Returns the network with weights that are clipped."""
    model = mlp()()
    kp.constraints.constrain(model, kp.constraints.WeightClipping(1.0))
    return model


R = kp.regularizers
METHODS = {  # name: (network, optimizer, callbacks)
    "layer norm": (mlp(norm="layer"), None, []),
    "layer norm, affine": (mlp(norm="layer", affine=True), None, []),
    "L2Init": (mlp(), _regularized(R.L2Init(1e-3)), []),
    "weight clipping": (clipped, None, []),
    "spectral": (mlp(), _regularized(R.SpectralRegularizer(1e-4)), []),
    "Parseval": (mlp(), _regularized(R.ParsevalRegularizer(1e-3), "dense_[12]/kernel"), []),
    "Parseval, first kernel too": (mlp(), _regularized(R.ParsevalRegularizer(1e-3)), []),
    "Wasserstein, every=100": (mlp(), _regularized(R.WassersteinInit(1e-3, every=100)), []),
    "decoupled decay": (
        mlp(),
        lambda: kp.optimizers.DecoupledDecay(keras.optimizers.Adam(1e-3), 1e-2),
        [],
    ),
    "UPGD": (mlp(), lambda: kp.optimizers.UPGD(1e-2), []),
    "projection": (mlp(norm="layer"), None, [lambda: kp.callbacks.FrobeniusProjection()]),
}

if __name__ == "__main__":
    for name, (build, optimizer, callbacks) in METHODS.items():
        if all(part in name for part in sys.argv[1:]):
            plain = trainer(mlp(), keras.optimizers.Adam(1e-3), BATCH)
            step = optimizer() if optimizer else keras.optimizers.Adam(1e-3)
            changed = trainer(build, step, BATCH, callbacks=[make() for make in callbacks])
            print(json.dumps({"method": name} | compare(plain, changed)), flush=True)
