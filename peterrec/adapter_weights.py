"""adapter_model.safetensors: the tensors of a task, and in their metadata the encoder that they belong to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from peterrec.adapter_rows import for_more_items
from peterrec.atomic import readable
from peterrec.encoders.loading import encoder_revision, read_config
from peterrec.encoders.readout import Readout
from peterrec.errors import RefusedError, SettingsError
from peterrec.run_record import read_run

if TYPE_CHECKING:
    from peft import PeftConfig

WEIGHTS = "adapter_model.safetensors"
FORMAT = "1"


@dataclass(frozen=True)
class Pairing:
    """Which encoder weights belong to: its revision, and the fingerprint of the vocabulary of its rows.

    Of an encoder that was continued from others also their revisions, `ancestors`, and which of them are `preserved`
    in it to the bit.
    """

    encoder_revision: str
    vocabulary_fingerprint: str
    ancestors: tuple[str, ...] = field(default=(), compare=False)
    preserved: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, encoder: Path) -> "Pairing":
        """That of the encoder saved in a folder; raises SettingsError, RefusedError as `encoder_revision` does."""
        config = read_config(encoder)
        lineage = tuple(config.ancestors), tuple(config.preserved)
        return cls(encoder_revision(encoder), config.vocabulary_fingerprint, *lineage)

    def __str__(self) -> str:
        return f"revision {self.encoder_revision}, vocabulary {self.vocabulary_fingerprint[:16] or 'none'}"


def write_weights(
    tensors: Mapping[str, Tensor], path: Path, *, pairing: Pairing, settings: str = "", readout: Readout | None = None
) -> None:
    """Writes tensors as safetensors whose metadata name their encoder; the same tensors give the same bytes.

    `settings` is a digest of the configuration that goes with them, if there is one; `readout`, whose kind, layers and
    item weights the metadata name, the one that they were trained with.
    """
    own: dict[str, Tensor] = {}
    storages = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if storage in storages else tensor  # safetensors takes no shared memory
        storages.add(storage)
    told = {"format": "pt", "peterrec_format": FORMAT, "settings": settings}
    told |= {name: getattr(pairing, name) for name in ("encoder_revision", "vocabulary_fingerprint")}
    save_file(own, path, metadata=told if readout is None else told | {"readout": _text_of(readout)})
    sort_metadata(path)
    readable(path)


def check_settings(path: Path, settings: str) -> None:
    """Raises RefusedError where the weights in `path` were saved with another configuration than that digest's."""
    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get("settings")
    if told and told != settings:
        raise RefusedError(
            f"{path.parent}: adapter_config.json is not the one that its weights were saved with. Put the right one "
            "back, or train the adapter again."
        )


def check_readout(path: Path, readout: Readout) -> None:
    """Raises RefusedError where the weights in `path`, which can be read, were saved with another readout.

    Files of before readouts were named say nothing, and are taken.
    """
    with safe_open(path, framework="pt") as file:
        told, given = (file.metadata() or {}).get("readout"), _text_of(readout)
    if told and told != given:
        raise RefusedError(
            f"{path.parent} was trained with another readout: {told}, not {given}. Make the readout with the same "
            "kind, layers and item weights."
        )


def read_weights(path: Path) -> tuple[dict[str, Tensor], Pairing | None]:
    """The tensors of a file and the encoder that it names, None where it names none.

    Raises RefusedError where the file is absent, damaged, or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("peterrec_format", FORMAT) != FORMAT:
                raise RefusedError(
                    f"{path} has the format {told['peterrec_format']}, this version reads {FORMAT}; upgrade peterrec."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise RefusedError(f"{path} cannot be read ({error}); the adapter is damaged or incomplete.") from None
    named = [told.get(key, "") for key in ("encoder_revision", "vocabulary_fingerprint")]
    return tensors, Pairing(*named) if named[0] else None


def fill(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, path: Path, more_items: bool = False) -> None:
    """Copies the tensors of a file in place into `own`, which must have the same names and shapes.

    `more_items`: but for those of items, of which `own` may have more (`for_more_items`). Raises RefusedError naming
    the first tensor that is missing, unknown, of another shape or not finite; then nothing was changed.
    """
    tensors = for_more_items(tensors, own) if more_items else tensors
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise RefusedError(f"{path} lacks the weights {name}; the adapter is incomplete or of another model.")
        if name not in own:
            raise RefusedError(f"{path} holds the weights {name}, which the model has no place for.")
        if tensors[name].shape != own[name].shape:
            raise RefusedError(f"{path}: {name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}.")
        if not tensors[name].isfinite().all():
            raise RefusedError(f"{path}: {name} holds numbers that are not finite; the adapter is damaged.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def fill_module(module: nn.Module, path: Path, *, prefix: str, given: Pairing) -> None:
    """Puts the tensors of a file under `prefix` into a module for the encoder `given`.

    Raises what `read_weights` and `fill` raise.
    """
    tensors, wanted = read_weights(path)
    own = {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    mine = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    fill(own, mine, path=path, more_items=goes_on(given, wanted))


def goes_on(given: Pairing, wanted: Pairing | None) -> bool:
    """Whether the encoder `given` was continued from the one that an adapter was trained with."""
    return wanted is not None and wanted.encoder_revision in given.ancestors


def check_pairing(
    path: Path,
    wanted: Pairing | None,
    given: Pairing,
    *,
    encoder: str,
    unchecked: bool = False,
    continued: bool = False,
) -> None:
    """Raises RefusedError unless the encoder `given` is the one that the adapter file `path` was trained with.

    An encoder in which that one is preserved will do, and with `continued` one that went on from it.
    """
    if wanted is None:
        if unchecked:
            return
        raise RefusedError(
            f"{path} does not say which encoder it was trained with (plain peft wrote it), so the pairing cannot be "
            f"checked. If you know that it belongs to {encoder}, load it with unchecked=True; save_adapter then writes "
            "it with the name of its encoder."
        )
    if wanted == given or wanted.encoder_revision in given.preserved:
        return
    if wanted.encoder_revision in given.ancestors:
        if continued:
            return
        raise RefusedError(
            f"{path.parent} was trained with the encoder weights of {wanted}, from which pretraining has gone on to "
            f"{encoder}. Items have kept their rows, but the weights have moved: predictions will differ, and nobody "
            "has measured how good they are. Train an adapter for this encoder, give the one that it was trained with, "
            "or, to use it all the same, say --continued (in Python continued=True)."
        )
    what = "encoder" if wanted.vocabulary_fingerprint == given.vocabulary_fingerprint else "item vocabulary"
    raise RefusedError(
        f"{path.parent} was trained with another {what}: it is an adapter for the encoder weights of {wanted}, but "
        f"{encoder} holds {given}. Give the encoder that it was trained with, or train an adapter for this one."
    )


def paired(
    folder: Path,
    config: "PeftConfig",
    wanted: Pairing | None,
    *,
    encoder: Path | None,
    unchecked: bool,
    continued: bool = False,
) -> tuple[Path, Pairing]:
    """The folder of the encoder given or named, once it is one that `check_pairing` lets the adapter have."""
    found = Path(encoder) if encoder is not None else _named_encoder(folder, config)
    if not (found / "config.json").is_file() or (encoder is None and not config.base_model_name_or_path):
        where = f"its encoder is not at {found}" if config.base_model_name_or_path or encoder else "it names no encoder"
        raise SettingsError(f"{folder}: {where}; give encoder=FOLDER{f' ({wanted})' if wanted else ''}.")
    given = Pairing.of(found)
    check_pairing(folder / WEIGHTS, wanted, given, encoder=str(found), unchecked=unchecked, continued=continued)
    return found, given


def _named_encoder(folder: Path, config: "PeftConfig") -> Path:
    """The encoder that a configuration names; a run knows it from wherever the run is looked at."""
    named = Path(str(config.base_model_name_or_path or ""))
    if (named / "config.json").is_file() or not (folder / "run.json").is_file():
        return named
    recorded = read_run(folder, stage="finetune").get("inputs", {}).get("encoder", "")
    return (folder / recorded).resolve()


def _text_of(readout: Readout) -> str:
    """What a readout is, beside what it learned."""
    own = {"kind": readout.kind, "layers": list(readout.layers), "item_weights": readout.item_weights is not None}
    return json.dumps(own)


def sort_metadata(path: Path) -> None:
    """safetensors writes metadata in random order; sorted, the bytes of a file depend on its content alone."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)
