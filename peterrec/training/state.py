"""Where a training stands: everything that a resume needs beside the settings and the data."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from peterrec.balancing.balancer import Balancer
from peterrec.errors import RefusedError, SettingsError
from peterrec.setting_changes import how_to_go_on, setting_changes
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.optimizer import Updater
from peterrec.training.settings import PLACING, TrainingSettings
from peterrec.training.sharding import part, whole

Stopped = Literal["patience", "epochs"]


@dataclass
class TrainingState:
    """Counts and figures; `epoch` is under way (from 1), `done` steps of it are made, `step` in all."""

    total: int  # steps that the schedule plans with
    epoch: int = 1
    done: int = 0
    step: int = 0
    epoch_targets: int = 0
    epoch_counts: dict[str, int] = field(default_factory=dict)  # targets of each objective, where there are several
    epoch_seconds: float = 0.0
    targets: int = 0
    seconds_of_steps: float = 0.0
    seconds: float = 0.0
    best_metric: float | None = None
    best_epoch: int | None = None
    validations_since_best: int = 0
    stopped: Stopped | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


def learning_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trainable parameters, and the saved buffers of modules that own such parameters.

    Buffers of modules without parameters (running statistics without an affine part) count too.
    """
    found: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    saved = model.state_dict(keep_vars=True)
    for prefix, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own or any(p.requires_grad for p in own):
            for name, _ in module.named_buffers(prefix=prefix, recurse=False):
                if name in saved:
                    found[name] = saved[name]
    return found


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the learning tensors, on the CPU; of sharded tables, of this process's part."""
    return {name: t.detach().to("cpu", copy=True) for name, t in learning_tensors(model).items()}


def restore(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put a snapshot back; `RefusedError` if it is one of another model."""
    learning = learning_tensors(model)
    if {n: t.shape for n, t in learning.items()} != {n: t.shape for n, t in tensors.items()}:
        differing = sorted(learning.keys() ^ tensors.keys()) or "shapes"
        raise RefusedError(f"The checkpoint is one of another model ({differing}); start afresh with --overwrite.")
    with torch.no_grad():
        for name, tensor in learning.items():
            tensor.copy_(tensors[name])


def pack(
    state: TrainingState,
    *,
    model: nn.Module,
    updater: Updater,
    loss_sum: Tensor,
    best: dict[str, Tensor] | None,
    settings: TrainingSettings,
    balancer: Balancer | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts for `checkpoint.commit`; sharded tables stand whole in it, so that all processes call it."""
    learning = learning_tensors(model)
    tensors = {f"model/{name}": whole(t.detach(), of=t).cpu() for name, t in learning.items()}
    for name, t in updater.state().items():
        tensors[f"optimizer/{name}"] = whole(t, of=updater.parameters[name.rpartition("/")[0]]).cpu()
    for name, t in (best or {}).items():
        tensors[f"best/{name}"] = whole(t.to(learning[name].device), of=learning[name]).cpu()
    for name, t in ({} if balancer is None else balancer.state()).items():
        tensors[f"balancer/{name}"] = t.detach().cpu()
    tensors["loss_sum"] = loss_sum.detach().cpu()
    return tensors, {"state": asdict(state), "settings": settings.model_dump(mode="json")}


def unpack(
    found: Checkpoint,
    *,
    model: nn.Module,
    updater: Updater,
    loss_sum: Tensor,
    settings: TrainingSettings,
    balancer: Balancer | None = None,
) -> tuple[TrainingState, dict[str, Tensor] | None]:
    """Undo `pack`: model, optimiser, balancer and `loss_sum` are set; the state and the best weights are returned.

    Raises `SettingsError` if the checkpoint is of other settings, `RefusedError` if of another model.
    """
    changes = setting_changes(found.facts["settings"], settings.model_dump(mode="json"), free=PLACING)
    if changes:
        raise SettingsError(
            f"The checkpoints there were made under other settings: {'; '.join(map(str, changes))}. "
            f"{how_to_go_on(changes)}, or start afresh with --overwrite."
        )
    kinds: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "best": {}, "balancer": {}}
    for path, tensor in found.tensors.items():
        kind, _, name = path.partition("/")
        if name:
            kinds[kind][name] = tensor
    learning = learning_tensors(model)
    restore(model, _own(kinds["model"], learning))
    of = {name: updater.parameters.get(name.rpartition("/")[0], t) for name, t in kinds["optimizer"].items()}
    updater.load_state({name: part(t, of=of[name]) for name, t in kinds["optimizer"].items()})
    if balancer is not None:
        balancer.load_state(kinds["balancer"])
    loss_sum.copy_(found.tensors["loss_sum"])
    return TrainingState(**found.facts["state"]), _own(kinds["best"], learning) or None


def _own(tensors: dict[str, Tensor], learning: dict[str, Tensor]) -> dict[str, Tensor]:
    """What this process holds of the whole `tensors`."""
    return {name: part(t, of=learning.get(name, t)) for name, t in tensors.items()}
