"""What the configurations of our tuners have in common."""

from dataclasses import dataclass, field

from peft import PeftConfig, TaskType


@dataclass
class TunerConfig(PeftConfig):
    """Base of the configurations: which modules are wrapped, and what else trains and travels with the adapter.

    target_modules: names of the modules to wrap; each tuner has a default. modules_to_save: modules trained beside the
    tuner and saved with it, such as a head. trainable_token_indices: rows of the item table trained and saved with it,
    such as the TCL row. layers_to_transform: which blocks, all of them by default.
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
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
