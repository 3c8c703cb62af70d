"""Which weights decay, and toward what."""

from __future__ import annotations

import re
import typing

import keras

from keras_plasticity.surgery.weights import is_kernel


@keras.saving.register_keras_serializable(package="keras_plasticity")
class DecayPolicy:
    """Which weights decay, and toward what.

    Args:
        which: `"kernels"`: what multiplies inputs; no biases, no scales and offsets of
            normalisations. `"all"`: every trainable weight. Else a regular expression that is
            searched for in the path of a weight, `"dense_1/kernel"`. Default `"kernels"`.
        toward: `"zero"`, or `"initial"`: the values when the optimizer is built, which are saved
            with it. Default `"zero"`.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(self, which: str = "kernels", toward: str = "zero") -> None:
        if toward not in ("zero", "initial"):
            raise ValueError(f"`toward` must be 'zero' or 'initial'. Received: toward={toward!r}")
        try:
            self._pattern = re.compile(which)
        except (re.error, TypeError) as error:
            raise ValueError(
                "`which` must be 'kernels', 'all' or a regular expression. "
                f"Received: which={which!r}"
            ) from error
        self.which, self.toward = which, toward

    def chooses(self, variable: keras.Variable) -> bool:
        """Returns whether a trainable weight decays."""
        if self.which in ("kernels", "all"):
            return self.which == "all" or is_kernel(variable)
        return bool(self._pattern.search(variable.path))

    def chosen(self, variables: typing.Sequence[keras.Variable]) -> list[keras.Variable]:
        """Returns those that decay.

        Raises:
            ValueError: there are none.
        """
        found = [variable for variable in variables if self.chooses(variable)]
        if not found:
            paths = [variable.path for variable in variables]
            raise ValueError(f"`which={self.which!r}` chooses none of the weights {paths}")
        return found

    def __str__(self) -> str:
        which = self.which if self.which in ("kernels", "all") else f"weights like {self.which!r}"
        goal = "zero" if self.toward == "zero" else "their initial values"
        return f"{which if which != 'all' else 'all weights'} toward {goal}"

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"which": self.which, "toward": self.toward}

    @classmethod
    def from_config(cls, config: dict) -> DecayPolicy:
        """Makes one from `get_config`."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DecayPolicy) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((self.which, self.toward))


def checked_policy(policy: typing.Any) -> DecayPolicy:
    """Returns a policy, the default for None.

    Raises:
        ValueError: it is none.
    """
    if policy is not None and not isinstance(policy, DecayPolicy):
        raise ValueError(
            "`policy` must be a DecayPolicy, as kp.optimizers.DecayPolicy('all'). "
            f"Received: policy={policy!r}"
        )
    return policy or DecayPolicy()
