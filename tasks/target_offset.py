"""Regression on large targets: memorise c + noise, then new noise at the same c.

Paper: Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024
(MNIST, CIFAR-10; no numbers): with the squared error a network learns new noise the worse the
larger c is; a two-hot loss mends it; layer normalisation bounds the features' first singular
value. Deviations: 320 digits, and noise of deviation 1.
"""

import gin

from keras_plasticity import streams


@gin.configurable
def target_offset(
    offset: float = 0.0,
    dataset: str = "kp_digits",
    data_dir: str | None = None,
    num_tasks: int = 6,
    examples: int | None = 320,
    updates: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
) -> streams.Stream:
    """Returns the stream.

    Args:
        offset: c.
        dataset: name of a tensorflow-datasets set of images.
        data_dir: where it is prepared. Default: tensorflow-datasets' own directory.
        num_tasks: all but the last are parts of one, with the first noise.
        examples: number of training images, None for all.
        updates: optimizer updates per task, rounded up to whole epochs.
        batch_size: examples per update.
        seed: of the noise and of the order of examples.
    """
    source = streams.from_tfds(dataset, data_dir=data_dir, examples=examples)
    per_epoch = len(source.x_train) // batch_size
    return streams.make(
        source,
        num_tasks=num_tasks,
        transforms=[streams.RedrawTargets(offset, hold=max(1, num_tasks - 1))],
        batch_size=batch_size,
        epochs=-(-updates // max(per_epoch, 1)),
        seed=seed,
        name="target_offset",
    )


@gin.configurable
def edge(offset: float = gin.REQUIRED, distance: float = gin.REQUIRED) -> float:
    """Returns the end of a range of targets, that far from the offset."""
    return offset + distance
