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
    experiment,
    models,
    optimizers,
    probes,
    streams,
    surgery,
    sweep,
)

_KERAS = (
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
    callbacks.ContinualBackprop,
    callbacks.FreshNetwork,
    callbacks.GradientDormancyReset,
    callbacks.HareAndTortoise,
    callbacks.LayerReset,
    callbacks.Monitor,
    callbacks.OptimizerReset,
    callbacks.OrthogonalReset,
    callbacks.PlasticityAlarm,
    callbacks.PlasticityInjection,
    callbacks.ReDo,
    callbacks.SelectiveWeightReinit,
    callbacks.SelfNormalizedResets,
    callbacks.ShrinkAndPerturb,
    callbacks.SoftReset,
    streams.from_tfds,
    streams.make,
    streams.ClassSubset,
    streams.GaussianNoise,
    streams.Gradual,
    streams.Grow,
    streams.LabelNoise,
    streams.PermuteLabels,
    streams.PermutePixels,
    streams.ResetLabels,
    streams.Rotate,
    streams.Subsample,
    surgery.injected,
)
for _member in (*_KERAS, *_OURS):
    gin.external_configurable(_member)

for _probe in probes.ALL:
    gin.external_configurable(_probe)
gin.constant("probes.ALL", probes.ALL)  # Monitor.probes = %probes.ALL
gin.constant("probes.DEFAULT", probes.DEFAULT)

run = gin.external_configurable(experiment.run)
run_sweep = gin.external_configurable(sweep.sweep)
