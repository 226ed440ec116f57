"""RecBole's NextItNet and its loss, as they come from PyPI, in the step of RecBole's trainer.

It trains on augmented prefixes: each row is the events before one target, so a step has one target a row however long
the rows are. Its data pipeline is not timed. The dilations [1, 4] of its blocks (each has a second convolution of
twice the dilation) are its default and give the same convolutions as elsewhere here.
"""

import importlib
import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from benchmarks.conditions import Conditions
from benchmarks.workload import DILATIONS, Workload

BATCHES = 4  # that a step takes in turn
SETTINGS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    # RecBole's own defaults of this model
    "kernel_size": 3,
    "dilations": [DILATIONS[0], DILATIONS[2]],
    "reg_weight": 1e-5,
    "loss_type": "CE",
}


@dataclass(frozen=True)
class Catalogue:
    """What RecBole's models ask of a data set: how many values a field has."""

    rows: int

    def num(self, field: str) -> int:
        """All fields here are item ids."""
        return self.rows


def load() -> ModuleType | None:
    """RecBole's module of NextItNet; None where it cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warnings are not ours to mend
        try:
            return importlib.import_module("recbole.model.sequential_recommender.nextitnet")
        except ImportError:
            return None


class RecBoleStep:
    """One training step of it a call: `calculate_loss`, backward, `torch.optim.Adam`, as in `Trainer._train_epoch`."""

    def __init__(self, workload: Workload, conditions: Conditions, *, module: ModuleType) -> None:
        torch.manual_seed(0)
        self._conditions = conditions
        blocks, rest = divmod(workload.convolutions, len(DILATIONS))
        if rest:
            raise ValueError(f"RecBole's blocks come in fours of convolutions, not {workload.convolutions}.")
        config = {
            **SETTINGS,
            "MAX_ITEM_LIST_LENGTH": workload.length,
            "embedding_size": workload.channels,
            "block_num": blocks,
            "device": torch.device(conditions.device),
        }
        build: Callable[..., torch.nn.Module] = module.NextItNet
        self.model = build(config, Catalogue(workload.vocabulary)).to(conditions.device)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, weight_decay=0.0)
        events = torch.from_numpy(workload.histories(BATCHES * workload.users)).to(conditions.device)
        self._batches = itertools.cycle(
            {"item_id_list": rows[:, :-1], "item_id": rows[:, -1]} for rows in events.split(workload.users)
        )
        self.targets = workload.users
        self.flops = workload.positions * workload.convolution_flops() + workload.users * workload.softmax_flops()

    def __call__(self) -> None:
        self._optimizer.zero_grad()
        with self._conditions.autocast():
            loss = self.model.calculate_loss(next(self._batches))  # type: ignore[operator]
        if math.isnan(loss.item()):  # the trainer looks at each loss
            raise ValueError("RecBole's loss is not a number.")
        loss.backward()
        self._optimizer.step()
