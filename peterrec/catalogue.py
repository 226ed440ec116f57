"""The catalogues of recipes: one TOML an adapter or a task, found by name or path, read closed."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from peterrec.errors import SettingsError, did_you_mean
from peterrec.settings import Settings, read_toml, validate

KINDS = {"adapters": "adapter", "tasks": "task"}
TUNERS = {
    "none": "the frozen encoder, a trained head",
    "patch": "small bottlenecks inside the frozen encoder (PeterRec)",
    "full": "every weight of the encoder",
}
Watched = Literal["accuracy", "balanced_accuracy", "macro_f1", "roc_auc"]  # the larger, the better
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error"]
METRICS: tuple[Metric, ...] = get_args(Metric)
DEFAULT_REDUCTION = 8  # the ratio that PeterRec's parameter counts point to
Recipe = TypeVar("Recipe", bound=Settings)


class PatchRecipe(Settings):
    """Where the model patches of PeterRec (Fig. 3) stand and how large they are."""

    placement: Literal["serial_conv"] = Field(
        default="serial_conv", description="after each dilated convolution, before its norm (Fig. 3b)"
    )
    bottleneck: int | None = Field(default=None, ge=1, description="channels d of the bottleneck; or give `reduction`")
    reduction: int | None = Field(
        default=None, ge=1, description="the bottleneck has D / reduction channels (8 if neither is given)"
    )
    activation: Literal["relu", "gelu"] = Field(default="relu", description="between the two projections")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="inside the bottleneck")
    train_norms: bool = Field(default=False, description="train the norms of the patched blocks as well")
    blocks: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        default="all", description="which residual blocks get patches: all, or the top k"
    )

    @model_validator(mode="after")
    def _one_size(self) -> "PatchRecipe":
        if self.bottleneck is not None and self.reduction is not None:
            raise ValueError("give either bottleneck (channels) or reduction (D / reduction channels), not both")
        return self

    def width(self, hidden_size: int) -> int:
        """Channels of the bottleneck for `hidden_size` channels; SettingsError where none would be left."""
        if self.bottleneck is not None:
            return self.bottleneck
        reduction = DEFAULT_REDUCTION if self.reduction is None else self.reduction
        if reduction > hidden_size:
            raise SettingsError(
                f"patch.reduction = {reduction}: leaves no channel of the encoder's {hidden_size}; "
                "set patch.bottleneck or a smaller patch.reduction."
            )
        return hidden_size // reduction


class AdapterRecipe(Settings):
    """Which weights a task may change, and how."""

    name: str
    tuner: str = Field(description="none (head only), patch, or full")
    patch: PatchRecipe | None = Field(default=None, description="for the tuner patch")
    train_tcl: bool = Field(
        default=False, description="train the vocabulary row of the TCL token, which the readout tcl reads"
    )
    learning_rate: float | None = Field(default=None, gt=0, description="instead of the task's learning rate")

    @field_validator("tuner")
    @classmethod
    def _known_tuner(cls, tuner: str) -> str:
        if tuner not in TUNERS:
            raise ValueError(f"unknown tuner. {did_you_mean(tuner, TUNERS)}")
        return tuner

    @model_validator(mode="after")
    def _fits_tuner(self) -> "AdapterRecipe":
        if (self.patch is not None) != (self.tuner == "patch"):
            raise ValueError("a [patch] table belongs to tuner = 'patch', which needs it, and to no other tuner")
        if self.tuner == "full" and not self.train_tcl:
            raise ValueError("tuner = 'full' trains every row, TCL included: set train_tcl = true")
        if self.tuner == "none" and self.train_tcl:
            raise ValueError("tuner = 'none' trains the head alone: set train_tcl = false, or take tuner = 'patch'")
        return self


class HeadRecipe(Settings):
    """The layers between user vector and classes."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), description="channels of each hidden layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="before each layer of the head")


class SplitRecipe(Settings):
    """Which users train, validate and test."""

    by: Literal["user"] = Field(default="user", description="each user is in one part")
    fractions: tuple[float, float, float] = Field(
        default=(0.70, 0.03, 0.27), description="shares of training, validation and test users"
    )
    stratified: bool = Field(default=True, description="keep the shares of the classes in each part")

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError("expected three shares above 0 that sum to 1")
        return fractions


def _label(label: object) -> object:
    # classes are text, as in the table of users; `classes = [1, 18, 25]` is what one writes
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else label


class TaskRecipe(Settings):
    """What is predicted for each user, and how that is trained and measured."""

    name: str
    kind: Literal["classification"] = Field(default="classification", description="one of several classes a user")
    column: str = Field(min_length=1, description="label column in the table of users")
    classes: tuple[Annotated[str, BeforeValidator(_label)], ...] | None = Field(
        default=None,
        min_length=2,
        description="the classes in order; otherwise those found in the data, sorted",
    )
    readout: Literal["mean", "last", "tcl"] = Field(
        default="mean", description="how hidden states become a user vector"
    )
    adapter: str = Field(
        default="serial", min_length=1, description="adapter when none is asked for: a name or a .toml"
    )
    class_weights: bool = Field(default=False, description="weight classes by their inverse frequency in the loss")
    head: HeadRecipe = HeadRecipe()
    metrics: tuple[Metric, ...] = Field(default=METRICS, min_length=1, description="figures to report")
    metric: Watched = Field(
        default="accuracy", description="validation figure that early stopping watches; one of `metrics`"
    )
    split: SplitRecipe = SplitRecipe()
    max_length: int = Field(default=200, ge=1, description="positions of the history that are read, the last ones")
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1, description="one run a seed")
    training: dict[str, bool | int | float | str] = Field(default={}, description="training settings of this task")

    @model_validator(mode="after")
    def _consistent(self) -> "TaskRecipe":
        if self.metric not in self.metrics:
            raise ValueError(f"metric = {self.metric!r} is not one of metrics: {', '.join(self.metrics)}")
        for key, values in (
            ("metrics", self.metrics),
            ("classes", self.classes or ()),
            ("seeds", self.seeds),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names one value twice: {', '.join(map(str, values))}")
        return self


def catalogue(kind: str) -> Path:
    """The folder of a kind's recipes: inside the package when installed, beside it in a checkout."""
    if kind not in KINDS:
        raise SettingsError(f"unknown catalogue {kind!r}. {did_you_mean(kind, KINDS)}")
    package = Path(__file__).resolve().parent
    installed = package / "recipes" / kind
    return installed if installed.is_dir() else package.parent / kind


def names(kind: str) -> list[str]:
    """The names of a kind's recipes ("adapters", "tasks"), sorted."""
    return sorted(file.stem for file in catalogue(kind).glob("*.toml"))


def find(kind: str, name: str | Path) -> Path:
    """The TOML of a recipe: a name from the catalogue, or the path of a `.toml` anywhere.

    Raises SettingsError with the nearest name when there is none.
    """
    if str(name).endswith(".toml"):
        file = Path(name).expanduser()
        if not file.is_file():
            raise SettingsError(f"{name}: there is no such {KINDS[kind]} file.")
        return file
    known = names(kind)
    if str(name) not in known:
        raise SettingsError(
            f"unknown {KINDS[kind]} {str(name)!r}. {did_you_mean(str(name), known)} "
            "For a recipe of your own, give the path of its .toml."
        )
    return catalogue(kind) / f"{name}.toml"


def adapter(name: str | Path) -> AdapterRecipe:
    """The adapter of that name, or in that file."""
    return _read(AdapterRecipe, find("adapters", name))


def task(name: str | Path) -> TaskRecipe:
    """The task of that name, or in that file."""
    return _read(TaskRecipe, find("tasks", name))


def describe(kind: str, name: str | Path) -> str:
    """The comment block that opens a recipe, without its `#` signs; its first line says what it is."""
    lines = []
    for line in find(kind, name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return "\n".join(lines).strip()


def _read(model: type[Recipe], file: Path) -> Recipe:
    values: dict[str, Any] = read_toml(file)
    if "name" in values:
        raise SettingsError(f"{file}: unknown key 'name': a recipe is called as its file is.")
    return validate(model, {"name": file.stem, **values}, origin=str(file))
