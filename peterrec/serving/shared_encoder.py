"""The one encoder of a server: its weights in memory once, however many modules are built on them."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peterrec.adapter_weights import Pairing
from peterrec.data.reading import WHOLE
from peterrec.data.vocabulary import MASK
from peterrec.encoders.loading import open_encoder
from peterrec.encoders.readout import Readout
from peterrec.encoders.user_reading import reading_of
from peterrec.objectives.settings import POSITION_LEVEL, USER_LEVEL
from peterrec.run_record import read_run
from peterrec.run_weights import FoundEncoder
from peterrec.serving.engine import Engine, Route
from peterrec.serving.item_lookup import ItemLookup


class SharedEncoder:
    """The encoder in `folder`, frozen, on `device`, with its vocabulary.

    Raises SettingsError where there is no run of `peterrec pretrain`, RefusedError where it is damaged.
    """

    def __init__(self, folder: Path, *, device: torch.device) -> None:
        self.folder = Path(folder)
        run = read_run(self.folder, stage="pretrain")
        self.encoder, self.vocabulary = open_encoder(self.folder)
        self.encoder.to(device).requires_grad_(False)  # type: ignore[arg-type]  # transformers' signature hides torch's
        self.device = device
        self.pairing = Pairing.of(self.folder)
        self.engine = Engine(self.encoder, self.encoder)
        self.lookup = ItemLookup(self.vocabulary)
        objective = run.get("settings", {}).get("objective", {})
        self._of_users = any(objective.get(name) for name in USER_LEVEL)
        self._of_positions = any(objective.get(name) for name in POSITION_LEVEL)
        self._pooled = run.get("settings", {}).get("encoder", {}).get("kind") == "pooled"

    @property
    def predicts_items(self) -> bool:
        """Whether it has learned which items follow, so that its table scores them."""
        return self._of_positions

    def twin(self) -> FoundEncoder:
        """The encoder as modules of their own on the very same tensors, for a task to be built on.

        What is wrapped around or inside the twin, nobody else sees. Nobody may write into its tensors.
        """
        return FoundEncoder(twin_of(self.encoder), self.vocabulary, self.folder, self.pairing)

    def vectors(self) -> Route:
        """How the encoder's own user vectors come about: by its readout, as `peterrec encode` reads histories."""
        whole = self._pooled or (self._of_users and not self._of_positions)
        length = WHOLE if whole else self.encoder.config.max_length
        reader = self.encoder.reader
        return Route(self.engine, reader, reading_of(self.encoder, reader, max_length=length))

    def next_items(self) -> Route:
        """How the states come about that score what follows a history, as in `peterrec.inference.next_item_states`."""
        encoder, own = self.encoder, self.encoder.reader
        reader = own
        if not own.is_like("last", layers=(-1,), item_weights=False):
            reader = Readout("last", channels=encoder.config.hidden_size, depth=own.depth).to(encoder.dtype)
        reading = reading_of(encoder, reader, max_length=encoder.config.max_length)
        return Route(self.engine, reader, replace(reading, back=MASK) if encoder.predicts == "masked" else reading)

    @property
    def bytes(self) -> int:
        """What its tensors take."""
        return tensor_bytes(self.encoder)


def twin_of(module: Any) -> Any:
    """A copy of modules on the same parameters and buffers."""
    kept = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, kept)


def tensor_bytes(*modules: nn.Module | None, beside: nn.Module | None = None) -> int:
    """What the tensors of some modules take, each storage once, and without those of `beside`."""
    seen = {_storage(tensor) for tensor in _tensors(beside)}
    total = 0
    for module in modules:
        for tensor in _tensors(module):
            if _storage(tensor) not in seen:
                seen.add(_storage(tensor))
                total += tensor.untyped_storage().nbytes()
    return total


def _tensors(module: nn.Module | None) -> list[torch.Tensor]:
    return [] if module is None else [*module.parameters(), *module.buffers()]


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
