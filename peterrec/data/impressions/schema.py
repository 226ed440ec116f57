"""What stands in a table of impressions: its fields, its labels, and the columns that they are read from."""

from typing import Literal

from pydantic import Field, model_validator

from peterrec.data.logs.columns import TimeUnit
from peterrec.settings import Settings, validate

Kind = Literal["categorical", "numeric", "multi"]
Table = Literal["rows", "users", "items"]  # the impressions themselves, or a table that is joined to them
Compare = Literal[">=", ">", "==", "<=", "<", "!="]
SplitName = Literal["each_user", "rows", "by_user", "temporal"]
KINDS: tuple[Kind, ...] = ("categorical", "numeric", "multi")


class FieldSpec(Settings):
    """A field: a column by its name, what its values are, and the table in which it stands."""

    name: str = Field(min_length=1)
    kind: Kind
    table: Table = "rows"


class LabelRule(Settings):
    """A label: the number in `column` as it is, or 1 where it compares with `value`, else 0. Missing stays missing."""

    name: str = Field(min_length=1)
    column: str = Field(min_length=1)
    compare: Compare | None = None
    value: float | str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "LabelRule":
        if (self.compare is None) != (self.value is None):
            raise ValueError("compare and value go together")
        if isinstance(self.value, str) and self.compare not in ("==", "!="):
            raise ValueError(f"{self.value!r} is no number; text compares by == and != alone")
        return self


class ColumnOf(Settings):
    """A column and the table in which it stands."""

    name: str = Field(min_length=1)
    table: Table = "rows"


class SplitRule(Settings):
    """How rows become training, validation and test rows.

    `each_user`: of each user's rows in order of time the first, then, then the last; `rows`: at random; `by_user`:
    whole users at random; `temporal`: cuts in time for all rows together.
    """

    name: SplitName
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)

    @model_validator(mode="after")
    def _consistent(self) -> "SplitRule":
        if not all(0 < part < 1 for part in self.fractions) or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError("fractions are three shares above 0 that sum to 1: training, validation, test")
        return self


class HistoryColumns(Settings):
    """The columns of the log of events that were known before the impressions."""

    user: str
    item: str
    time: str
    time_unit: TimeUnit = "auto"


class Schema(Settings):
    """Fields, labels and domains of a table of impressions, and the columns that hold them.

    It is saved beside a model, so that new rows are read as those that it learned from.
    """

    fields: tuple[FieldSpec, ...] = ()
    rules: tuple[LabelRule, ...] = ()
    domains: tuple[str, ...] = ()
    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "auto"
    domain: ColumnOf | None = None
    weight: ColumnOf | None = None
    split: SplitRule = SplitRule(name="rows")
    history: HistoryColumns | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in order."""
        return tuple(rule.name for rule in self.rules)

    @property
    def users(self) -> bool:
        """Whether each row has a user."""
        return self.user is not None

    @property
    def weights(self) -> bool:
        """Whether each row has a weight."""
        return self.weight is not None

    @property
    def times(self) -> bool:
        """Whether each row has a time."""
        return self.time is not None

    @property
    def columns(self) -> dict[str, str]:
        """The raw column of each label, field and role (user, item, time, domain, weight) that there is."""
        roles = {"user": self.user, "item": self.item, "time": self.time}
        roles |= {"domain": self.domain and self.domain.name, "weight": self.weight and self.weight.name}
        return {
            **{name: column for name, column in roles.items() if column},
            **{field.name: field.name for field in self.fields},
            **{rule.name: rule.column for rule in self.rules},
        }

    def of_kind(self, kind: Kind) -> tuple[str, ...]:
        """The names of the fields of a kind, in order: the columns of the array that holds them."""
        return tuple(field.name for field in self.fields if field.kind == kind)

    def to_json(self) -> str:
        """The schema as JSON text that `from_json` reads."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str, *, origin: str = "schema") -> "Schema":
        """The schema that `to_json` wrote. Raises SettingsError, naming `origin`, for anything else."""
        import json

        from peterrec.errors import SettingsError

        try:
            values = json.loads(text)
        except ValueError as problem:
            raise SettingsError(f"{origin}: not JSON ({problem}).") from None
        if not isinstance(values, dict):
            raise SettingsError(f"{origin}: no schema of impressions.")
        return validate(cls, values, origin=origin)
