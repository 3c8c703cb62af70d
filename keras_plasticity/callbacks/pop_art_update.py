"""Shows targets to PopArt layers before each update."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.hooks import InGraphCallback
from keras_plasticity.layers.pop_art import PopArt


class PopArtUpdate(InGraphCallback):
    """Lets `kp.layers.PopArt` follow the targets, inside the training step.

    Before every optimizer update the statistics take the targets of its batch, and kernel and
    bias of the layer are rescaled so that its outputs stay; then the network is trained. Works
    in `fit`, with any `steps_per_execution`, and in fused steps. The statistics are weights of
    the layer, saved and loaded with the model. Weights of examples are not looked at.

    Raises:
        ValueError: from `fit`, if the model does not end in one `PopArt` layer. Of subclassed
            models, whose order of computation is not known, only the number of such layers
            is checked.
    """

    def build(self, model: keras.Model) -> None:
        """Finds the layer."""
        found = [layer for layer in model._flatten_layers() if isinstance(layer, PopArt)]
        if len(found) != 1:
            raise ValueError(
                "`PopArtUpdate` needs a model with one `kp.layers.PopArt` layer, its last. "
                f"Received: a model with {len(found)}"
            )
        last = _last(getattr(model, "outputs", None))
        if last is not None and last is not found[0]:
            raise ValueError(
                "`PopArtUpdate` needs a model whose output is that of its `kp.layers.PopArt` "
                f"layer and no other. Received: a model that ends in {last}"
            )
        self._layer = found[0]

    def before_step(self, x: typing.Any, y: typing.Any, sample_weight: typing.Any) -> None:
        """Traced before each update."""
        self._layer.update(y)

    @property
    def variables(self) -> list:
        """None: the statistics are weights of the layer."""
        return []

    def get_config(self) -> dict:
        """Returns the arguments of the constructor: none."""
        return {}


def _last(outputs: typing.Any) -> typing.Any:
    """The operation that makes the output, a list for several outputs; None if not known."""
    if not outputs:
        return None
    histories = [out._keras_history for out in outputs]
    last = [history.operation for history in histories]
    if len(last) > 1:
        return last
    if isinstance(last[0], keras.Model):  # nested
        inner = getattr(last[0], "outputs", None)
        return _last(inner and [inner[histories[0].tensor_index]])
    return last[0]
