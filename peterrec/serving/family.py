"""Adapters of several tasks inside one encoder, so that their requests share a batch."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from peterrec.adapter_file import add_adapter_from
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.errors import RefusedError
from peterrec.serving.engine import Engine, Route
from peterrec.serving.histories import Histories
from peterrec.serving.passes import Want, user_vectors
from peterrec.serving.shared_encoder import twin_of
from peterrec.tuners.mixing import HEARING

PROBED, EVENTS = 3, 9  # histories that are tried for each adapter, and their events at most
RELATIVE, ABSOLUTE = 1e-4, 1e-5


@dataclass(frozen=True, eq=False)
class Family:
    """A PeftModel with the adapters of some tasks, by the names that they have in it.

    It never changes: one with an adapter more, or less, is another one on the same tensors. So whoever computes with
    this one goes on undisturbed.
    """

    engine: Engine
    model: PeftModel

    @classmethod
    def of(cls, model: PeftModel) -> "Family":
        """That of a task's own model, which holds one adapter."""
        return cls(Engine(model, model.get_base_model(), tuple(model.peft_config)), model)

    @property
    def mixes(self) -> bool:
        """Whether the method of its adapters may give each row of a batch its own."""
        return all(_method(config) in HEARING for config in self.model.peft_config.values())

    def joined_by(self, newcomer: "Family", folder: Path, *, name: str, route: Route, others: list[Route]) -> "Family":
        """This family with the adapter of `folder` in it too, called `name`.

        `newcomer` is that adapter alone, which `route` reads; `others` read the adapters that are here. Each of them is
        tried, in a batch of all, against what it gives now. Raises RefusedError where the adapters cannot be in one
        model, or would not give the same in a mixed batch.
        """
        if not (self.mixes and newcomer.mixes):
            raise RefusedError("their method gives every row of a batch the same adapter.")
        methods = {_method(config) for one in (self, newcomer) for config in one.model.peft_config.values()}
        if len(methods) > 1:
            raise RefusedError(f"they are of different methods, {' and '.join(sorted(methods))}.")
        model: PeftModel = twin_of(self.model)
        try:
            add_adapter_from(model, folder, adapter_name=name)
            model.requires_grad_(False)
            both = Family.of(model.eval())
            alone = [*others, route]
            mixed = [Route(both.engine, one.reader, one.reading, one.adapter) for one in others]
            mixed.append(Route(both.engine, route.reader, route.reading, name))
            same = _agree(alone, mixed, rows=both.engine.base.config.vocab_size, model=model)
        except (ValueError, NotImplementedError) as problem:  # peft's ways to say that a method cannot do this
            raise RefusedError(f"{problem}") from problem
        if not same:
            raise RefusedError("they would give other predictions in a mixed batch.")
        return both

    def without(self, name: str) -> "Family | None":
        """This family without an adapter; None where no other is left."""
        left = [one for one in self.engine.names if one != name]
        if not left:
            return None
        model: PeftModel = twin_of(self.model)
        model.set_adapter(left[0])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was active which is now deleted.*")
            model.delete_adapter(name)
        model.requires_grad_(False)
        return Family.of(model.eval())


def _method(config: object) -> str:
    kind = getattr(config, "peft_type", "")
    return str(getattr(kind, "value", kind))


def _agree(alone: list[Route], mixed: list[Route], *, rows: int, model: PeftModel) -> bool:
    """Whether all routes of a mixed batch give what each gives alone, on some histories."""
    random = np.random.default_rng(0)
    lengths = np.array([EVENTS, EVENTS // 2, 1][:PROBED])
    items = random.integers(min(FIRST_ITEM, rows - 1), rows, int(lengths.sum()))
    histories, every = Histories(items, lengths), np.arange(len(lengths))
    device = next(model.parameters()).device
    wanted = [user_vectors([Want(route, histories, every)], device=device).vectors[0] for route in alone]
    found = user_vectors([Want(route, histories, every) for route in mixed], device=device).vectors
    return all(
        torch.allclose(one, other, rtol=RELATIVE, atol=ABSOLUTE) for one, other in zip(found, wanted, strict=True)
    )
