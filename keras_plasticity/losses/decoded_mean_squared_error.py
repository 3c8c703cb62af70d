"""The squared error in units of the targets, whatever the loss is."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.losses.shapes import squared_errors


@keras.saving.register_keras_serializable(package="keras_plasticity")
class DecodedMeanSquaredError(keras.metrics.Mean):
    """Mean of `(y - loss.decode(outputs))**2`, in squared units of the targets.

    Networks trained with different losses can be compared by it. For a loss without `decode`
    outputs are values already.

    Example:

    ```python
    loss = kp.losses.HLGauss(-10.0, 10.0, 51)
    model.compile("adam", loss, metrics=[kp.losses.DecodedMeanSquaredError(loss)])
    ```

    Args:
        loss: the loss that the network is trained with: a Keras loss, or its name. Default
            None: outputs are values.
        name: str. Default `"squared_error"`.
        dtype: as in Keras. Default None.
    """

    def __init__(
        self, loss: typing.Any = None, name: str = "squared_error", dtype: typing.Any = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.loss = keras.losses.get(loss)

    def update_state(
        self, y_true: typing.Any, y_pred: typing.Any, sample_weight: typing.Any = None
    ) -> None:
        """Takes a batch.

        Args:
            y_true: targets, shape `(batch, ...)`.
            y_pred: outputs of the network.
            sample_weight: weights of examples, or None.
        """
        super().update_state(squared_errors(self.loss, y_true, y_pred), sample_weight)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        loss = keras.saving.serialize_keras_object(self.loss)
        return {**super().get_config(), "loss": loss}

    @classmethod
    def from_config(cls, config: dict) -> DecodedMeanSquaredError:
        """Makes one from `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config))
