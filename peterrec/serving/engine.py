"""What computes states: an encoder with the adapters inside it; and how one task reads them."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from peterrec.data.reading import Reading
from peterrec.encoders.readout import Readout
from peterrec.encoders.user_reading import Encoder


@dataclass(frozen=True, eq=False)
class Engine:
    """An `encoder`, and the user encoder `base` in it; nothing in them changes while anybody may compute with them.

    `names` are the adapters inside. Of several each row names its own (`adapter_names`); one is simply on.
    """

    encoder: Encoder
    base: Any  # a UserEncoder, or what reads mixed histories through one
    names: tuple[str, ...] = ()

    @property
    def modules(self) -> nn.Module | None:
        """The encoder as a module, if it is one."""
        return self.encoder if isinstance(self.encoder, nn.Module) else None


@dataclass(frozen=True, eq=False)
class Route:
    """How the user vectors of one task come about: by which engine and which of its adapters, and how it is read."""

    engine: Engine
    reader: Readout
    reading: Reading
    adapter: str | None = None

    @property
    def voice(self) -> str | None:
        """The adapter that its rows must name; None where all rows of the engine go one way."""
        return self.adapter if len(self.engine.names) > 1 else None
