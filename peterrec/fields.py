"""The fields of a pydantic model seen from outside: dotted keys, and types in words."""

import re
import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_PLACE = re.compile(r"\[\d+\]")


class Known(NamedTuple):
    """One field of a model under its dotted key; `nested` if it is a model itself."""

    key: str
    field: FieldInfo
    nested: bool


def known_fields(model: type[BaseModel], *, prefix: str = "") -> list[Known]:
    """Every field of `model`, in order, those of nested models after the field that holds them.

    Those of a list of models stand under its key with brackets: `body[].router`.
    """
    assert model.model_config.get("extra") == "forbid", f"{model.__name__} must forbid unknown keys"
    found: list[Known] = []
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        found.append(Known(f"{prefix}{name}", field, bool(inner)))
        for nested in inner:
            found += known_fields(nested, prefix=f"{prefix}{name}.")
        for element in _elements(field.annotation):
            found += known_fields(element, prefix=f"{prefix}{name}[].")
    return found


def find_field(model: type[BaseModel], key: str) -> Known | None:
    """The field at a dotted key, or the free-form table (`dict`) above it; None if there is none.

    Places in lists do not matter: `body[0].router` and `body[].router` are one field.
    """
    known = {field.key: field for field in known_fields(model)}
    key = _PLACE.sub("[]", key)
    if key in known:
        return known[key]
    above = known.get(key.rpartition(".")[0])
    return above if above is not None and _is_table(above.field.annotation) else None


def allows_none(field: FieldInfo) -> bool:
    """Whether None is a value of the field."""
    return type(None) in _alternatives(field.annotation)


def describe_type(field: FieldInfo) -> str:
    """The type of a field in words, with its range: `float > 0 or none`."""
    text = _words(field.annotation)
    limits = _limits(field.metadata)
    if not limits:
        return text
    number, separator, rest = text.partition(" or ")  # a limit stands behind what it limits
    return f"{number} {limits}{separator}{rest}"


def _words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = _limits(arguments[1:])
        return f"{_words(arguments[0])} {limits}".strip()
    if origin in (Union, types.UnionType):
        return " or ".join(_words(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin in (list, tuple):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        if origin is tuple and Ellipsis not in arguments:
            return f"list [{', '.join(map(_words, inner))}]"
        return f"list of {_words(inner[0])}" if inner else "list"
    if origin is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    if annotation is type(None):
        return "none"
    if annotation is str:
        return "text"
    return getattr(annotation, "__name__", str(annotation)).lower()


def _limits(metadata: Any) -> str:
    limits: list[str] = []
    for item in metadata:
        if isinstance(item, FieldInfo):  # Annotated[int, Field(ge=1)] inside a list or union
            limits += [inner] if (inner := _limits(item.metadata)) else []
            continue
        for inner in item if isinstance(item, annotated_types.GroupedMetadata) else [item]:
            for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
                if (bound := getattr(inner, attribute, None)) is not None:
                    limits.append(f"{sign} {bound}")
            if (length := getattr(inner, "min_length", None)) is not None:
                limits.append(f"with at least {length}")
            if (length := getattr(inner, "max_length", None)) is not None:
                limits.append(f"with at most {length}")
    return " and ".join(limits)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for argument in get_args(annotation) for inner in _alternatives(argument))
    return (annotation,)


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [inner for inner in _alternatives(annotation) if isinstance(inner, type) and issubclass(inner, BaseModel)]


def _elements(annotation: Any) -> list[type[BaseModel]]:
    """The models of which a field holds a list."""
    lists = [inner for inner in _alternatives(annotation) if get_origin(inner) in (list, tuple)]
    return [model for inner in lists for argument in get_args(inner) for model in _models(argument)]


def _is_table(annotation: Any) -> bool:
    return any(get_origin(inner) is dict or inner is dict for inner in _alternatives(annotation))
