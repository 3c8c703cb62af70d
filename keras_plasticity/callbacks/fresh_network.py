"""The control of every comparison: a fresh network at every task."""

from __future__ import annotations

import keras

from keras_plasticity import surgery


class FreshNetwork(keras.callbacks.Callback):
    """Starts every task after the first from a newly initialised network.

    All weights are drawn anew by their own initializers and the optimizer's state
    goes back to its start. The gap between a method and this control separates loss
    of plasticity from tasks that merely get harder. It uses task boundaries, and
    needs `experiment.run`, which announces them.

    Example:

    ```python
    kp.experiment.run(stream, kp.models.mlp, keras.optimizers.Adam(),
                      callbacks=[kp.callbacks.FreshNetwork()], run_dir="runs/fresh")
    ```

    Args:
        seed: int, the weights of task `t` are a function of `(seed, t)`. Default 0.
    """

    def __init__(self, seed: int = 0):
        super().__init__()
        self.seed = seed

    def on_task_begin(self, task, model):
        """Draws the network anew; called by `experiment.run` before each task."""
        if task.index == 0:
            return
        surgery.reinitialize(model, f"{self.seed}/{task.index}")
        surgery.reset_optimizer(model.optimizer, model.trainable_variables)

    def get_config(self) -> dict:
        return {"seed": self.seed}
