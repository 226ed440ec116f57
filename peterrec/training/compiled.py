"""What `training.compile` does: the model's forward and backward passes as compiled graphs, for the steps alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from peterrec.training.settings import TrainingSettings


class Compiled:
    """A model compiled in place, until `undo`.

    One graph serves every length and number of users: sizes are symbols in it, so that an epoch compiles a few times
    only (again where a size is 1, or two sizes that were equal are not). On CUDA, where batches come in few shapes and
    are computed whole, each shape is recorded as a CUDA graph at its first step: then nothing but the recorded kernels
    is launched. Pieces of a batch are not, because the gradient of one would still be in use when the next is played.
    """

    def __init__(self, model: nn.Module, *, device: torch.device, settings: TrainingSettings) -> None:
        self._model = model
        self.graphs = device.type == "cuda" and settings.few_shapes and not settings.micro_batch
        model.compile(dynamic=True, mode="reduce-overhead" if self.graphs else None)

    def begin_step(self) -> None:
        """What the last step left in the memory of its CUDA graphs may be overwritten."""
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def undo(self) -> None:
        """The model runs as it is written again."""
        self._model._compiled_call_impl = None  # compile() has no counterpart


@contextmanager
def eager() -> Iterator[None]:
    """Runs models as they are written, compiled or not: a validation meets shapes that no step repeats."""
    with torch.compiler.set_stance("force_eager"):
        yield
