"""A prepared log: the folder with parts, vocabulary, labels and summary; writing its parts, opening it."""

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.data.row_stream import RowStream
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.splits import Cuts
from peterrec.data.summary import LengthCounts
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, SettingsError, did_you_mean
from peterrec.run_record import read_run

if TYPE_CHECKING:
    import duckdb

PARTS = ("train", "validation", "test", "histories")

# Events a record batch (16 MiB of item rows): large for readers of Arrow (`Sequences` does not mind), and
# some 150 MiB of working memory at any size of log.
BATCH_EVENTS = 1 << 22

_Flags = npt.NDArray[np.bool_]
_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PreparedLog:
    """A prepared folder; `summary` is its summary.json, `split` the name of the split."""

    folder: Path
    vocabulary: Vocabulary
    summary: dict[str, Any]
    split: str

    def sequences(self, part: str) -> Sequences:
        """The users of `part` (one of `PARTS`). Raises `SettingsError` for another name."""
        if part not in PARTS:
            raise SettingsError(f"{self.folder}: there is no part {part!r}. {did_you_mean(part, PARTS)}")
        return Sequences(self.folder / part)

    @property
    def events(self) -> dict[str, int]:
        """The events of each part, targets not counted."""
        return {part: figures["events"] for part, figures in self.summary["parts"].items()}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over what is in the parts, the vocabulary and the users table: which data a run was made with.

        Raises `DataError` if a part is damaged.
        """
        digest = hashlib.sha256(self.vocabulary.fingerprint.encode())
        for part in PARTS:
            state = self.folder / part / "state.json"
            try:
                digest.update(json.loads(state.read_text(encoding="utf-8"))["_fingerprint"].encode())
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
                raise DataError(f"{state}: damaged ({problem!r}); prepare the log again.") from None
        users = self.folder / "users.parquet"
        if users.exists():
            with users.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def labels(self) -> pa.Table | None:
        """The users table: `user` and attributes, of users in `histories`; None if none was given."""
        return self._table("users.parquet")

    def items(self) -> pa.Table | None:
        """The items table: `item` and its attributes; None if none was given."""
        return self._table("items.parquet")

    def _table(self, name: str) -> pa.Table | None:
        if not (self.folder / name).exists():
            return None
        with pq.ParquetFile(self.folder / name) as file:
            return file.read()


def open_prepared(folder: Path) -> PreparedLog:
    """Open what `peterrec prepare` wrote.

    Raises `DataError` if the folder is no prepared log, `RefusedError` if its vocabulary is damaged or it was
    written by a newer version.
    """
    folder = Path(folder)
    try:
        read_run(folder, stage="prepare")
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (SettingsError, OSError, ValueError) as problem:
        raise DataError(
            f"{folder}: not a prepared log ({str(problem).rstrip('.')}); make one with `peterrec prepare`."
        ) from None
    vocabulary = Vocabulary.load(folder / "vocabulary.parquet")
    if vocabulary.fingerprint != summary["vocabulary"]["fingerprint"]:
        raise DataError(f"{folder}: vocabulary.parquet is that of another log; prepare this one again.")
    return PreparedLog(folder, vocabulary, summary, summary["split"]["name"])


def column_options(prepared: PreparedLog) -> str:
    """The options that name the columns of the log which was prepared, for commands that a user may paste."""
    columns = read_run(prepared.folder, stage="prepare").get("settings", {}).get("columns", {})
    named = [(f"--{name}", columns.get(name)) for name in ("user", "item", "time")]
    return " ".join(f"{option} {shlex.quote(column)}" for option, column in named if column)


def item_attributes(items: pa.Table, *, column: str) -> pa.Table:
    """The items table with its ids, which stand in `column`, as text in the column `item`.

    Raises `DataError` if there is no such column, or an id is missing, twice there, or a float or the like.
    """
    if column not in items.column_names:
        known = did_you_mean(column, items.column_names)
        raise DataError(f"the items table has no column {column!r}. {known}")
    kind = items[column].type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(f"column {column!r} of the items table is {kind}; give ids as text or integers.")
    ids = items[column].cast(pa.string())
    if ids.null_count:
        row = ids.is_null().index(True).as_py() + 1
        raise DataError(f"the items table has no id in column {column!r}, row {row}; fill it or drop the row.")
    counted = ids.value_counts()
    counts = counted.field("counts").to_numpy()
    if len(counts) and counts.max() > 1:
        twice = counted.field("values")[int(counts.argmax())].as_py()
        raise DataError(
            f"the items table has {counts.max()} rows for {twice!r} in column {column!r}; keep one of them."
        )
    rest = [name for name in items.column_names if name not in (column, "item")]
    return items.select(rest).add_column(0, "item", ids)


@dataclass
class PartFigures:
    """What was written into a part, and what was left out of it."""

    lengths: LengthCounts = field(default_factory=LengthCounts)
    unseen_events: int = 0
    unseen_targets: int = 0
    without_history: int = 0

    def to_json(self, *, targets: bool) -> dict[str, Any]:
        facts: dict[str, Any] = {"rows": self.lengths.rows, "events": self.lengths.events}
        if targets:
            facts |= {"unseen_targets": self.unseen_targets, "without_history": self.without_history}
        return {**facts, "unseen_events": self.unseen_events, "lengths": self.lengths.quantiles()}


def write_parts(con: "duckdb.DuckDBPyConnection", *, cuts: Cuts, folder: Path) -> dict[str, PartFigures]:
    """Sort the log by user, time, position and write its four parts into `folder`, a `datasets.DatasetDict`.

    `con` holds `log(user, item, time, position)`, `users(user, name, events)` and `item_rows(item, row)`, the
    known items.
    """
    # a user belongs to the batch of its first event, so that a batch is at most one user too large
    con.execute(f"""CREATE OR REPLACE TABLE bounds AS SELECT user, name, first, second, total, trains,
        ((sum(total) OVER (ORDER BY user) - total) // {BATCH_EVENTS})::BIGINT AS batch
        FROM ({cuts.bounds}) JOIN users USING (user)""")
    batches = [b for (b,) in con.execute("SELECT DISTINCT batch FROM bounds ORDER BY batch").fetchall()]
    ordered = con.cursor().sql("""SELECT coalesce(row, -1)::INTEGER AS row
        FROM log LEFT JOIN item_rows USING (item) ORDER BY user, time, position""")
    rows = RowStream(iter(ordered.to_arrow_reader(1 << 20)))
    figures = {part: PartFigures() for part in PARTS}
    writers = {part: SequenceWriter(folder / part, targets=part in ("validation", "test")) for part in PARTS}
    with writers["train"], writers["validation"], writers["test"], writers["histories"]:
        for batch in batches:
            users = con.sql(f"SELECT * FROM bounds WHERE batch = {batch} ORDER BY user").to_arrow_table()
            _write_batch(users, rows, writers, figures)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(PARTS)}) + "\n", encoding="utf-8")
    return figures


def _write_batch(
    users: pa.Table, stream: RowStream, writers: dict[str, SequenceWriter], figures: dict[str, PartFigures]
) -> None:
    names = users["name"].combine_chunks()
    first, second, total = (users[name].to_numpy().astype(np.int64) for name in ("first", "second", "total"))
    rows = stream.take(int(total.sum()))
    begins = np.cumsum(total) - total
    known = rows >= 0
    seen = np.zeros(len(rows) + 1, dtype=np.int32)  # known events before each
    np.cumsum(known, out=seen[1:])
    flat = rows[known]
    # from here a user's known events stand together, and every part takes a prefix of them
    every, past, before_test = (
        (seen[begins + stop] - seen[begins]).astype(np.int64) for stop in (total, first, second)
    )

    def write(part: str, keep: _Flags, prefix: _Numbers, stop: _Numbers) -> None:
        taken = np.where(keep, prefix, 0)
        runs = np.stack([taken, every - taken], axis=1).reshape(-1)  # in the prefix, beyond it, user by user
        mask = np.repeat(np.tile([True, False], len(taken)), runs)
        targets = rows[(begins + stop)[keep]] if part in ("validation", "test") else None
        writers[part].write(names.filter(pa.array(keep)), flat[mask], prefix[keep], targets)
        figures[part].lengths.add(prefix[keep])
        figures[part].unseen_events += int((stop - prefix)[keep].sum())

    def write_with_target(part: str, has_target: _Flags, prefix: _Numbers, stop: _Numbers) -> None:
        unseen = has_target.copy()
        unseen[has_target] = ~known[(begins + stop)[has_target]]
        lonely = has_target & ~unseen & (prefix == 0)
        figures[part].unseen_targets += int(unseen.sum())
        figures[part].without_history += int(lonely.sum())
        write(part, has_target & ~unseen & ~lonely, prefix, stop)

    trains = users["trains"].to_numpy()
    write("train", trains & (past > 0), past, first)
    write_with_target("validation", second > first, past, first)
    write_with_target("test", total > second, before_test, second)
    write("histories", np.ones(len(names), dtype=bool), every, total)
