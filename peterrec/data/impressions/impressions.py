"""An opened table of impressions: arrays of all rows, mapped from files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from peterrec.data.attribute import Split
from peterrec.data.impressions import NOTE
from peterrec.data.impressions.row_split import split_rows
from peterrec.data.impressions.schema import Schema
from peterrec.data.sequences import Sequences, UserIds
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, SettingsError, did_you_mean

FORMAT, FORMAT_VERSION = "peterrec.impressions", 1
HISTORIES, VOCABULARY, VALUES = "histories", "vocabulary.parquet", "values.parquet"
_MAPPED_FROM = 1 << 16  # bytes; a smaller file is read

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Impressions:
    """N impressions in the order of their files.

    `position` (N,) is a row's place among all rows read, bad ones included. `user` and `item` (N,) are places in
    `user_ids` and `item_ids`, −1 throughout where there is no such column. `labels` are (N,) each, NaN where one is
    missing. `domain` (N,) is a place in `schema.domains`, −1 where unknown. `weight` (N,) and `time` (N,), in
    microseconds or as an order, are None without such a column.

    Fields: `categorical` (N, Fc) holds codes, 0 where missing, of which code c means `values(name)[c − 1]`; `numeric`
    (N, Fn) NaN where missing; `multi` a pair a field, flat codes from 1 and offsets (N + 1,). Their columns stand in
    the order of `schema.of_kind`.

    With a history, row u of `history` holds the known events of user u, `before` (N,) says how many of them came
    strictly before the impression, and `item_row` (N,) is the item's row in `vocabulary`, PAD where it has none;
    without, they are None. `folder` is where it lies (or came from), for messages.
    """

    folder: Path
    schema: Schema
    fingerprint: str
    summary: dict[str, Any]
    position: Ints
    user: Ints
    item: Ints
    user_ids: UserIds
    item_ids: UserIds
    labels: dict[str, Numbers]
    domain: Ints
    weight: Numbers | None
    time: Ints | None
    categorical: Codes
    numeric: Numbers
    multi: tuple[tuple[Codes, Ints], ...]
    listed: Mapping[str, pa.StringArray] = field(repr=False)
    history: Sequences | None = None
    before: Ints | None = None
    item_row: Codes | None = None
    vocabulary: Vocabulary | None = None

    def __len__(self) -> int:
        """The number of rows N."""
        return len(self.user)

    def values(self, name: str) -> list[str]:
        """The values of a categorical or multi field; code c is the value c − 1. SettingsError for other fields."""
        return self._listed(name).to_pylist()

    def value_array(self, name: str) -> pa.StringArray:
        """As `values`, in Arrow."""
        return self._listed(name)

    def numeric_field(self, name: str) -> Numbers:
        """The numbers of a numeric field (N,), NaN where missing. SettingsError for other fields."""
        names = self.schema.of_kind("numeric")
        if name not in names:
            raise SettingsError(f"{self.folder}: has no numeric field {name!r}. {did_you_mean(name, names)}")
        return self.numeric[:, names.index(name)]

    def split(self, seed: int) -> Split:
        """Sorted row numbers of each part, by the rule of the schema. Raises DataError where one would be empty."""
        return split_rows(self.schema.split, rows=len(self), seed=seed, user=self.user, time=self.time)

    def _listed(self, name: str) -> pa.StringArray:
        if name not in self.listed:
            raise SettingsError(f"{self.folder}: no field {name!r} with values. {did_you_mean(name, self.listed)}")
        return self.listed[name]

    @classmethod
    def of_arrays(
        cls,
        *,
        labels: Mapping[str, Any],
        categorical: Mapping[str, Sequence[str | None]] | None = None,
        numeric: Mapping[str, Any] | None = None,
        multi: Mapping[str, Sequence[Sequence[str]]] | None = None,
        user: Sequence[str] | None = None,
        item: Sequence[str] | None = None,
        domain: Sequence[str | None] | None = None,
        weight: Any = None,
        time: Any = None,
        history: Sequences | None = None,
        before: Any = None,
        item_row: Any = None,
        vocabulary: Vocabulary | None = None,
        schema: Schema | None = None,
    ) -> "Impressions":
        """Impressions in memory, from columns of N values each; `schema` is made of them unless it is given.

        Users are numbered by id, as in a file: row u of `history` must be that of the u-th id.
        """
        from peterrec.data.impressions.in_memory import of_columns

        return of_columns(
            labels=labels,
            categorical=categorical or {},
            numeric=numeric or {},
            multi=multi or {},
            user=user,
            item=item,
            domain=domain,
            weight=weight,
            time=time,
            history=history,
            before=before,
            item_row=item_row,
            vocabulary=vocabulary,
            schema=schema,
        )


def open_impressions(folder: Path) -> Impressions:
    """Open what `write_impressions` wrote.

    Raises DataError for any other folder or a damaged one, RefusedError for a damaged vocabulary.
    """
    folder = Path(folder)
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        if (note["format"], note["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"{NOTE} is of another format")
        schema = Schema.from_json(json.dumps(note["schema"]), origin=NOTE)
        rows, history = int(note["rows"]), bool(note["history"])
        labels = _array(folder, "labels", np.float32, (len(schema.rules), rows))
        listed = _listings(folder / VALUES, schema)
        opened = Impressions(
            folder=folder,
            schema=schema,
            fingerprint=str(note["fingerprint"]),
            summary=dict(note["summary"]),
            position=_array(folder, "position", np.int64, (rows,)),
            user=_array(folder, "user", np.int64, (rows,)),
            item=_array(folder, "item", np.int64, (rows,)),
            user_ids=_ids(folder / "users.parquet"),
            item_ids=_ids(folder / "items.parquet"),
            labels=dict(zip(schema.labels, labels, strict=True)),
            domain=_array(folder, "domain", np.int64, (rows,)),
            weight=_array(folder, "weight", np.float32, (rows,)) if schema.weights else None,
            time=_array(folder, "time", np.int64, (rows,)) if schema.times else None,
            categorical=_array(folder, "categorical", np.int32, (rows, len(schema.of_kind("categorical")))),
            numeric=_array(folder, "numeric", np.float32, (rows, len(schema.of_kind("numeric")))),
            multi=tuple(
                (
                    _array(folder, f"multi_{place}_codes", np.int32, (None,)),
                    _array(folder, f"multi_{place}_offsets", np.int64, (rows + 1,)),
                )
                for place in range(len(schema.of_kind("multi")))
            ),
            listed=listed,
            before=_array(folder, "before", np.int64, (rows,)) if history else None,
            item_row=_array(folder, "item_row", np.int32, (rows,)) if history else None,
        )
        if any(int(offsets[-1]) != len(codes) for codes, offsets in opened.multi):
            raise ValueError("a field of several values is cut off")
    except (OSError, ValueError, KeyError, TypeError, EOFError, SettingsError, pa.ArrowException) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(f"{folder}: no impressions ({reason}); prepare them again.") from None
    if not history:
        return opened
    sequences = Sequences(folder / HISTORIES)
    if len(sequences) != len(opened.user_ids):
        raise DataError(f"{folder}: its histories and its users do not fit; prepare the impressions again.")
    return replace(opened, history=sequences, vocabulary=Vocabulary.load(folder / VOCABULARY))


def _array(folder: Path, name: str, kind: type, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """An array of a file, mapped where that is worth it. Raises ValueError for another type or shape."""
    path = folder / f"{name}.npy"
    found = np.load(path, mmap_mode="r" if path.stat().st_size >= _MAPPED_FROM else None, allow_pickle=False)
    fits = len(found.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
    if found.dtype != kind or not fits:
        raise ValueError(f"{path.name} holds {found.dtype} {found.shape}")
    return np.asarray(found)


def _ids(path: Path) -> UserIds:
    return UserIds(_table(path)["id"].cast(pa.string()))


def _table(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return file.read()


def _listings(path: Path, schema: Schema) -> dict[str, pa.StringArray]:
    """The values of each field that has some, by name; the file has a row a field, in order."""
    table = _table(path)
    found = dict(zip(table["field"].to_pylist(), table["values"], strict=True))
    return {name: found[name].values for name in (*schema.of_kind("categorical"), *schema.of_kind("multi"))}
