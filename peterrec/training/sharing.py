"""How all processes of a training come to stand where the main one does."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from peterrec.encoders.table_shard import TableShard
from peterrec.errors import SettingsError
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.processes import Processes
from peterrec.training.settings import TrainingSettings
from peterrec.training.state import learning_tensors


def share_start(
    found: Checkpoint | None, *, model: nn.Module, settings: TrainingSettings, processes: Processes
) -> Checkpoint | None:
    """The main process's checkpoint `found` in all processes, none of which but that one need see its disk.

    Without one, `model` gets that process's weights. Raises `DismissedError` where the main process trains nothing,
    `SettingsError` for a model that several processes cannot train.
    """
    header = processes.training(
        {
            "settings": settings.model_dump(mode="json"),
            "step": None if found is None else found.step,
            "facts": None if found is None else found.facts,
        }
    )
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise SettingsError(
            "This model has batch norms, whose statistics are those of a whole batch, so that one process must compute "
            "it; start the command without torchrun or accelerate launch."
        )
    if header["step"] is not None:
        tensors = processes.share_tensors({} if found is None else found.tensors)
        return Checkpoint(header["step"], tensors, header["facts"])
    own = {name: tensor for name, tensor in learning_tensors(model).items() if not isinstance(tensor, TableShard)}
    shared = processes.share_tensors(own)
    if not processes.main:
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(shared[name])
    return None
