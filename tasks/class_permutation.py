"""Classes permuted: the same images, their classes renamed at random at each task.

Paper: Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks",
2024, section 4.2 (class permutation: the structure of the labels is kept; CIFAR-10).
The paper gives figures and no numbers.

Deviations: shorter by default, 400 updates a task and at least one epoch.
"""

import gin

from keras_plasticity import streams


@gin.configurable
def class_permutation(
    dataset: str = "kp_digits",
    data_dir: str | None = None,
    num_tasks: int = 30,
    examples: int | None = None,
    updates: int = 400,
    batch_size: int = 32,
    seed: int = 0,
) -> streams.Stream:
    """Returns the stream.

    Args:
        dataset: name of a tensorflow-datasets set of images with class labels.
        data_dir: where it is prepared. Default: tensorflow-datasets' own directory.
        num_tasks: number of tasks.
        examples: number of training images, None for all.
        updates: optimizer updates per task, rounded up to whole epochs.
        batch_size: examples per update.
        seed: of the permutations and of the order of examples.
    """
    source = streams.from_tfds(dataset, data_dir=data_dir, examples=examples)
    per_epoch = len(source.x_train) // batch_size
    return streams.make(
        source,
        num_tasks=num_tasks,
        transforms=[streams.PermuteLabels()],
        batch_size=batch_size,
        epochs=-(-updates // max(per_epoch, 1)),
        seed=seed,
        name="class_permutation",
    )
