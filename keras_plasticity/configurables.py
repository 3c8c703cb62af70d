"""Makes the public classes and functions known to gin. The only file that knows gin.

Bindings name them without a module: `mlp.norm = "layer"`, `Adam.learning_rate = 1e-3`.
The decorator form of gin would break Keras layers and change direct calls, so
everything is registered from outside.
"""

import gin

if not hasattr(gin, "configurable"):  # an empty folder named gin was imported instead
    raise ImportError(
        "gin-config is not installed (`import gin` found a folder of that name). "
        "Install it: pip install gin-config"
    )

import keras

from keras_plasticity import (
    callbacks,
    constraints,
    experiment,
    layers,
    losses,
    models,
    optimizers,
    probes,
    regularizers,
    streams,
    surgery,
    sweep,
)

_KERAS = (
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.Flatten,
    keras.layers.LayerNormalization,
    keras.layers.ReLU,
    keras.optimizers.AdamW,
    keras.optimizers.RMSprop,
    keras.optimizers.SGD,
    keras.optimizers.schedules.CosineDecay,
    keras.optimizers.schedules.ExponentialDecay,
    keras.regularizers.L1,
    keras.regularizers.L2,
    keras.regularizers.OrthogonalRegularizer,
    keras.losses.CategoricalCrossentropy,
    keras.losses.Huber,
    keras.losses.MeanSquaredError,
    keras.losses.SparseCategoricalCrossentropy,
)
_OURS = (
    models.mlp,
    models.cnn,
    models.resnet18,
    models.vit,
    optimizers.Adam,  # with its defaults Keras' own, bit for bit
    optimizers.adamw,
    optimizers.DecayPolicy,
    optimizers.DecoupledDecay,
    optimizers.GradientNoise,
    optimizers.Regularized,
    optimizers.UPGD,
    constraints.WeightClipping,
    constraints.constrained,
    callbacks.ChurnReduction,
    callbacks.ContinualBackprop,
    callbacks.FreshNetwork,
    callbacks.FrobeniusProjection,
    callbacks.GradientDormancyReset,
    callbacks.GradientNormPenalty,
    callbacks.HareAndTortoise,
    callbacks.LayerReset,
    callbacks.Monitor,
    callbacks.OptimizerReset,
    callbacks.OrthogonalReset,
    callbacks.PlasticityAlarm,
    callbacks.PlasticityInjection,
    callbacks.PopArtUpdate,
    callbacks.ReDo,
    callbacks.ScheduledRescaling,
    callbacks.SelectiveWeightReinit,
    callbacks.SelfNormalizedResets,
    callbacks.ShrinkAndPerturb,
    callbacks.SoftReset,
    callbacks.StatisticsReset,
    streams.from_tfds,
    streams.make,
    streams.ClassSubset,
    streams.GaussianNoise,
    streams.Gradual,
    streams.Grow,
    streams.LabelNoise,
    streams.PermuteLabels,
    streams.PermutePixels,
    streams.RedrawTargets,
    streams.ResetLabels,
    streams.Rotate,
    streams.Subsample,
    surgery.injected,
)
_ROOMS = (layers, losses, regularizers)  # all of what is in them
_OURS += tuple(getattr(room, name) for room in _ROOMS for name in room.__all__)
for _member in (*_KERAS, *_OURS):
    gin.external_configurable(_member)

for _probe in (*probes.ALL, probes.rank_ceiling, probes.feature_top_singular_value):
    gin.external_configurable(_probe)
gin.constant("probes.ALL", probes.ALL)  # Monitor.probes = %probes.ALL
gin.constant("probes.DEFAULT", probes.DEFAULT)

run = gin.external_configurable(experiment.run)
run_sweep = gin.external_configurable(sweep.sweep)
