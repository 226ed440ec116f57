"""Impressions of a request as a model of impressions reads them."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from peterrec.adaptation import history_length
from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.schema import Schema
from peterrec.data.sequences import UserIds
from peterrec.data.vocabulary import PAD
from peterrec.errors import DataError, did_you_mean
from peterrec.serving.histories import Histories
from peterrec.serving.item_lookup import ItemLookup
from peterrec.serving.jobs import Job, events_of
from peterrec.serving.requests import Impression, Outcomes, PredictImpressions, Read
from peterrec.serving.tasks import ServedImpressions

BLANKS = " \t\n\r\xa0"  # around a value; what files are read by takes them for nothing too


class ImpressionJob(Job):
    """What follows each row of a request, as `peterrec predict` says it.

    Raises DataError for a field that is missing, unknown, or of another kind, and for a history that is not there.
    """

    def __init__(self, request: PredictImpressions, task: ServedImpressions, lookup: ItemLookup) -> None:
        self.task = task
        self.rows = len(request.rows)
        with_encoder = task.facts.with_encoder  # type: ignore[attr-defined]
        if request.histories and not with_encoder:
            raise DataError(f"histories: the task {task.name!r} was trained without an encoder and reads none.")
        self.events = events_of(request.histories)
        self.histories = lookup.histories(request.histories)
        self.impressions = _impressions(request.rows, task, self.histories, lookup if with_encoder else None)

    @torch.no_grad()
    def answer(self, vectors: Sequence[Tensor]) -> Outcomes:
        fitted, facts = self.task.loaded.fitted, self.task.facts
        rows = np.arange(self.rows)
        device = next(fitted.network.parameters()).device
        outputs = fitted.rows(self.impressions, kept=rows, cache_mb=0).predict(rows, device)
        length = history_length(facts.adapter, facts.task)  # type: ignore[attr-defined]
        used = np.minimum(self.histories.lengths, length)
        return Outcomes(outputs, Read(self.events, self.events - self.histories.lengths, used))


def _impressions(
    rows: Sequence[Impression], task: ServedImpressions, histories: Histories, lookup: ItemLookup | None
) -> Impressions:
    schema = task.loaded.schema
    kinds = {field.name: field.kind for field in schema.fields}
    columns: dict[str, list[Any]] = {name: [] for name in kinds}
    for number, row in enumerate(rows):
        given = _given(row, schema)
        for name in given:
            if name not in kinds:
                raise DataError(f"row {number}: the model has no field {name!r}. {did_you_mean(name, kinds)}")
        for name, kind in kinds.items():
            if name not in given and name not in task.optional:
                raise DataError(f"row {number} lacks the field {name!r}, which the model reads; null if it is missing.")
            columns[name].append(_cell(given.get(name), kind, at=f"row {number}, field {name!r}"))
    owners = [_owner(row, number, histories) for number, row in enumerate(rows)]
    items, before = None, None
    if lookup is not None:
        found = lookup.rows([row.item or "" for row in rows])
        items = np.where((found >= 0) & [row.item is not None for row in rows], found, PAD).astype(np.int32)
        # behind them a history of nobody, for rows without one
        histories = Histories(histories.flat, [*histories.lengths.tolist(), 0])
        before = histories.lengths[owners]
    read = schema.model_copy(update={"user": None, "item": None, "time": None, "weight": None, "history": None})
    table = Impressions.of_arrays(
        labels={name: np.full(len(rows), np.nan, dtype=np.float32) for name in schema.labels},
        categorical={name: columns[name] for name in schema.of_kind("categorical")},
        numeric={name: columns[name] for name in schema.of_kind("numeric")},
        multi={name: columns[name] for name in schema.of_kind("multi")},
        history=None if lookup is None else histories,
        before=before,
        item_row=items,
        vocabulary=None if lookup is None else lookup.vocabulary,
        schema=read,
    )
    domains = [-1 if row.domain is None else task.domains.get(row.domain.strip(BLANKS), -1) for row in rows]
    return replace(
        table,
        domain=np.array(domains, dtype=np.int64),
        user=np.array(owners, dtype=np.int64),
        user_ids=UserIds(pa.chunked_array([pa.array(map(str, range(len(histories))), pa.string())])),
    )


def _given(row: Impression, schema: Schema) -> dict[str, Any]:
    """The fields of a row; item and domain may be fields as well."""
    given = dict(row.fields)
    names = {field.name for field in schema.fields}
    for column, value in ((schema.item, row.item), (schema.domain and schema.domain.name, row.domain)):
        if column in names and value is not None:
            given.setdefault(column, value)
    return given


def _owner(row: Impression, number: int, histories: Histories) -> int:
    if row.history is None:
        return len(histories)
    if not 0 <= row.history < len(histories):
        raise DataError(
            f"row {number}: history {row.history} is not there; histories has {len(histories)}, numbered from 0."
        )
    return row.history


def _cell(value: Any, kind: str, *, at: str) -> Any:
    """A value as a file's cell would be read."""
    several = isinstance(value, Sequence) and not isinstance(value, str)
    if kind == "multi":
        if several:
            values = [_text(one, at=at) for one in value]
            return [one for one in values if one is not None]
        if value is not None:
            raise DataError(f"{at} takes a list of values.")
        return []
    if isinstance(value, Sequence) and not isinstance(value, str):
        raise DataError(f"{at} takes one value, not a list.")
    if kind == "categorical":
        return _text(value, at=at)
    if value is None:
        return math.nan
    if isinstance(value, str):
        raise DataError(f"{at} is a number, and {value[:40]!r} is text.")
    return float(value) if math.isfinite(value) else math.nan


def _text(value: Any, *, at: str) -> str | None:
    """A value as text, by the rules for files: whole numbers without a fraction, empty text is none."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip(BLANKS) or None
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else json.dumps(value)
    if isinstance(value, int):
        return str(value)
    raise DataError(f"{at} takes text or a number, not {type(value).__name__}.")
