"""Labels reset: memorise fresh random labels of the same images, task after task.

Paper: Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks",
2024, section 4.2 (per-example label reset; CIFAR-10, 20-100 tasks of 50,000-100,000
updates with Adam; MLP, CNN, ResNet-18). The paper gives figures and no numbers: layer
normalisation with weight decay keeps training accuracy, neither alone does.

Deviations: far smaller by default, so that it runs in minutes on a CPU: 1,280 images
and 1,600 updates a task.
"""

import gin

from keras_plasticity import streams


@gin.configurable
def label_reset(
    dataset: str = "kp_digits",
    data_dir: str | None = None,
    num_tasks: int = 40,
    fraction: float = 1.0,
    examples: int | None = 1280,
    updates: int = 1600,
    batch_size: int = 32,
    seed: int = 0,
) -> streams.Stream:
    """Returns the stream.

    Args:
        dataset: name of a tensorflow-datasets set of images with class labels.
        data_dir: where it is prepared. Default: tensorflow-datasets' own directory.
        num_tasks: number of tasks.
        fraction: share of the labels that is drawn anew at each task.
        examples: number of training images, None for all.
        updates: optimizer updates per task, rounded up to whole epochs.
        batch_size: examples per update.
        seed: of the labels and of the order of examples.
    """
    source = streams.from_tfds(dataset, data_dir=data_dir, examples=examples)
    per_epoch = len(source.x_train) // batch_size
    return streams.make(
        source,
        num_tasks=num_tasks,
        transforms=[streams.ResetLabels(fraction)],
        batch_size=batch_size,
        epochs=-(-updates // max(per_epoch, 1)),
        seed=seed,
        name="label_reset",
    )
