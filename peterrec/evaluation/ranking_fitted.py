"""A trained contestant that ranks items: its figures on the test events, measured, kept and read again."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import Examples
from peterrec.evaluation.cold_start import ColdStart
from peterrec.evaluation.cold_start_test import Measured
from peterrec.ranking_model import RankingModel
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.ranking import queries
from peterrec.transfer import Tested

_VALUE = "value "


@dataclass(frozen=True, kw_only=True)
class RankingFitted(Tested):
    """A trained contestant: its model, if that was asked for, and its figures on the test of its seed."""

    model: RankingModel | None
    measured: Measured


def pack_ranking(fitted: RankingFitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All but the model, as tensors and as what JSON holds."""
    measured = fitted.measured
    arrays = {"users": measured.users, "places": measured.places}
    arrays |= {f"{_VALUE}{name}": values for name, values in measured.values.items()}
    facts = {key: value for key, value in vars(fitted).items() if key not in ("model", "measured")}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    # the order of the figures, which a file of tensors does not keep
    return tensors, {"trained": facts, "coverage": measured.coverage, "names": list(measured.values)}


def unpack_ranking(kept: Checkpoint) -> RankingFitted:
    """What `pack_ranking` packed."""
    arrays = {name: tensor.numpy() for name, tensor in kept.tensors.items()}
    values = {name: arrays[f"{_VALUE}{name}"] for name in kept.facts["names"]}
    measured = Measured(arrays["users"], values, kept.facts["coverage"], arrays["places"])
    return RankingFitted(**kept.facts["trained"], model=None, measured=measured)


def measure_ranking(model: RankingModel, cold: ColdStart, *, seed: int, max_length: int) -> Measured:
    """What a model makes of the test events of a seed, on its own device. Raises DivergedError for scores of NaN."""
    device = next(model.parameters()).device
    pairs: PairedLogs = cold.pairs
    events = cold.events(cold.splits[seed].test)
    history = "mixed" if cold.mixed else "source"
    wanted = queries(model, pairs, Examples(events), history=history, max_length=max_length, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad():

        def score(rows: slice) -> Tensor:
            return model.head.scores(wanted[rows]).float()

        measured = cold.test(seed).measure(score, device=device)
    model.train(was_training)
    return measured
