"""Weights that stay as they are."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from peterrec.balancing.balancer import Balancer
from peterrec.errors import SettingsError, did_you_mean


class Static(Balancer):
    """Loss t times a number of its own, 1 where `weights` does not name it among `names`.

    Raises SettingsError for a name that no objective has.
    """

    def __init__(self, names: Sequence[str], *, weights: Mapping[str, float]):
        super().__init__(len(names))
        for name in weights:
            if name not in names:
                raise SettingsError(f"balancing.weights: there is no objective {name!r}. {did_you_mean(name, names)}")
        self.given: Tensor
        self.register_buffer("given", torch.tensor([weights.get(name, 1.0) for name in names]))

    def weights(self) -> Tensor:
        return self.given
