"""What each kind of operation does to units: one rule a kind, in two tables.

A rule is a function `(walk, step)`. It gives labels to the step's outputs, hands the
kernel that reads an input to `Walk.read` and the units that begin to `Walk.begin`.
"""

from __future__ import annotations

import collections.abc
import typing

import keras

from keras_plasticity import layers as own_layers
from keras_plasticity.units.rules import (
    attention,
    elementwise,
    kernels,
    layout,
    merges,
    norms,
    own,
    recurrent,
)
from keras_plasticity.units.trace import Kind, Step
from keras_plasticity.units.walk import Walk

Rule = collections.abc.Callable[[Walk, Step], None]
_layers = keras.layers


def _each(names: str, rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


_keep = elementwise.keep(Kind.MEAN)  # as dropout does, in expectation
_same = elementwise.keep(elementwise.SAME)
_scale = elementwise.keep(Kind.FOLLOW)
_nonlinear = elementwise.keep(Kind.NONLINEAR)
_pool = elementwise.spatial(Kind.PLAIN)
_average = elementwise.spatial(Kind.MEAN)

# Names in `keras.layers`; those a version of Keras does not have are left out.
_LAYERS: dict[str, Rule] = {
    "Dense": kernels.dense,
    "EinsumDense": kernels.einsum_dense,
    "Embedding": kernels.embedding,
    **_each("Conv1D Conv2D Conv3D", kernels.conv),
    **_each("Conv1DTranspose Conv2DTranspose Conv3DTranspose", kernels.conv_transpose),
    **_each("DepthwiseConv1D DepthwiseConv2D", kernels.depthwise),
    **_each("SeparableConv1D SeparableConv2D", kernels.separable),
    **_each("MultiHeadAttention GroupQueryAttention", attention.multi_head),
    **_each("Attention AdditiveAttention", attention.dot_product),
    **_each("LSTM GRU SimpleRNN", recurrent.recurrent),
    "Bidirectional": recurrent.bidirectional,
    "TimeDistributed": recurrent.time_distributed,
    "BatchNormalization": norms.batch,
    "LayerNormalization": norms.layer_norm,
    "GroupNormalization": norms.group_norm,
    "RMSNormalization": norms.rms_norm,
    **_each("UnitNormalization Softmax Masking", norms.along_axis),
    "Normalization": norms.constant,
    "Activation": elementwise.activation,
    "PReLU": elementwise.prelu,
    **_each("ReLU LeakyReLU ELU", _nonlinear),
    **_each("Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D", _keep),
    **_each("GaussianDropout GaussianNoise", _keep),
    "AlphaDropout": elementwise.keep(Kind.PLAIN),
    **_each("ActivityRegularization Identity", _same),
    "Rescaling": _scale,
    **{
        f"{kind}{n}D": rule
        for n in (1, 2, 3)
        for kind, rule in (
            ("MaxPooling", _pool),
            ("GlobalMaxPooling", _pool),
            ("AdaptiveMaxPooling", _pool),
            ("ZeroPadding", _pool),
            ("Cropping", _pool),
            ("AveragePooling", _average),
            ("GlobalAveragePooling", _average),
            ("AdaptiveAveragePooling", _average),
            ("UpSampling", _average),
        )
    },
    "Resizing": _pool,
    **_each("Flatten Reshape", layout.reshape),
    "Permute": layout.permute,
    "RepeatVector": layout.repeat_vector,
    "Concatenate": layout.concatenate,
    "Add": merges.sums("added to"),
    "Subtract": merges.sums("subtracted with"),
    "Average": merges.sums("averaged with"),
    "Maximum": merges.elementwise,
    "Minimum": merges.elementwise,
    "Multiply": merges.product,
}

LAYERS: dict[type, Rule] = {
    getattr(_layers, name): rule for name, rule in _LAYERS.items() if hasattr(_layers, name)
} | {
    own_layers.Dropout: _keep,
    own_layers.RMSNormalization: norms.rms_norm,
    own_layers.CenterScale: own.center_scale,
    own_layers.NormalizedDense: kernels.dense,
    own_layers.NormalizedConv2D: kernels.conv,
    own_layers.WeightStandardization: own.standardized,
    own_layers.HadamardDense: own.hadamard,
    own_layers.NormalizedAttention: attention.multi_head,
    own_layers.UnitBall: norms.along_axis,
    own_layers.CReLU: own.doubled,
    own_layers.DeepFourier: own.doubled,
    own_layers.AdaLin: own.adalin,
    own_layers.Rational: _nonlinear,
    own_layers.SmoothLeakyReLU: _nonlinear,
    own_layers.Diagonal: own.diagonal,
    own_layers.NormalizedLogits: own.normalized_logits,
    own_layers.PopArt: own.pop_art,
}

# Names of classes in `keras.src.ops`, which has no public ones.
OPERATIONS: dict[str, Rule] = {
    **_each(
        "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus "
        "LogSigmoid LeakyRelu HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh "
        "HardShrink Threshold Absolute Abs Fabs Arccos Arccosh Arcsin Arcsinh Arctan Arctanh Cbrt "
        "Ceil Clip Cos Cosh Erf Erfc Erfinv Exp Exp2 Expm1 Floor Log Log10 Log1p Log2 NanToNum "
        "Reciprocal Round Rsqrt Sign Sin Sinc Sinh Sqrt Square Tan Tanh Trunc",
        _nonlinear,
    ),
    **_each("Cast ConvertToTensor Copy SaturateCast StopGradient", _same),
    "Negative": _scale,
    **_each("Softmax LogSoftmax Sparsemax Normalize RMSNorm LayerNorm", norms.along_axis),
    "Add": merges.sums("added to"),
    "Subtract": merges.sums("subtracted with"),
    "Multiply": merges.product,
    **_each("Divide TrueDivide DivideNoNan", merges.quotient),
    **_each("Maximum Minimum Power", merges.elementwise),
    **_each("MaxPool Resize", _pool),
    "AveragePool": _average,
    "Einsum": merges.einsum,
    "Matmul": merges.matmul,
    "DotProductAttention": attention.dot_product,
    **_each("Reshape ExpandDims Squeeze Ravel", layout.reshape),
    **_each("Transpose Swapaxes Moveaxis", layout.permute),
    "GetItem": layout.get_item,
    "Split": layout.split,
    "Flip": layout.flip,
    "Roll": layout.roll,
    "Repeat": layout.repeat,
    "BroadcastTo": layout.broadcast,
    "Concatenate": layout.concatenate,
    "Stack": layout.stack,
    **_each("Mean Sum Max Min Amax Amin Prod Std Var Median Logsumexp", layout.reduce),
}

# Rules that look at all inputs; with the others only the first may have units.
_ALL_INPUTS = {
    attention.multi_head,
    attention.dot_product,
    layout.concatenate,
    layout.stack,
    merges.product,
    merges.quotient,
    merges.elementwise,
    merges.einsum,
    merges.matmul,
    *(rule for name, rule in _LAYERS.items() if name in ("Add", "Subtract", "Average")),
    *(OPERATIONS[name] for name in ("Add", "Subtract")),
}

# What a subclass may define anew without changing what its layer computes.
_HARMLESS = {"build", "build_from_config", "compute_mask", "compute_output_shape"} | {
    "compute_output_spec",
    "from_config",
    "get_build_config",
    "get_config",
    "load_own_variables",
    "save_own_variables",
}


def find(operation: keras.Operation) -> Rule | None:
    """Returns the rule of an operation, or None if it is not known."""
    found = type(operation)
    if not isinstance(operation, keras.layers.Layer):
        known = found.__module__.startswith("keras.src.ops.")
        return OPERATIONS.get(found.__name__) if known else None
    for ancestor in found.__mro__:
        if ancestor in LAYERS:
            return LAYERS[ancestor] if _unchanged(found, ancestor) else None
    return None


def apply(walk: Walk, step: Step) -> None:
    """Applies the rule of a step; units that enter what is not understood are blocked."""
    rule = find(step.operation)
    kind = type(step.operation).__name__
    for x in keras.tree.flatten((step.args, step.kwargs)):
        if isinstance(x, keras.Variable):
            walk.used[id(x)] = step.name
    if rule is None:
        for variable in getattr(step.operation, "variables", ()):
            walk.used[id(variable)] = step.name
        walk.note(step)
        for x in step.inputs:
            walk.block(x.labels, f"read by {step.name} ({kind}), which is not understood")
        return
    rule(walk, step)
    if rule not in _ALL_INPUTS:
        for x in step.inputs[1:]:
            walk.block(x.labels, f"enters {step.name} ({kind}) beside its first input")


def _unchanged(found: type, ancestor: typing.Any) -> bool:
    """Whether a subclass computes what the class of the rule does."""
    for cls in found.__mro__[: found.__mro__.index(ancestor)]:
        names = {n for n in vars(cls) if not n.startswith("__") and n not in _HARMLESS}
        if any(hasattr(ancestor, name) for name in names) or "__call__" in vars(cls):
            return False
    return True
