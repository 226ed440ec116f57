"""adapter_config.json: what an adapter is, read closed; nothing in it can import code or a second file."""

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from peterrec.errors import RefusedError, SettingsError, did_you_mean
from peterrec.peft_methods import PEFT_METHODS

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

CONFIG = "adapter_config.json"
# what is loaded: our tuners, what a recipe may name, and AdaLoRA, which users train in loops of their own
METHODS = ("PETERREC_PATCH", "PETERREC_STAR", "ADALORA", *(name.upper() for name in PEFT_METHODS))
CODE = {"megatron_config", "megatron_core"}  # settings with which peft imports the module that they name
# settings with which a method writes into the frozen encoder: all adapters in a model would change
PLAIN = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal")}
# settings without influence on what is built
BOOKKEEPING = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type"}


def config_text(config: "PeftConfig", *, base_model: str) -> str:
    """The text of adapter_config.json, for evaluation on the encoder `base_model` (as the configuration says if "")."""
    values = config.to_dict()
    values["base_model_name_or_path"] = base_model or values.get("base_model_name_or_path")
    values["inference_mode"] = True
    values["auto_mapping"] = None
    values["task_type"] = values.get("task_type") or "FEATURE_EXTRACTION"  # which peft's Auto classes ask for
    return json.dumps(values, indent=2, sort_keys=True, default=_sorted) + "\n"


def read_adapter_config(folder: Path) -> "PeftConfig":
    """The configuration of the adapter in `folder`, every setting and its type checked.

    Raises SettingsError where there is none, RefusedError for a method or setting that is not known or could run code.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    import peterrec.tuners  # noqa: F401 - makes our methods known to peft

    path = folder / CONFIG
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{folder} holds no adapter: {CONFIG} cannot be read ({error.strerror}). "
            "Make one with `peterrec finetune`, or name another folder."
        ) from None
    except ValueError as error:
        raise RefusedError(f"{path} is not readable JSON ({error}); the adapter is damaged.") from None
    if not isinstance(found, dict):
        raise RefusedError(f"{path} holds no table of settings; the adapter is damaged.")
    kind = found.get("peft_type")
    types = {known.value: config for known, config in PEFT_TYPE_TO_CONFIG_MAPPING.items() if known.value in METHODS}
    if not isinstance(kind, str) or kind not in types:
        raise RefusedError(
            f"{path} describes an adapter of the type {kind!r}, which is not loaded. {did_you_mean(str(kind), types)}"
        )
    config_class = types[kind]
    fields = {field.name: field for field in dataclasses.fields(config_class) if field.init}
    unknown = sorted(set(found) - set(fields))
    if unknown:
        raise RefusedError(
            f"{path} holds settings that this version does not know: {', '.join(unknown)}. "
            "Upgrade peft and peterrec, or train the adapter again."
        )
    for name in sorted(CODE & set(found)):
        if found[name] is not None and found[name] != fields[name].default:
            raise RefusedError(f"{path}: {name} names code to import, which is not done for an adapter.")
    for name, allowed in PLAIN.items():
        if name in found and found[name] not in allowed:
            raise RefusedError(
                f"{path}: {name} = {found[name]!r} changes weights of the frozen encoder, which other adapters share; "
                f"only {', '.join(map(str, allowed))} is loaded."
            )
    found["auto_mapping"] = None  # names a class to import; ours is known
    try:
        return TypeAdapter(config_class).validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in detail["loc"][:1]) or "a setting"
        raise RefusedError(f"{path}: {name} = {detail['input']!r}: {detail['msg']}.") from None
    except (TypeError, ValueError) as error:
        raise RefusedError(f"{path} does not describe a valid adapter: {error}") from None


def settings_digest(text: str) -> str:
    """Sixteen hex digits of a SHA-256 over what an adapter_config.json says of the modules that are built."""
    told = {name: value for name, value in json.loads(text).items() if name not in BOOKKEEPING}
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def difference(one: "PeftConfig", other: "PeftConfig") -> str | None:
    """The name of a setting in which two configurations build different modules, if there is one."""
    mine, theirs = (_comparable(config) for config in (one, other))
    names = sorted(mine.keys() | theirs.keys())
    return next((name for name in names if mine.get(name) != theirs.get(name)), None)


def _comparable(config: "PeftConfig") -> dict[str, Any]:
    values = {name: value for name, value in config.to_dict().items() if name not in BOOKKEEPING}
    return {
        name: sorted(value, key=str) if isinstance(value, set | list | tuple) else value
        for name, value in values.items()
    }


def _sorted(value: object) -> list:
    assert isinstance(value, set | frozenset), f"{value!r} has no place in JSON"
    return sorted(value)


@contextmanager
def refusing_misfits(folder: Path) -> Iterator[None]:
    """What peft says of a configuration that does not fit the encoder, as a refusal that names the folder."""
    try:
        with warnings.catch_warnings():
            # LN tuning copies whole modules; that they are ours and not torch's is no risk of the user's
            warnings.filterwarnings("ignore", message="Unsupported layer type '<class 'peterrec", category=UserWarning)
            yield
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, re.error) as error:
        raise RefusedError(f"{folder}: its {CONFIG} does not fit the encoder: {error}") from error


def check_beside(model: "PeftModel", config: "PeftConfig", folder: Path) -> None:
    """Raises RefusedError where peft would build the two and fail in the next forward pass."""
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LN_TUNING":
        return
    mine = getattr(config, "target_modules", None)
    for name, other in model.peft_config.items():
        if getattr(other, "target_modules", None) != mine:
            raise RefusedError(
                f"{folder} trains other layers than the adapter {name!r}, and peft's LN tuning cannot hold both in one "
                "model. Load it into a model of its own with load_adapter."
            )
