"""Under which conditions everything is measured."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

GIB = 2**30


@dataclass(frozen=True)
class Conditions:
    """`budget` seconds go into the rounds of a comparison; a peer may take `memory` bytes for its logits.

    `clock`: wall time, or the processor time of this process, for machines that others use too. `data`: a prepared
    folder whose lengths take the place of drawn ones.
    """

    threads: int
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    clock: Literal["wall", "cpu"] = "wall"
    budget: float = 30.0
    memory: int = 4 * GIB
    quick: bool = False
    data: str | None = None

    @property
    def least(self) -> int:
        """Rounds of a comparison, however long they take."""
        return 2 if self.quick else 3

    @property
    def folder(self) -> Path | None:
        """`data` as a path."""
        return None if self.data is None else Path(self.data)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision in which peers compute; the product sets its own by the same name."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def wait(self) -> None:
        """A GPU works on after a call has returned."""
        if self.device == "cuda":
            torch.cuda.synchronize()
