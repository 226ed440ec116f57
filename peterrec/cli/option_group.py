"""Options that several commands take together, carried by one object."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer takes it: each parameter that is a dataclass gives way to the options in its fields.

    They stand in its place, in the order of the fields; typer reads signatures, so each has to be a parameter.

    >>> @dataclass
    ... class Where:
    ...     output: options.Output = None
    >>> @grouped
    ... def show(*, where: Where) -> None: ...
    >>> list(inspect.signature(show).parameters)
    ['output']
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type] = {
        name: one.annotation
        for name, one in signature.parameters.items()
        if isinstance(one.annotation, type) and is_dataclass(one.annotation)
    }
    parameters = []
    for name, parameter in signature.parameters.items():
        parameters += _options(groups[name]) if name in groups else [parameter]

    @functools.wraps(command)
    def as_typer_calls_it(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    as_typer_calls_it.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # PEP 362
    return as_typer_calls_it


def _options(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        kind = inspect.Parameter.KEYWORD_ONLY
        found.append(inspect.Parameter(field.name, kind, default=default, annotation=hints[field.name]))
    return found
