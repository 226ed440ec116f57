"""From the values in a file of impressions to the rows of a model's tables, learned from training rows alone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from peterrec.atomic import atomic_file
from peterrec.data.impressions.field_batch import FieldBatch, FieldSizes
from peterrec.data.impressions.field_values import (
    KnownValues,
    Scale,
    bag_places,
    count_bags,
    count_codes,
    one_array,
)
from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.schema import KINDS
from peterrec.errors import RefusedError, SettingsError, did_you_mean

FORMAT, FORMAT_VERSION = "peterrec.fields", 1
VALUES, NOTE = "field_values.parquet", "fields.json"

Ints = NDArray[np.int64]
_SCHEMA = pa.schema([("field", pa.string()), ("value", pa.string()), ("count", pa.int64())])
_HASHED_AT_ONCE = 1 << 16


class FieldCoding:
    """Which value has which row, and how numbers are scaled: the bridge from any file of a schema to one model.

    In each field's table row 0 is a missing value, row 1 one that is unseen or rarer than the minimum, and the others
    stand from row 2 by falling count, then text. Values are compared as text, so that other files, which number theirs
    otherwise, can be coded too. Numbers become (x − mean) / sd of the training rows; missing or infinite ones 0.
    """

    def __init__(
        self, *, categorical: Sequence[KnownValues], numeric: Sequence[Scale], multi: Sequence[KnownValues]
    ) -> None:
        self.categorical: tuple[KnownValues, ...] = tuple(categorical)
        self.numeric: tuple[Scale, ...] = tuple(numeric)
        self.multi: tuple[KnownValues, ...] = tuple(multi)
        self._means = np.array([field.mean for field in self.numeric], dtype=np.float64)
        self._deviations = np.array([field.sd for field in self.numeric], dtype=np.float64)
        self._lookups: WeakKeyDictionary[Impressions, _Lookup] = WeakKeyDictionary()

    @property
    def names(self) -> tuple[str, ...]:
        """The F fields: categorical, then numeric, then multi."""
        return tuple(field.name for field in (*self.categorical, *self.numeric, *self.multi))

    @property
    def sizes(self) -> FieldSizes:
        """What a model needs to know of the fields."""
        return FieldSizes(
            names=self.names,
            categorical=tuple(field.size for field in self.categorical),
            numeric=len(self.numeric),
            multi=tuple(field.size for field in self.multi),
        )

    @classmethod
    def fit(cls, impressions: Impressions, rows: Ints, *, fields: Sequence[str], minimum: int = 1) -> "FieldCoding":
        """Learn from the training `rows` (n,); the `fields` of each kind keep their order.

        A value with fewer than `minimum` of these rows counts as unseen. Raises SettingsError for a field that the
        impressions do not have, or one that is named twice.
        """
        kinds = {field.name: field.kind for field in impressions.schema.fields}
        for place, name in enumerate(fields):
            if name not in kinds:
                raise SettingsError(
                    f"{impressions.folder}: the impressions have no field {name!r}. {did_you_mean(name, kinds)}"
                )
            if name in fields[:place]:
                raise SettingsError(f"the field {name!r} is named twice; name each field once.")
        columns, rows = _columns(impressions), np.asarray(rows, dtype=np.int64)
        categorical, numeric, multi = [], [], []
        for name in fields:
            column = columns[name]
            if kinds[name] == "numeric":
                numeric.append(Scale.of(name, impressions.numeric[:, column], rows))
                continue
            values = impressions.value_array(name)
            if kinds[name] == "categorical":
                counts = count_codes(impressions.categorical[:, column], rows, size=len(values))
                categorical.append(KnownValues.of(name, values, counts, minimum=minimum))
            else:
                counts = count_bags(*impressions.multi[column], rows, size=len(values))
                multi.append(KnownValues.of(name, values, counts, minimum=minimum))
        return cls(categorical=categorical, numeric=numeric, multi=multi)

    def select(self, fields: Sequence[str]) -> "FieldCoding":
        """The coding of some of its fields alone, for a part of a model that reads no others."""
        assert set(fields) <= set(self.names), fields
        return FieldCoding(
            categorical=[field for field in self.categorical if field.name in fields],
            numeric=[field for field in self.numeric if field.name in fields],
            multi=[field for field in self.multi if field.name in fields],
        )

    def batch(self, impressions: Impressions, rows: Ints) -> FieldBatch:
        """The fields of `rows` (B,) as tensors on the CPU; what a file's codes mean is looked up once a file.

        Raises SettingsError where the impressions lack one of the fields.
        """
        lookup, rows = self._lookup(impressions), np.asarray(rows, dtype=np.int64)
        codes = impressions.categorical[rows].take(lookup.categorical, axis=1)
        numbers = impressions.numeric[rows].take(lookup.numeric, axis=1)
        missing = ~np.isfinite(numbers)
        numbers[missing] = 0
        scaled = (numbers - self._means) / self._deviations
        scaled[missing] = 0
        return FieldBatch(
            categorical=torch.from_numpy(lookup.rows.take(codes + lookup.starts)),
            numeric=torch.from_numpy(scaled.astype(np.float32)),
            missing=torch.from_numpy(missing),
            multi=tuple(_bags(*impressions.multi[column], rows, table=table) for column, table in lookup.multi),
        )

    def _lookup(self, impressions: Impressions) -> "_Lookup":
        """That of these impressions, made at their first batch and kept as long as they live."""
        if impressions not in self._lookups:
            self._lookups[impressions] = _Lookup.of(self, impressions)
        return self._lookups[impressions]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over fields, values and scales: equal where every impression is coded equally."""
        digest = hashlib.sha256(json.dumps(self._note(), ensure_ascii=False).encode())
        for field in (*self.categorical, *self.multi):
            for start in range(0, len(field.values), _HASHED_AT_ONCE):
                values = [value.encode() for value in field.values.slice(start, _HASHED_AT_ONCE).to_pylist()]
                digest.update(b"".join(len(value).to_bytes(8, "little") + value for value in values))
        return digest.hexdigest()

    def _note(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "categorical": [{"name": field.name, "values": len(field.values)} for field in self.categorical],
            "numeric": [{"name": field.name, "mean": field.mean, "sd": field.sd} for field in self.numeric],
            "multi": [{"name": field.name, "values": len(field.values)} for field in self.multi],
        }

    def save(self, folder: Path) -> None:
        """Write the known values as Parquet and the fields with their scales as JSON into `folder`."""
        fields = (*self.categorical, *self.multi)
        names = np.repeat(
            np.array([field.name for field in fields], dtype=np.object_), [len(field.values) for field in fields]
        )
        values = pa.chunked_array([field.values for field in fields], pa.string())
        counts = np.concatenate([np.zeros(0, dtype=np.int64), *(field.counts for field in fields)])
        table = pa.table([pa.array(names, pa.string()), values, pa.array(counts)], schema=_SCHEMA)
        with atomic_file(Path(folder) / VALUES) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        text = json.dumps({**self._note(), "fingerprint": self.fingerprint}, indent=2, ensure_ascii=False)
        with atomic_file(Path(folder) / NOTE) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "FieldCoding":
        """Read what `save` wrote; RefusedError where a file is missing, damaged or changed by hand."""
        folder = Path(folder)
        try:
            note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
            if (note["format"], note["format_version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"{NOTE} is of another format")
            with pq.ParquetFile(folder / VALUES) as file:
                table = file.read()
            if not table.schema.equals(_SCHEMA):
                raise ValueError(f"the columns of {VALUES} are {', '.join(table.schema.names)}")
            start, known = 0, {"categorical": [], "multi": []}
            for kind, fields in known.items():
                for entry in note[kind]:
                    part = table.slice(start, int(entry["values"]))
                    start += int(entry["values"])
                    fields.append(KnownValues(str(entry["name"]), one_array(part["value"]), part["count"].to_numpy()))
            numeric = [Scale(str(entry["name"]), float(entry["mean"]), float(entry["sd"])) for entry in note["numeric"]]
            coding = cls(categorical=known["categorical"], numeric=numeric, multi=known["multi"])
            if start != table.num_rows or coding.fingerprint != note["fingerprint"]:
                raise ValueError("the values are not those of the fingerprint stored with them")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as problem:
            reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise RefusedError(
                f"{folder}: its fields cannot be read ({reason}); the run is damaged or incomplete: take {NOTE} and "
                f"{VALUES} as they were written, or train again."
            ) from None
        return coding


@dataclass(frozen=True)
class _Lookup:
    """How one file's arrays become a batch: which columns are read, and which row each code means."""

    categorical: Ints  # columns (Fc,)
    starts: NDArray[np.int32]  # (Fc,) where each field's codes begin in `rows`
    rows: Ints  # of the codes of all categorical fields, end to end
    numeric: Ints  # columns (Fn,)
    multi: tuple[tuple[int, Ints], ...]  # column, and the row of each code

    @classmethod
    def of(cls, coding: FieldCoding, impressions: Impressions) -> "_Lookup":
        columns = _columns(impressions)
        for kind, fields in zip(KINDS, (coding.categorical, coding.numeric, coding.multi), strict=True):
            own = impressions.schema.of_kind(kind)
            if absent := [field.name for field in fields if field.name not in own]:
                hint = did_you_mean(absent[0], own)
                raise SettingsError(f"{impressions.folder}: the model reads a {kind} field {absent[0]!r}. {hint}")
        tables, bags = (
            [field.rows(impressions.value_array(field.name)) for field in fields]
            for fields in (coding.categorical, coding.multi)
        )
        return cls(
            categorical=np.array([columns[field.name] for field in coding.categorical], dtype=np.int64),
            starts=np.cumsum([0, *map(len, tables)])[:-1].astype(np.int32),
            rows=np.concatenate([np.zeros(0, dtype=np.int64), *tables]),
            numeric=np.array([columns[field.name] for field in coding.numeric], dtype=np.int64),
            multi=tuple((columns[field.name], table) for field, table in zip(coding.multi, bags, strict=True)),
        )


def _columns(impressions: Impressions) -> dict[str, int]:
    """The place of each field among those of its kind."""
    return {name: place for kind in KINDS for place, name in enumerate(impressions.schema.of_kind(kind))}


def _bags(codes: NDArray[np.int32], offsets: Ints, rows: Ints, *, table: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """The table's rows of all values of `rows` (B,), and where those of each begin."""
    places, starts = bag_places(offsets, rows)
    return torch.from_numpy(table.take(codes[places])), torch.from_numpy(starts)
