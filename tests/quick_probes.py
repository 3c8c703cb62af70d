"""Every probe with few steps, for tests of what does not depend on their number."""

import functools
import inspect

from keras_plasticity import probes

FEW = {"steps": 8, "targets": 1, "vectors": 2, "jit_compile": False}


def quick(probe):
    known = inspect.signature(probe).parameters
    given = {name: value for name, value in FEW.items() if name in known}
    return functools.partial(probe, **given) if given else probe


QUICK = tuple(map(quick, probes.ALL))
