"""What `bench_adapters.py` measures: trainings, the last position, a batch of several adapters; in seconds.

Trainings go through the real loop, without early stopping. Where something is computed once, a first training includes
it and the next ones find it there.
"""

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor

from peterrec.data.attribute import Attribute, split_users
from peterrec.data.reading import Reading
from peterrec.data.sequences import Sequences
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import read_out, valid_positions
from peterrec.heads.classification import ClassificationHead
from peterrec.inference import last_events
from peterrec.model import TaskModel
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers, predict
from peterrec.training.loop import train
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.tuners import PatchConfig

ADAPTERS = 8
SERVED = (1, 16)  # users of each adapter in a mixed batch: requests as they come, and a batch job


class EveryPosition(TaskModel):
    """A task model without the short cut of the last position: the long way of the third comparison."""

    def reading(self, max_length: int) -> Reading:
        return replace(super().reading(max_length), max_length=max_length)

    def user_vectors(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, domain_ids: Tensor | None = None
    ) -> Tensor:
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, domain_ids=domain_ids)
        return read_out(output.last_hidden_state, valid_positions(input_ids, attention_mask), self.readout)


@dataclass(frozen=True)
class Bench:
    """On what and how everything is measured."""

    encoder: UserEncoder
    histories: Sequences
    attribute: Attribute
    epochs: int
    users: int
    max_length: int
    repeats: int
    device: torch.device

    def model(self, blocks: list[int] | None, *, readout: str = "mean", long_way: bool = False) -> TaskModel:
        """The encoder with patches in `blocks` (none of them: the head alone), or None: everything trains."""
        torch.manual_seed(0)
        encoder = deepcopy(self.encoder)
        head = ClassificationHead(encoder.config.hidden_size, len(self.attribute.classes))
        model = (EveryPosition if long_way else TaskModel)(encoder, head, readout=readout)
        if blocks is not None:
            model.freeze_encoder()
        if blocks:
            model.encoder = get_peft_model(encoder, PatchConfig(layers_to_transform=blocks))
        return model

    def training(self, model: TaskModel, *, keep: bool = True) -> tuple[float, float]:
        """Seconds of a first training, and of another once everything that stands still has been computed."""
        split = split_users(self.attribute, fractions=(0.7, 0.03, 0.27), stratified=True, seed=0)
        parts = [
            LabelledUsers(self.attribute.rows[p], self.attribute.labels[p]) for p in (split.train, split.validation)
        ]
        settings = FinetuningSettings.model_validate(
            {
                "epochs": self.epochs,
                "users": self.users,
                "patience": 0,
                "device": self.device.type,
                "cache_mb": 2**20 if keep else 0,
            }
        )
        program = ClassificationProgram(
            model,
            histories=self.histories,
            train=parts[0],
            validation=parts[1],
            metric="accuracy",
            max_length=self.max_length,
            settings=settings,
        )

        def once() -> float:
            started = time.perf_counter()
            train(program, settings, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))
            self.wait()
            return time.perf_counter() - started

        first = once()
        again = program.keeps_vectors or program.keeps_states
        return first, statistics.median([once() for _ in range(self.repeats)]) if again else first

    def wait(self) -> None:
        """A GPU works on after a call has returned."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def median(self, call: Callable[[], object]) -> float:
        """Seconds of `call`, after one to warm up."""
        call()
        self.wait()
        seconds = []
        for _ in range(self.repeats):
            started = time.perf_counter()
            call()
            self.wait()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)


def trainings(bench: Bench) -> dict[str, float]:
    """Comparisons 1 and 2: seconds of `epochs` epochs."""
    blocks = len(bench.encoder.blocks)
    if blocks < 2:
        raise SystemExit("The encoder has one block, so it has no top half: take one with two blocks or more.")
    top = list(range(blocks - blocks // 2, blocks))
    replace(bench, epochs=1).training(bench.model(None))  # the first of a process pays for much that is not training
    found = {"full fine-tuning": bench.training(bench.model(None))[0]}
    first, again = bench.training(bench.model([]))
    found |= {"head, vectors computed once": again, "head, and computing them": first}
    first, again = bench.training(bench.model(top))
    found |= {"top half, states computed once": again, "top half, and computing them": first}
    found["top half, computed in each step"] = bench.training(bench.model(top), keep=False)[0]
    return found


def last_position(bench: Bench) -> dict[str, float]:
    """Comparison 3: seconds of training patches in all blocks, and of predicting all labelled users."""
    found = {}
    every = list(range(len(bench.encoder.blocks)))
    for long_way in (True, False):
        name = "every position" if long_way else "what the last one depends on"
        model = bench.model(every, readout="last", long_way=long_way)
        found[f"training, {name}"] = bench.training(model)[0]

        def answer(model: TaskModel = model) -> object:
            return predict(
                model, bench.histories, rows=bench.attribute.rows, max_length=bench.max_length, device=bench.device
            )

        found[f"predicting, {name}"] = bench.median(answer)
    return found


def mixed_batch(bench: Bench) -> dict[str, float]:
    """Comparison 4: seconds of one batch whose users belong to eight adapters, drawn at random; small and large."""
    found = {}
    for users in SERVED:
        for name, seconds in _mixed_batch(bench, users=users).items():
            found[f"{name}, {ADAPTERS * users} users"] = seconds
    return found


def _mixed_batch(bench: Bench, *, users: int) -> dict[str, float]:
    torch.manual_seed(0)
    names = [f"task{number}" for number in range(ADAPTERS)]
    model = get_peft_model(deepcopy(bench.encoder), PatchConfig(), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, PatchConfig())
    for name, parameter in model.named_parameters():
        if "peterrec_patch" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.to(bench.device).eval()
    alone = {}
    for name in names:
        own = deepcopy(model)
        own.set_adapter(name)
        for other in names:
            if other != name:
                own.delete_adapter(other)
        alone[name] = own.eval()
    rows = bench.attribute.rows[: users * ADAPTERS]
    ids = torch.from_numpy(last_events(bench.histories, rows, max_length=bench.max_length, readout="mean"))
    ids = ids.to(bench.device)
    owners = np.random.default_rng(0).permutation(np.arange(len(rows)) % ADAPTERS)
    parts = {name: torch.from_numpy(np.flatnonzero(owners == n)).to(bench.device) for n, name in enumerate(names)}
    adapter_names = [names[owner] for owner in owners]

    def vectors(own: PeftModel, ids: Tensor, **more: Any) -> Tensor:
        return own(input_ids=ids, **more).user_vector

    def separate() -> Tensor:
        return _together({name: vectors(alone[name], ids[part]) for name, part in parts.items()}, parts)

    def switched() -> Tensor:
        found = {}
        for name, part in parts.items():
            model.set_adapter(name)
            found[name] = vectors(model, ids[part])
        return _together(found, parts)

    with torch.no_grad():
        mixed = vectors(model, ids, adapter_names=adapter_names)
        for other in (separate(), switched()):
            torch.testing.assert_close(other, mixed, atol=1e-4, rtol=1e-4)
        return {
            "one mixed pass": bench.median(lambda: vectors(model, ids, adapter_names=adapter_names)),
            f"{ADAPTERS} passes, one a model": bench.median(separate),
            f"{ADAPTERS} passes, one a set_adapter": bench.median(switched),
        }


def _together(found: dict[str, Tensor], parts: dict[str, Tensor]) -> Tensor:
    order = torch.cat(list(parts.values())).argsort()
    return torch.cat(list(found.values()))[order]
