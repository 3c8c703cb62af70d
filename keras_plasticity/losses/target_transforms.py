"""Functions that squeeze large targets, with their inverses."""

from __future__ import annotations

import typing

from keras import ops

_SLOPE = 0.001  # of `sqrt` for large targets, so that its inverse stays well conditioned


def symlog(y: typing.Any) -> typing.Any:
    """Returns `sign(y) * log(1 + |y|)`."""
    return ops.sign(y) * ops.log1p(ops.abs(y))


def symexp(x: typing.Any) -> typing.Any:
    """Returns `sign(x) * (exp(|x|) - 1)`, the inverse of `symlog`."""
    return ops.sign(x) * ops.expm1(ops.abs(x))


def sqrt(y: typing.Any) -> typing.Any:
    """Returns `sign(y) * (sqrt(|y| + 1) - 1) + 0.001 * y`."""
    return ops.sign(y) * (ops.sqrt(ops.abs(y) + 1) - 1) + _SLOPE * y


def inverse_sqrt(x: typing.Any) -> typing.Any:
    """Returns the inverse of `sqrt`.

    With `r = sqrt(|y| + 1)` and `c = 0.001` it solves `c * r**2 + r = |x| + 1 + c` for
    `r`, in the form of the root that subtracts no two like numbers.
    """
    right = ops.abs(x) + 1 + _SLOPE
    root = 2 * right / (ops.sqrt(1 + 4 * _SLOPE * right) + 1)
    return ops.sign(x) * (root - 1) * (root + 1)


def _same(y: typing.Any) -> typing.Any:
    return y


TRANSFORMS: dict[str | None, tuple[typing.Callable, typing.Callable]] = {
    None: (_same, _same),
    "symlog": (symlog, symexp),
    "sqrt": (sqrt, inverse_sqrt),
}
