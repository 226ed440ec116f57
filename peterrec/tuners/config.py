"""What the configurations of our tuners have in common."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, TaskType


@dataclass
class TunerConfig(PeftConfig):
    """Base of the configurations: which modules are wrapped, and what else trains and travels with the adapter.

    target_modules: names of the modules to wrap; each tuner has a default. modules_to_save: modules trained beside the
    tuner and saved with it, such as a head. trainable_token_indices: rows of the item table trained and saved with it,
    such as the TCL row. layers_to_transform: which blocks, all of them by default. Raises ValueError where a value is
    of the wrong type, which peft would only notice later, or never.
    """

    target_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Modules to wrap; each tuner has a default."}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules to leave alone."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved beside."})
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None, metadata={"help": "Rows of the item table trained and saved beside."}
    )
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "Indices of the blocks."})
    layers_pattern: list[str] | str | None = field(default="blocks", metadata={"help": "Name of the block list."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task_type is None:
            self.task_type = TaskType.FEATURE_EXTRACTION  # without one, peft's Auto classes refuse the adapter
        for name in ("target_modules", "exclude_modules", "layers_pattern"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, str)):
                _check_list(name, value, str, "a name or a list of names")
        if self.modules_to_save is not None:
            _check_list("modules_to_save", self.modules_to_save, str, "a list of names")
        if isinstance(self.target_modules, list | tuple):
            self.target_modules = set(self.target_modules)
        self._check_rows()
        self._check_layers()

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values; sets in a fixed order, so that equal configurations give equal files."""
        return {name: sorted(value) if isinstance(value, set) else value for name, value in super().to_dict().items()}

    def _check_rows(self) -> None:
        rows = self.trainable_token_indices
        if rows is None:
            return
        for own in rows.values() if isinstance(rows, dict) else [rows]:
            _check_list("trainable_token_indices", own, int, "a list of rows, or one a table by its name")

    def _check_layers(self) -> None:
        layers = self.layers_to_transform
        if layers is None:
            return
        if isinstance(self.target_modules, str):
            raise ValueError(
                "layers_to_transform has no effect while target_modules is a pattern: "
                "name the blocks in the pattern, or give target_modules as a list of names."
            )
        wanted = "the index of a block or a list of them, from 0"
        _check_list("layers_to_transform", [layers] if isinstance(layers, int) else layers, int, wanted)
        if not isinstance(layers, int):
            if not layers:
                # peft reads an empty list as "all blocks"
                raise ValueError("layers_to_transform is empty: name at least one block, or leave it out for all.")
            self.layers_to_transform = list(layers)


def check_flag(name: str, value: Any) -> None:
    """Raises ValueError where a setting is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}.")


def check_count(name: str, value: Any) -> None:
    """Raises ValueError where a setting is not a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, got {value!r}.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError where a setting is none of `choices`."""
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")


def _check_list(name: str, values: Any, kind: type[int] | type[str], wanted: str) -> None:
    if not isinstance(values, list | tuple | set) or not all(
        isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0)
        for value in values
    ):
        raise ValueError(f"{name} must be {wanted}, got {values!r}.")
