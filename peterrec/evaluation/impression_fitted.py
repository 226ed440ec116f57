"""A trained recipe on impressions with what it predicts for the test rows, and how a run keeps that."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.training.checkpoint import Checkpoint
from peterrec.transfer import Tested

_PREDICTED = "predicted "


@dataclass(frozen=True, kw_only=True)
class ImpressionFitted(Tested):
    """A trained contestant: its model, if that was asked for, and what it predicts for the test rows, by output."""

    predicted: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def pack_impressions(result: ImpressionFitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All of a result but the model, as tensors and as what JSON holds."""
    tensors = {f"{_PREDICTED}{name}": torch.from_numpy(values) for name, values in result.predicted.items()}
    facts = {key: value for key, value in vars(result).items() if key not in ("model", "predicted")}
    return tensors, {"trained": facts, "outputs": list(result.predicted)}


def unpack_impressions(kept: Checkpoint) -> ImpressionFitted:
    """What `pack_impressions` packed."""
    predicted = {name: kept.tensors[f"{_PREDICTED}{name}"].numpy() for name in kept.facts["outputs"]}
    return ImpressionFitted(**kept.facts["trained"], model=None, predicted=predicted)
