"""Which columns of a log hold user, item and time, and which types they may have."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from peterrec.data.logs.problems import Findings, Offender
from peterrec.errors import did_you_mean

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "order"]
IdKind = Literal["text", "integer", "uuid"]
TimeKind = Literal["text", "integer", "float", "timestamp"]


@dataclass(frozen=True)
class LogColumns:
    """The names of the columns; without `time` the order of the rows in the files is the order of the events.

    `time_unit` says what whole numbers in the time column mean: `auto` tells seconds to nanoseconds since
    1970 by their size, and takes small numbers for a mere order.
    """

    user: str = "user"
    item: str = "item"
    time: str | None = "time"
    time_unit: TimeUnit = "auto"

    @property
    def names(self) -> list[str]:
        """The wanted columns, each once."""
        return list(dict.fromkeys(n for n in (self.user, self.item, self.time) if n is not None))

    @property
    def ids(self) -> list[str]:
        """The columns that hold ids, each once."""
        return list(dict.fromkeys((self.user, self.item)))


def missing(
    file: str, wanted: Iterable[str], names: Sequence[str], findings: Findings, *, optional: str | None = None
) -> bool:
    """Whether a wanted column is absent or stands twice; each such column becomes a fatal problem."""
    found = False
    for name in wanted:
        if name not in names:
            fix = f"there is no such column. {_suggest(name, names)}"
            if name == optional:
                fix += " Without a time column the order of the rows counts."
            findings.add("missing_column", "fatal", fix, column=name, offenders=[Offender(file)])
            found = True
        elif list(names).count(name) > 1:
            fix = "the column stands more than once; rename or remove all but one"
            findings.add("duplicated_column", "fatal", fix, column=name, offenders=[Offender(file)])
            found = True
    return found


def _suggest(name: str, names: Sequence[str]) -> str:
    def bare(text: str) -> str:
        return "".join(c for c in text.casefold() if c.isalnum())

    same = [other for other in names if bare(other) == bare(name)]
    known = list(dict.fromkeys(n for n in names if n))
    if same:
        return f"Did you mean {same[0]!r}? Known: {', '.join(sorted(known)[:40])}."
    return did_you_mean(name, known[:40])


def id_kind(kind: pa.DataType) -> IdKind | None:
    """How an id column becomes text; None if it must not (floats, lists, dates, …)."""
    if isinstance(kind, pa.DictionaryType):
        return id_kind(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return "uuid" if kind.extension_name == "arrow.uuid" else id_kind(kind.storage_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return "integer"
    return "text" if pa.types.is_null(kind) else None  # a column of nulls: every row is reported


def time_kind(kind: pa.DataType) -> TimeKind | None:
    """How a time column becomes microseconds; None if it cannot."""
    if isinstance(kind, pa.DictionaryType):
        return time_kind(kind.value_type)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp"
    if pa.types.is_float64(kind):
        return "float"
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return "integer"
    return "text" if id_kind(kind) == "text" else None


def refuse_types(file: str, schema: pa.Schema, columns: LogColumns, findings: Findings) -> bool:
    """Whether a column has a type that ids or times cannot have; each such column becomes a fatal problem."""
    found = False
    for name in columns.ids:
        kind = schema.field(name).type
        if id_kind(kind) is None:
            fix = f"the column holds {kind}, but ids must be text or integers; "
            if pa.types.is_floating(kind):
                fix += "floats have lost digits of large ids, so write them as integers (or text) at the source"
            elif pa.types.is_nested(kind):
                fix += "write one row for each event"
            else:
                fix += "cast the column where the file is written"
            findings.add("id_type", "fatal", fix, column=name, offenders=[Offender(file)])
            found = True
    if columns.time is not None and time_kind(kind := schema.field(columns.time).type) is None:
        fix = f"the column holds {kind}, but times must be integers, timestamps, dates or ISO text"
        if pa.types.is_floating(kind):
            fix += "; such floats cannot hold a time in seconds exactly, so write integers at the source"
        findings.add("time_type", "fatal", fix, column=columns.time, offenders=[Offender(file)])
        found = True
    return found
