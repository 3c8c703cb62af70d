"""Bandit of discount 0 with a softmax: which of ten actions is rewarded, then another.

Paper: Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks",
2024, section 4.4: a contextual bandit on images, one action each rewarded. With discount 0
and a cross-entropy the softmax saturates: when rewards change, the loss has a spike, which
label smoothing removes. No numbers are given.

Deviations: the rewards of all actions are seen, so that learning is classification and
exploration plays no part; digits; the rewarded action of each image moves by a permutation of
the ten actions at every task.
"""

import gin

from keras_plasticity import streams


@gin.configurable
def discount_zero_bandit(
    dataset: str = "kp_digits",
    data_dir: str | None = None,
    num_tasks: int = 10,
    examples: int | None = 1280,
    updates: int = 4000,
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
        name="discount_zero_bandit",
    )
