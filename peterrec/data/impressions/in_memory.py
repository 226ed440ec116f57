"""Impressions from columns in memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.schema import ColumnOf, FieldSpec, LabelRule, Schema, SplitRule
from peterrec.data.sequences import Sequences, UserIds
from peterrec.data.vocabulary import Vocabulary


def of_columns(
    *,
    labels: Mapping[str, Any],
    categorical: Mapping[str, Sequence[str | None]],
    numeric: Mapping[str, Any],
    multi: Mapping[str, Sequence[Sequence[str]]],
    user: Sequence[str] | None,
    item: Sequence[str] | None,
    domain: Sequence[str | None] | None,
    weight: Any,
    time: Any,
    history: Sequences | None,
    before: Any,
    item_row: Any,
    vocabulary: Vocabulary | None,
    schema: Schema | None,
) -> Impressions:
    """As `Impressions.of_arrays`."""
    columns = {**labels, **categorical, **numeric, **multi}
    rows = len(next(iter(columns.values())))
    assert all(len(values) == rows for values in columns.values()), "the columns differ in length"
    listed: dict[str, pa.StringArray] = {}
    codes = [_coded(name, values, listed) for name, values in categorical.items()]
    bags = []
    for name, lists in multi.items():
        flat = _coded(name, [value for values in lists for value in values], listed)
        bags.append((flat, np.cumsum([0, *map(len, lists)]).astype(np.int64)))
    domains: dict[str, pa.StringArray] = {}
    domain_code = np.full(rows, -1) if domain is None else _coded("domain", domain, domains).astype(np.int64) - 1
    if schema is None:
        schema = Schema(
            fields=(
                *(FieldSpec(name=name, kind="categorical") for name in categorical),
                *(FieldSpec(name=name, kind="numeric") for name in numeric),
                *(FieldSpec(name=name, kind="multi") for name in multi),
            ),
            rules=tuple(LabelRule(name=name, column=name) for name in labels),
            domains=tuple(domains["domain"].to_pylist()) if domain is not None else (),
            user=None if user is None else "user",
            item=None if item is None else "item",
            time=None if time is None else "time",
            domain=None if domain is None else ColumnOf(name="domain"),
            weight=None if weight is None else ColumnOf(name="weight"),
            split=SplitRule(name="rows" if user is None or time is None else "each_user"),
        )
    user_codes, user_ids = _numbered(user, rows)
    item_codes, item_ids = _numbered(item, rows)
    return Impressions(
        folder=Path("<memory>"),
        schema=schema,
        fingerprint="",
        summary={},
        position=np.arange(rows),
        user=user_codes,
        item=item_codes,
        user_ids=user_ids,
        item_ids=item_ids,
        labels={name: np.asarray(values, dtype=np.float32) for name, values in labels.items()},
        domain=domain_code,
        weight=None if weight is None else np.asarray(weight, dtype=np.float32),
        time=None if time is None else np.asarray(time, dtype=np.int64),
        categorical=np.stack(codes, axis=1) if codes else np.empty((rows, 0), dtype=np.int32),
        numeric=(
            np.stack([np.asarray(values, dtype=np.float32) for values in numeric.values()], axis=1)
            if numeric
            else np.empty((rows, 0), dtype=np.float32)
        ),
        multi=tuple(bags),
        listed=listed,
        history=history,
        before=None if before is None else np.asarray(before, dtype=np.int64),
        item_row=None if item_row is None else np.asarray(item_row, dtype=np.int32),
        vocabulary=vocabulary,
    )


def _coded(name: str, values: Sequence[str | None], listed: dict[str, pa.StringArray]) -> NDArray[np.int32]:
    """Codes (N,) of values in their sorted order, from 1, 0 for None; `listed` takes the values."""
    known = sorted({value for value in values if value is not None})
    listed[name] = pa.array(known, pa.string())
    place = {value: code for code, value in enumerate(known, start=1)}
    return np.array([0 if value is None else place[value] for value in values], dtype=np.int32)


def _numbered(ids: Sequence[str] | None, rows: int) -> tuple[NDArray[np.int64], UserIds]:
    listed: dict[str, pa.StringArray] = {"": pa.array([], pa.string())}
    codes = np.full(rows, -1) if ids is None else _coded("", ids, listed).astype(np.int64) - 1
    return codes, UserIds(pa.chunked_array([listed[""]], pa.string()))
