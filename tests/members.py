"""One row per member; every contract of test_contracts.py runs over these tables."""

import keras

import keras_plasticity as kp

TRANSFORMS = {
    "ClassSubset": lambda: kp.streams.ClassSubset(2),
    "GaussianNoise": lambda: kp.streams.GaussianNoise(0.1),
    "Gradual": lambda: kp.streams.Gradual(kp.streams.PermutePixels(), over=0.5),
    "Grow": lambda: kp.streams.Grow(0.5),
    "LabelNoise": lambda: kp.streams.LabelNoise(0.3),
    "PermuteLabels": lambda: kp.streams.PermuteLabels(),
    "PermutePixels": lambda: kp.streams.PermutePixels(),
    "RedrawTargets": lambda: kp.streams.RedrawTargets(10.0),
    "ResetLabels": lambda: kp.streams.ResetLabels(0.5),
    "Rotate": lambda: kp.streams.Rotate(90.0),
    "Subsample": lambda: kp.streams.Subsample(0.5),
}
MODELS = {
    "mlp": lambda **o: kp.models.mlp((8, 8, 1), 4, widths=(8,), **o),
    "cnn": lambda **o: kp.models.cnn((8, 8, 1), 4, filters=(4,), dense=(8,), **o),
    "resnet18": lambda **o: kp.models.resnet18((8, 8, 1), 4, width=4, **o),
    "vit": lambda **o: kp.models.vit((8, 8, 1), 4, dim=8, depth=1, heads=2, **o),
}
LAYERS = {
    "AdaLin": (lambda: kp.layers.AdaLin("tanh", "ones"), (4, 6)),
    "CReLU": (lambda: kp.layers.CReLU(), (4, 6)),
    "CenterScale": (lambda: kp.layers.CenterScale("batch", "feature", True), (4, 6)),
    "DeepFourier": (lambda: kp.layers.DeepFourier(), (4, 6)),
    "Diagonal": (lambda: kp.layers.Diagonal(), (4, 6)),
    "Dropout": (lambda: kp.layers.Dropout(0.5, seed=1), (4, 6)),
    "HadamardDense": (lambda: kp.layers.HadamardDense(5), (4, 6)),
    "NormalizedConv2D": (lambda: kp.layers.NormalizedConv2D(4, 3), (2, 5, 5, 3)),
    "NormalizedDense": (lambda: kp.layers.NormalizedDense(5), (4, 6)),
    "NormalizedLogits": (lambda: kp.layers.NormalizedLogits(6), (4, 6)),
    "PopArt": (lambda: kp.layers.PopArt(6), (4, 6)),
    "PositionEmbedding": (lambda: kp.layers.PositionEmbedding(), (4, 3, 6)),
    "RMSNormalization": (lambda: kp.layers.RMSNormalization(affine=False), (4, 6)),
    "Rational": (lambda: kp.layers.Rational(), (4, 6)),
    "SmoothLeakyReLU": (lambda: kp.layers.SmoothLeakyReLU(), (4, 6)),
    "UnitBall": (lambda: kp.layers.UnitBall(), (4, 6)),
    "WeightStandardization": (
        lambda: kp.layers.WeightStandardization(keras.layers.Dense(5)),
        (4, 6),
    ),
}
OPTIMIZERS = {
    "Adam": lambda: kp.optimizers.Adam(1e-2, per_unit_steps=True),
    "Adam per weight": lambda: kp.optimizers.Adam(1e-2, per_weight_steps=True, epsilon_inside=True),
    "DecoupledDecay": lambda: kp.optimizers.DecoupledDecay(
        keras.optimizers.Adam(1e-2), 0.1, kp.optimizers.DecayPolicy("all", "initial")
    ),
    "GradientNoise": lambda: kp.optimizers.GradientNoise(keras.optimizers.SGD(1e-2)),
    "Regularized": lambda: kp.optimizers.Regularized(
        keras.optimizers.Adam(1e-2), [make() for make in REGULARIZERS.values()]
    ),
    "UPGD": lambda: kp.optimizers.UPGD(1e-2, 0.1, seed=1),
    "UPGD adam": lambda: kp.optimizers.UPGD(1e-2, 0.1, adam=True, scope="local", seed=1),
    "adamw": lambda: kp.optimizers.adamw(1e-2, 0.1),
    "keras.Adam": keras.optimizers.Adam,
}
REGULARIZERS = {
    "FeatureNorm": lambda: kp.regularizers.FeatureNorm(1e-2),
    "L2Init": lambda: kp.regularizers.L2Init(1e-2),
    "ParsevalRegularizer": lambda: kp.regularizers.ParsevalRegularizer(1e-2),
    "SpectralRegularizer": lambda: kp.regularizers.SpectralRegularizer(1e-2),
    "WassersteinInit": lambda: kp.regularizers.WassersteinInit(1e-2),
}
CONSTRAINTS = {"WeightClipping": lambda: kp.constraints.WeightClipping(1.0)}
LOSSES = {
    "HLGauss": lambda: kp.losses.HLGauss(-3.0, 3.0, 7, grid="centres"),
    "SmoothedSparseCategoricalCrossentropy": lambda: (
        kp.losses.SmoothedSparseCategoricalCrossentropy(0.1, 0.01)
    ),
    "TargetNormalization": lambda: kp.losses.TargetNormalization(1.0, 2.0),
    "TwoHot": lambda: kp.losses.TwoHot(-3.0, 3.0, 7, "symlog"),
}

C = kp.callbacks
# Name: (acts within 6 updates, strength zero, what it may change).
INTERVENTIONS = {
    "ChurnReduction": (
        lambda: C.ChurnReduction(0.5, 2, 8),
        lambda: C.ChurnReduction(0.0),
        "weights",
    ),
    "ContinualBackprop": (
        lambda: C.ContinualBackprop(0.05, maturity=2, decay=0.9),
        lambda: C.ContinualBackprop(rate=0.0),
        "units",
    ),
    "FrobeniusProjection": (
        lambda: C.FrobeniusProjection(2),
        lambda: C.FrobeniusProjection(None),
        "weights",
    ),
    "GradientDormancyReset": (
        lambda: C.GradientDormancyReset(3, 0.9, batches=2),
        lambda: C.GradientDormancyReset(3, 0.9, batches=2, max_fraction=0.0),
        "units",
    ),
    "GradientNormPenalty": (
        lambda: C.GradientNormPenalty(0.1, 2),
        lambda: C.GradientNormPenalty(0.0),
        "weights",
    ),
    "HareAndTortoise": (
        lambda: C.HareAndTortoise(0.9, 3, "step"),
        lambda: C.HareAndTortoise(period=None),
        "weights",
    ),
    "LayerReset": (
        lambda: C.LayerReset(),
        lambda: C.LayerReset(period=None),
        "weights",
    ),
    "OptimizerReset": (
        lambda: C.OptimizerReset(3, "step"),
        lambda: C.OptimizerReset(period=None),
        "optimizer",
    ),
    "OrthogonalReset": (
        lambda: C.OrthogonalReset(1, "epoch"),
        lambda: C.OrthogonalReset(period=None),
        "weights",
    ),
    "PlasticityInjection": (
        lambda: C.PlasticityInjection(5, "step"),
        lambda: C.PlasticityInjection(None),
        "weights",
    ),
    "ReDo": (
        lambda: C.ReDo(3, 0.7, batches=2),
        lambda: C.ReDo(3, 0.7, batches=2, max_fraction=0.0),
        "units",
    ),
    "ScheduledRescaling": (
        lambda: C.ScheduledRescaling(0.1, 2),
        lambda: C.ScheduledRescaling(0.0),
        "weights",
    ),
    "SelectiveWeightReinit": (
        lambda: C.SelectiveWeightReinit(3, 0.2),
        lambda: C.SelectiveWeightReinit(3, 0.0),
        "weights",
    ),
    "SelfNormalizedResets": (
        lambda: C.SelfNormalizedResets(initial_threshold=4, min_threshold=4, max_threshold=8),
        lambda: C.SelfNormalizedResets(initial_threshold=None),
        "units",
    ),
    "ShrinkAndPerturb": (
        lambda: C.ShrinkAndPerturb(3, "step"),
        lambda: C.ShrinkAndPerturb(3, "step", shrink=1, perturb=0),
        "weights",
    ),
    "SoftReset": (
        lambda: C.SoftReset(0.99, spread=0.5),
        lambda: C.SoftReset(1.0),
        "weights",
    ),
}
CALLBACKS = {
    "FreshNetwork": lambda: C.FreshNetwork(1),
    "PopArtUpdate": lambda: C.PopArtUpdate(),
    "StatisticsReset": lambda: C.StatisticsReset(),
}
CALLBACKS |= {name: make for name, (make, _, _) in INTERVENTIONS.items()}
