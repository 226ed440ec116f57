"""Loads a saved encoder through a closed configuration and strict safetensors; nothing in a folder can run code."""

import hashlib
import inspect
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.config import UserEncoderConfig
from peterrec.encoders.dupn import DUPN
from peterrec.encoders.dupn_config import DUPNConfig
from peterrec.encoders.grec import GRec
from peterrec.encoders.grec_config import GRecConfig
from peterrec.encoders.nextitnet import NextItNet
from peterrec.encoders.nextitnet_config import NextItNetConfig
from peterrec.encoders.pooled import PooledItems
from peterrec.encoders.pooled_config import PooledConfig
from peterrec.encoders.sasrec import SASRec
from peterrec.encoders.sasrec_config import SASRecConfig
from peterrec.errors import RefusedError, SettingsError, did_you_mean

ENCODERS: dict[str, tuple[type[UserEncoderConfig], type[UserEncoder]]] = {
    "nextitnet": (NextItNetConfig, NextItNet),
    "grec": (GRecConfig, GRec),
    "sasrec": (SASRecConfig, SASRec),
    "dupn": (DUPNConfig, DUPN),
    "pooled": (PooledConfig, PooledItems),
}
# written by `save_pretrained` and without influence on what is built
BOOKKEEPING = {"architectures", "transformers_version", "dtype", "model_type", "torch_dtype"}


def encoder_class(name: str) -> tuple[type[UserEncoderConfig], type[UserEncoder]]:
    """Configuration and class of the encoder `name`; raises SettingsError for an unknown one."""
    if name not in ENCODERS:
        raise SettingsError(f"There is no encoder {name!r}. {did_you_mean(name, ENCODERS)}")
    return ENCODERS[name]


def read_config(folder: Path) -> UserEncoderConfig:
    """Reads `config.json` into a known configuration; raises RefusedError for anything it does not know."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{folder} holds no encoder: {path.name} is missing. Make one with `peterrec pretrain`."
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path} is not readable JSON ({error}); the encoder is damaged.") from None
    kinds = {config.model_type: config for config, _ in ENCODERS.values()}
    if not isinstance(found, dict) or found.get("model_type") not in kinds:
        kind = found.get("model_type") if isinstance(found, dict) else found
        raise RefusedError(f"{path} describes {kind!r}, which is no encoder of peterrec: {', '.join(kinds)}.")
    config_class = kinds[found["model_type"]]
    fields = _fields(config_class)
    unknown = sorted(set(found) - fields - BOOKKEEPING)
    if unknown:
        raise RefusedError(f"{path} holds settings that this version does not know: {', '.join(unknown)}.")
    own = {key: value for key, value in found.items() if key in fields}
    try:
        return config_class(**own)
    except Exception as error:  # noqa: BLE001 - the strict configuration raises several classes of its own
        raise RefusedError(f"{path} does not describe a valid encoder: {error}") from None


def load_encoder(folder: Path) -> UserEncoder:
    """Builds the encoder saved in `folder`, in evaluation mode.

    Raises SettingsError where there is none, RefusedError where configuration and weights do not fit together.
    """
    config = read_config(folder)
    path = _weights(folder)
    cls = next(model for known, model in ENCODERS.values() if isinstance(config, known))
    encoder = cls(config)
    wanted = encoder.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(wanted):
                odd = sorted(names ^ set(wanted))
                raise RefusedError(f"{path} does not hold the weights that config.json describes: {odd[0]}, ….")
            for name, target in wanted.items():
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(target.shape):
                    raise RefusedError(f"{path}: {name} is {shape}, but config.json says {tuple(target.shape)}.")
                target.copy_(file.get_tensor(name))
    except SafetensorError as error:
        raise RefusedError(f"{path} is damaged ({error}).") from None
    return encoder.eval()


def save_encoder(encoder: UserEncoder, *, config_path: Path, weights_path: Path) -> None:
    """Writes configuration and weights to the two given files, as `save_pretrained` would."""
    config = encoder.config.to_diff_dict()
    config["architectures"] = [type(encoder).__name__]
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(tensors, weights_path, metadata={"format": "pt"})


def open_encoder(folder: Path) -> tuple[UserEncoder, Vocabulary]:
    """The encoder saved in `folder`, in evaluation mode, and the item vocabulary that its rows belong to.

    Raises SettingsError where there is none, RefusedError where configuration, weights and vocabulary do not fit.
    """
    config = read_config(folder)
    path = folder / "vocabulary.parquet"
    vocabulary = Vocabulary.load(path)
    fix = "Take the vocabulary.parquet that was written with this encoder."
    if vocabulary.fingerprint != config.vocabulary_fingerprint:
        wanted = config.vocabulary_fingerprint[:16] or "none"
        raise RefusedError(
            f"{path} is the item vocabulary {vocabulary.fingerprint[:16]}, but config.json beside it names {wanted}. "
            f"{fix}"
        )
    if len(vocabulary) != config.vocab_size:
        raise RefusedError(
            f"{path} has {len(vocabulary)} rows, but config.json beside it says {config.vocab_size}. {fix}"
        )
    return load_encoder(folder), vocabulary


def encoder_revision(folder: Path) -> str:
    """Sixteen hex digits of a SHA-256 over configuration and weights file: which encoder an adapter belongs to.

    Of the configuration, the fields that differ from their defaults count; how the file is laid out does not.
    Raises SettingsError where there is no encoder, RefusedError where it is incomplete.
    """
    config = read_config(folder)
    own, default = (
        {name: _plain(getattr(c, name)) for name in _fields(type(config))} for c in (config, type(config)())
    )
    told = {name: value for name, value in own.items() if value != default[name]} | {"model_type": config.model_type}
    with _weights(folder).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    told["weights"] = weights
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _weights(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if not path.is_file():
        raise RefusedError(f"{folder} has a configuration but no {path.name}; the encoder is incomplete.")
    return path


def _fields(config_class: type[UserEncoderConfig]) -> set[str]:
    """The fields of a configuration that are ours: its own, and those that all encoders share."""
    ours = [cls for cls in config_class.__mro__ if issubclass(cls, UserEncoderConfig)]
    return {name for cls in ours for name in inspect.get_annotations(cls)} - {"model_type"}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
