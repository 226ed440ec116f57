"""Settings: a TOML file and `--set a.b=c` overrides, checked against a closed pydantic model."""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from peterrec.errors import SettingsError, did_you_mean
from peterrec.fields import Known, allows_none, describe_type, find_field, known_fields

Model = TypeVar("Model", bound=BaseModel)
NONE = "none"  # TOML has no null: this word stands for it wherever a field allows None


class Settings(BaseModel):
    """The base of settings and recipes: unknown keys and infinite numbers are errors, nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Setting(NamedTuple):
    """One row of a settings table."""

    key: str
    type: str
    default: str
    description: str


def load_settings(
    model: type[Model],
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    layers: Sequence[tuple[str, Mapping[str, object]]] = (),
) -> Model:
    """Settings from `layers` (origin and values, weakest first), then `file`, then `overrides`.

    Raises SettingsError naming every wrong key with its value, what was expected and where it came from.
    """
    stack = [(origin, values) for origin, values in layers]
    if file is not None:
        stack.append((str(file), read_toml(file)))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in stack:
        _merge(merged, values, origin=origin, origins=origins, prefix="")
    for override in overrides:
        key, value = parse_override(override)
        origin = f"--set {override}"
        if find_field(model, key) is None:
            raise SettingsError(f"{origin}: unknown setting {key!r}. {did_you_mean(key, _names(model))}")
        for part in reversed(key.split(".")):
            value = {part: value}
        assert isinstance(value, dict)
        _merge(merged, value, origin=origin, origins=origins, prefix="")
    return _validate(model, merged, origins=origins)


def validate(model: type[Model], values: Mapping[str, object], *, origin: str) -> Model:
    """`values` as a `model`; every SettingsError names `origin` (a file, an option)."""
    return load_settings(model, layers=[(origin, values)])


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file as a dict; SettingsError naming file and line when it cannot be read."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"), parse_float=_number)
    except FileNotFoundError:
        raise SettingsError(f"{file}: there is no such file.") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}.") from None


def parse_override(override: str) -> tuple[str, object]:
    """Key and value of one `a.b=c`: the value is TOML where it parses as such, else the plain text."""
    key, equals, raw = override.partition("=")
    key, raw = key.strip(), raw.strip()
    if not equals or not all(part.strip() for part in key.split(".")):
        raise SettingsError(f"--set {override}: expected key=value, for example --set training.epochs=3.")
    key = ".".join(part.strip() for part in key.split("."))
    try:
        parsed = tomllib.loads(f"value = {raw}", parse_float=_number)
    except tomllib.TOMLDecodeError:
        return key, _plain(raw)
    return key, parsed["value"] if parsed.keys() == {"value"} else raw


def settings_table(model: type[BaseModel]) -> list[Setting]:
    """One row a setting of `model`, nested models flattened to dotted keys."""
    return [
        Setting(known.key, describe_type(known.field), _default(known), known.field.description or "")
        for known in known_fields(model)
        if not known.nested
    ]


def dump(settings: BaseModel) -> dict[str, Any]:
    """The settings as plain JSON values."""
    return settings.model_dump(mode="json")


def to_toml(values: Mapping[str, Any]) -> str:
    """`values` as TOML text that `load_settings` reads back; None becomes "none"."""
    return tomli_w.dumps(_without_null(values))


def _number(text: str) -> int | float:
    """`1e6` is an integer to whoever writes it; a float field takes an integer as well."""
    value = float(text)
    whole = "e" in text.lower() and math.isfinite(value) and value.is_integer()
    return int(value) if whole else value


def _plain(raw: str) -> object:
    """Spellings that TOML refuses and people use: `.5`, `True`; anything else is text."""
    if raw in ("True", "False"):
        return raw == "True"
    try:
        return _number(raw) if raw[:1] in set("+-.0123456789") else raw
    except ValueError:
        return raw


def _merge(
    target: dict[str, Any],
    values: Mapping[str, Any],
    *,
    origin: str,
    origins: dict[str, str],
    prefix: str,
) -> None:
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            origins.setdefault(dotted, origin)
            _merge(target[key], value, origin=origin, origins=origins, prefix=f"{dotted}.")
        else:
            target[key] = value
            origins[dotted] = origin


def _validate(model: type[Model], merged: dict[str, Any], *, origins: Mapping[str, str]) -> Model:
    merged = _with_null(model, merged, prefix="")
    try:
        # strict JSON: no silent true -> 1 or "5" -> 5, while lists still become tuples and text paths
        return model.model_validate_json(json.dumps(merged, default=str), strict=True)
    except ValidationError as error:
        messages: dict[str, str] = {}
        for detail in error.errors(include_url=False):
            key, message = _explain(model, detail, origins)
            messages.setdefault(key, message)  # a union reports one error an alternative
        raise SettingsError("\n".join(messages.values())) from None


def _explain(model: type[BaseModel], detail: Any, origins: Mapping[str, str]) -> tuple[str, str]:
    key, known = _locate(model, detail)
    origin = _origin(key, origins)
    value = json.dumps(detail["input"], default=str, ensure_ascii=False)
    value = value if len(value) <= 80 else f"{value[:77]}..."
    kind = detail["type"]
    if kind == "extra_forbidden":
        return key, f"unknown setting {key!r}; {origin}. {did_you_mean(key, _names(model))}"
    if kind == "missing":
        expected = f" ({describe_type(known.field)})" if known else ""
        return key, f"{key}: missing{expected}; {origin}."
    reason = detail["msg"].removeprefix("Value error, ")
    if kind != "value_error":
        expected = f"expected {describe_type(known.field)}" if known and kind != "finite_number" else reason
        return key, f"{key} = {value}: {expected}; {origin}."
    if known is None or known.nested:  # a rule over several keys: the whole table would be noise
        return key or reason, f"{key + ': ' if key else ''}{reason.rstrip('.')}; {origin}."
    return key, f"{key} = {value}: {reason.rstrip('.')}; {origin}."


def _locate(model: type[BaseModel], detail: Any) -> tuple[str, Known | None]:
    """The dotted key of a pydantic error, without the tags that unions add to its location."""
    key, known = "", None
    for part in detail["loc"]:
        dotted = f"{key}.{part}" if key else str(part)
        if isinstance(part, int):
            key = f"{key}[{part}]"
        elif (field := find_field(model, dotted)) is not None:
            key, known = dotted, field
    if detail["type"] == "extra_forbidden":
        key, known = (f"{key}.{detail['loc'][-1]}" if key else str(detail["loc"][-1])), None
    return key, known


def _origin(key: str, origins: Mapping[str, str]) -> str:
    parts = key.split("[")[0].split(".")
    for stop in range(len(parts), 0, -1):
        if found := origins.get(".".join(parts[:stop])):
            return f"from {found}"
    sources = list(dict.fromkeys(origins.values()))
    return f"from {', '.join(sources)}" if sources else "set it in a settings file or with --set"


def _names(model: type[BaseModel]) -> list[str]:
    return [known.key for known in known_fields(model) if not known.nested]


def _default(known: Known) -> str:
    field = known.field
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return NONE if value is None else json.dumps(value, default=str)


def _without_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_null(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_null(inner) for inner in value]
    return NONE if value is None else value


def _with_null(model: type[BaseModel], values: dict[str, Any], *, prefix: str) -> dict[str, Any]:
    result = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        known = find_field(model, dotted)
        if isinstance(value, dict):
            value = _with_null(model, value, prefix=f"{dotted}.")
        elif isinstance(value, list):
            value = [_with_null(model, one, prefix=f"{dotted}[].") if isinstance(one, dict) else one for one in value]
        elif value == NONE and known is not None and allows_none(known.field):
            value = None
        result[key] = value
    return result
