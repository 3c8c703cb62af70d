"""What acts on several mechanisms, with the line of code."""

from keras_plasticity.diagnosis.mechanism import Remedy

FORTIFY = Remedy(
    "layer normalisation before every nonlinearity, and L2, in a copy of a network that exists",
    'strong = kp.fortify(model, decay=1e-5, form="l2")',
)
NORM = Remedy(
    "layer normalisation before every nonlinearity, without learned scale and offset",
    'kp.models.mlp(shape, outputs, norm="layer", affine=False)',
)
DECAY = Remedy(
    "L2 on the kernels (coupled; AdamW's decay is multiplied by the learning rate)",
    "kp.optimizers.Regularized(optimizer, [keras.regularizers.L2(1e-4)])",
)
SHRINK = Remedy(
    "shrink all weights and perturb them at task boundaries",
    "kp.callbacks.ShrinkAndPerturb(shrink=0.6, perturb=0.01)",
)
PARSEVAL = Remedy(
    "orthogonal units; a `DecayPolicy` as third argument leaves the first and last kernel out",
    "kp.optimizers.Regularized(optimizer, [kp.regularizers.ParsevalRegularizer(1e-3)])",
)
ORTHOGONAL = Remedy("orthogonal kernels at task boundaries", "kp.callbacks.OrthogonalReset()")
