"""A table of predictions with the labels that they are measured against, and which rows tune and which test."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from peterrec.errors import DataError, SettingsError, did_you_mean
from peterrec.fusion.goal import Goal
from peterrec.metrics.measure_name import OF_USERS

PREFIX = "p_"
ROLES = ("row", "user", "item", "domain", "seed", "model", "part", "time", "score")  # columns that are no labels
TUNE, TEST = "validation", "test"
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Predictions:
    """N rows: the `table` that they came in, predictions and labels by name, `(N,)` each (NaN: no label).

    `clusters` `(N,)` are users, or without them (`users` is False) rows; `lists` `(N,)` say which rows NDCG ranks
    together, `seeds` `(N,)` which were predicted by the same model. `tuned` and `tested` `(N,)` mark rows of either
    part, disjoint; `told` says how they were parted.
    """

    origin: str
    table: pa.Table
    predicted: dict[str, Floats]
    labels: dict[str, Floats]
    clusters: Ints
    users: bool
    lists: Ints
    seeds: Ints
    tuned: Flags
    tested: Flags
    told: str
    weight: Floats | None = None

    def __len__(self) -> int:
        return len(self.clusters)

    def rows(self, part: Flags) -> list[Ints]:
        """The rows of a part, those of each seed by themselves; a seed without rows there is left out."""
        found = [np.flatnonzero(part & (self.seeds == seed)) for seed in np.unique(self.seeds)]
        return [rows for rows in found if len(rows)]

    def all_tested(self) -> "Predictions":
        """The same where nothing is tuned."""
        told = "all rows are tested: nothing was tuned on them here"
        return replace(self, tuned=np.zeros(len(self), bool), tested=np.ones(len(self), bool), told=told)

    def binary_labels(self) -> list[str]:
        """The labels that are 0 or 1 wherever they are known, and known somewhere."""
        known = {name: values[~np.isnan(values)] for name, values in self.labels.items()}
        return [name for name, values in known.items() if len(values) and np.isin(values, (0, 1)).all()]

    def check(self, goals: Sequence[Goal], *, parts: Sequence[str] = (TUNE, TEST)) -> None:
        """Raises SettingsError for a label that is not there or a GAUC without users, DataError for labels that are not
        0 and 1, or of which a part holds one class only."""
        for goal in goals:
            if goal.label not in self.labels:
                hint = did_you_mean(goal.label, self.labels)
                if goal.label in self.predicted:
                    hint = (
                        f"{goal.label} is a prediction; a metric names the label that the score is held against. "
                        + hint
                    )
                raise SettingsError(f"--metric {goal}: {self.origin} has no label {goal.label!r}. {hint}")
            if goal.measure in OF_USERS and not self.users:
                raise SettingsError(f"--metric {goal}: {self.origin} has no users; take {goal.label}/auc.")
            values = self.labels[goal.label]
            wrong = ~np.isnan(values) & ~np.isin(values, (0, 1))
            if wrong.any():
                row = int(wrong.argmax())
                raise DataError(
                    f"{self.origin}, column {goal.label!r}, row {row + 1:,}: {values[row]:g}, and a score is measured "
                    "against labels 0 and 1. Name another label with --metric."
                )
            for part, rows in ((TUNE, self.tuned), (TEST, self.tested)):
                if part in parts and len(classes := np.unique(values[rows & ~np.isnan(values)])) < 2:
                    told = f"are all {classes[0]:g}" if len(classes) else "are all missing"
                    raise DataError(
                        f"{self.origin}: the labels {goal.label!r} of the {part} rows ({int(rows.sum()):,}) {told}, so "
                        "that nothing can be measured by them. Give more rows, or name another label with --metric."
                    )


def of_table(
    table: pa.Table,
    *,
    origin: str,
    user: str | None = None,
    within: str | None = None,
    tune_share: float = 0.5,
    seed: int = 0,
) -> Predictions:
    """Predictions of columns `p_<name>`, labels of the other columns of numbers; a part of the users tunes.

    `user` names the column of users (without: `user`, where there is one), `within` the column that makes lists of a
    user's rows. Users, or rows where there are none, are drawn by `seed`. Raises SettingsError for columns that are
    not there, DataError for a table that has no predictions, no rows, or those of several models.
    """
    assert 0 < tune_share < 1
    names = table.column_names
    for option, wanted in (("--user", user), ("--list", within)):
        if wanted is not None and wanted not in names:
            raise SettingsError(f"{option} {wanted}: {origin} has no such column. {did_you_mean(wanted, names)}")
    user = "user" if user is None and "user" in names else user
    predicted = {
        name.removeprefix(PREFIX): numbers(table, name, origin=origin) for name in names if name.startswith(PREFIX)
    }
    if not predicted:
        raise DataError(
            f"{origin}: there are no predictions (columns p_…, such as p_ctr); its columns are {', '.join(names)}. "
            "Give what `peterrec predict` or `peterrec finetune` wrote of a task on impressions."
        )
    if not table.num_rows:
        raise DataError(f"{origin}: there are no rows.")
    if "model" in names and len(models := table["model"].unique()) > 1:
        raise DataError(
            f"{origin}: holds the predictions of {len(models)} models ({', '.join(map(str, models.to_pylist()[:3]))}); "
            "keep the rows of one."
        )
    labels = {
        name: numbers(table, name, origin=origin)
        for name in names
        if name not in (*ROLES, user, within) and not name.startswith(PREFIX) and _counts(table.schema.field(name).type)
    }
    rows = np.arange(table.num_rows)
    clusters = rows if user is None else codes(table, user, origin=origin)
    seeds = codes(table, "seed", origin=origin) if "seed" in names else np.zeros_like(rows)
    drawn = np.random.default_rng((seed, 61)).permutation(int(clusters.max()) + 1)
    tuned = (drawn < max(round(tune_share * len(drawn)), 1))[clusters]
    who = "rows" if user is None else "users"
    return Predictions(
        origin=origin,
        table=table,
        predicted=predicted,
        labels=labels,
        clusters=clusters,
        users=user is not None,
        lists=lists_of(clusters if user is not None else np.zeros_like(rows), table, within, origin=origin),
        seeds=seeds,
        tuned=tuned,
        tested=~tuned,
        told=f"{100 * tune_share:g}% of the {who}, drawn at random (seed {seed}), tune; the rows of all others test",
    )


def lists_of(clusters: Ints, table: pa.Table, within: str | None, *, origin: str) -> Ints:
    """Which list each row `(N,)` is in: that of its user, or of its user and the value of a column."""
    if within is None:
        return clusters
    value = codes(table, within, origin=origin)
    return np.unique(np.stack([clusters, value]), axis=1, return_inverse=True)[1].astype(np.int64).ravel()


def read_table(path: Path) -> pa.Table:
    """A Parquet file. Raises SettingsError where there is none, DataError where it cannot be read."""
    if not path.is_file():
        raise SettingsError(
            f"{path}: there is no such file or folder; give a Parquet file of predictions, or the folder of a run of "
            "`peterrec finetune` on impressions (without any, runs/mmoe_esmm of `peterrec finetune --task mmoe_esmm`)."
        )
    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (OSError, pa.ArrowException) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(
            f"{path}: not readable as Parquet ({reason}); give a table that predict or finetune wrote."
        ) from None


def numbers(table: pa.Table, name: str, *, origin: str) -> Floats:
    """A column of numbers `(N,)`, NaN where missing. Raises DataError for any other."""
    column = table[name]
    if not _counts(column.type):
        raise DataError(f"{origin}, column {name!r}: holds {column.type}, not numbers.")
    found = column.cast(pa.float64()).combine_chunks()
    return np.asarray(pc.fill_null(found, float("nan")).to_numpy(zero_copy_only=False), dtype=np.float64)


def codes(table: pa.Table, name: str, *, origin: str) -> Ints:
    """A column's values numbered by their order as text `(N,)`. Raises DataError where one is missing."""
    column = table[name]
    if column.null_count:
        row = int(np.asarray(column.is_null()).argmax())
        raise DataError(f"{origin}, column {name!r}, row {row + 1:,}: is missing, and rows are told apart by it.")
    try:
        found = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowException:
        raise DataError(
            f"{origin}, column {name!r}: holds {column.type}, by which rows cannot be told apart."
        ) from None
    values = np.asarray(found.dictionary.to_pylist(), dtype=np.str_)
    return np.argsort(np.argsort(values))[found.indices.to_numpy()].astype(np.int64)


def _counts(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
