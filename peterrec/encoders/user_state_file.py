"""Saved user states: one safetensors file that names the encoder and the vocabulary which it belongs to."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from peterrec.atomic import atomic_file, readable
from peterrec.data.vocabulary import FIRST_ITEM, TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.encoder_watch import tuned_modules
from peterrec.errors import RefusedError, SettingsError

FORMAT = "1"
PROBE = "probe"  # the encoder's answers to made-up histories
PROBE_SHAPE = (6, 24)


def write_state(columns: Mapping[str, Tensor], path: Path, *, encoder: nn.Module, base: UserEncoder) -> None:
    """Writes the columns of a state, `(users, …)` each, whole or not at all."""
    tensors = {name: column.detach().cpu().contiguous() for name, column in columns.items()}
    tensors[PROBE] = _probe(base, domains="domain_ids" in columns)
    metadata = {
        "peterrec_format": FORMAT,
        "kind": "user_state",
        "weights": _digest(encoder, base),
        "vocabulary_fingerprint": base.config.vocabulary_fingerprint,
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
        readable(temporary)


def read_state(path: Path, *, encoder: nn.Module, base: UserEncoder) -> dict[str, Tensor]:
    """The columns of a saved state, on the CPU.

    Raises SettingsError where there is no file, RefusedError where it is damaged, no user state, of a newer format, or
    was made by another encoder, other adapters, or for another vocabulary.
    """
    if not path.is_file():
        raise SettingsError(f"There is no saved user state {path}. Write one with UserState.save.")
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise RefusedError(f"{path} cannot be read ({error}); the file is damaged. {_AGAIN}") from None
    if told.get("kind") != "user_state" or PROBE not in tensors:
        raise RefusedError(f"{path} holds no user state. Give a file that UserState.save has written.")
    if told.get("peterrec_format") != FORMAT:
        raise RefusedError(
            f"{path} has the format {told.get('peterrec_format')}, this version reads {FORMAT}; upgrade peterrec."
        )
    wanted, given = told.get("vocabulary_fingerprint", ""), base.config.vocabulary_fingerprint
    if wanted != given:
        raise RefusedError(
            f"{path} belongs to the item vocabulary {wanted[:16] or 'none'}, but this encoder to {given[:16] or 'none'}"
            f". Give the encoder that the state was made with. {_AGAIN}"
        )
    probe = _probe(base, domains="domain_ids" in tensors)
    if told.get("weights") != _digest(encoder, base) or not _same(probe, tensors.pop(PROBE)):
        raise RefusedError(
            f"{path} was made by an encoder with other weights or other adapters than this one. Give that encoder, "
            f"with the same adapter active. {_AGAIN}"
        )
    return tensors


def fill(own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, path: Path) -> None:
    """Copies the columns of a file into those of a state; raises RefusedError unless they fit and can be true."""
    for name in sorted(own.keys() | found.keys()):
        if name not in own or name not in found or own[name].shape != found[name].shape:
            raise RefusedError(f"{path}: {name} is not what a state of this encoder holds. {_AGAIN}")
        if own[name].dtype != found[name].dtype:
            raise RefusedError(f"{path}: {name} is {found[name].dtype}, not {own[name].dtype}. {_AGAIN}")
        if not found[name].isfinite().all() or (name == "lengths" and bool((found[name] < 0).any())):
            raise RefusedError(f"{path}: {name} holds numbers that no state has; the file is damaged. {_AGAIN}")
    for name, column in own.items():
        column.copy_(found[name])


_AGAIN = "A new state is made from the histories: UserState.of."


def _digest(encoder: nn.Module, base: UserEncoder) -> str:
    """SHA-256 over the weights, whatever they are called now; those of adapters that are not active do not count."""
    on = [module for module in tuned_modules(base) if not module.disable_adapters]
    active = {name for module in on for name in module.active_adapters}
    peft_model: Any = encoder
    idle = set() if encoder is base else set(peft_model.peft_config) - active
    hashes = set()
    for name, tensor in base.state_dict().items():
        if idle.isdisjoint(name.split(".")):
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            header = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
            hashes.add(hashlib.sha256(header + flat.numpy().tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(hashes))).hexdigest()


@torch.no_grad()
def _probe(base: UserEncoder, *, domains: bool) -> Tensor:
    """What the encoder makes of made-up histories, `(users, D)`: it also tells apart what weights alone do not say."""
    users, length = PROBE_SHAPE
    items = base.config.vocab_size - FIRST_ITEM
    rows = FIRST_ITEM + torch.arange(users * length).mul(40_503).remainder(items).view(users, length)
    rows[::2, -1] = TCL
    domain_ids = torch.arange(users, device=base.device) - 1 if domains else None
    with torch.autocast(base.device.type, enabled=False):  # as states are computed
        return base(input_ids=rows.to(base.device), domain_ids=domain_ids).last_hidden_state[:, -1].cpu()


def _same(found: Tensor, wanted: Tensor) -> bool:
    """Whether two answers agree up to the rounding of different machines."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    relative = 1e-4 if found.dtype in (torch.float32, torch.float64) else 3e-2
    return bool((found.double() - wanted.double()).abs().max() <= relative * wanted.double().abs().max())
