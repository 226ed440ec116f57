"""Paired logs: users known in a source domain, their events in a target domain, and what was known before each."""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from peterrec.atomic import atomic_folder
from peterrec.data.domain_logs import BadRows, DomainLogs, OneLog, TwoLogs, room, write_events
from peterrec.data.item_rule import ItemRule
from peterrec.data.logs.database import temporary_database
from peterrec.data.paired_writer import (
    COLUMNS,
    describe_pairs,
    number_pairs,
    pair_users,
    target_items,
    write_arrays,
)
from peterrec.data.sequences import Sequences, UserIds
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, SettingsError

__all__ = ["ItemRule", "OneLog", "PairedLogs", "TwoLogs", "open_pairs", "write_pairs"]

FORMAT, FORMAT_VERSION = "peterrec.pairs", 1
_NOTE, _ITEMS = "pairs.json", "items.parquet"


@dataclass(frozen=True)
class PairedLogs:
    """The N users of two domains, by id, and their E target events, sorted by user, time and position.

    `source_vocabulary` is the encoder's (rows 3 to V − 1), `target_vocabulary` the catalogue: all items of the target
    log (rows 3 to W − 1), with their counts in the whole log. `sources` are the known source events of each user in
    order, later ones too; `mixed` those of both domains, a source item as its row r < V, a target item of row t as
    V + t − 3. Of each target event: `owner` is the number of its user, `item` its target row, `before` how many events
    in the user's row of `sources` came before it, `place` its index in the user's row of `mixed`.

    A source event at the very time of a target event does not count as earlier, unless both stood in one log, whose
    order then says. So neither the first `before` of `sources` nor the first `place` of `mixed` hold a source event
    that may have come later. The arrays are mapped from files.
    """

    folder: Path
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    sources: Sequences
    mixed: Sequences
    owner: NDArray[np.int64]
    item: NDArray[np.int32]
    before: NDArray[np.int64]
    place: NDArray[np.int64]
    summary: dict[str, Any]
    fingerprint: str

    def __len__(self) -> int:
        """The number of users N."""
        return len(self.sources)

    @property
    def users(self) -> UserIds:
        """The ids (N,), in order."""
        return self.sources.users

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where the target events of each user begin, and E (N + 1,)."""
        return np.searchsorted(self.owner, np.arange(len(self) + 1))

    def items(self) -> pa.Table | None:
        """Attributes of target items, whose ids stand in the column `item`; None if there was no items table."""
        path = self.folder / _ITEMS
        if not path.exists():
            return None
        with pq.ParquetFile(path) as file:
            return file.read()


def write_pairs(
    logs: DomainLogs,
    *,
    folder: Path,
    vocabulary: Vocabulary,
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
) -> PairedLogs:
    """Check, join and sort the logs of two domains and write them to `folder`, which appears whole at the end.

    `vocabulary` is that of the encoder of the source domain: source items that it does not hold are left out and
    counted. The content, and so the fingerprint, follows from logs and vocabulary alone. Paired logs that stood in
    `folder` are replaced; SettingsError if anything else stands there. Raises DataError where the logs cannot be
    paired: no user in both, no source item that the vocabulary knows, and what `write_events` raises; ResourceError if
    memory or disk gives out.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / _NOTE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: holds something else than paired logs; name another folder, or move it away.")
    with tempfile.TemporaryDirectory(prefix="peterrec-") as temporary:
        events = write_events(logs, folder=Path(temporary), bad_rows=bad_rows, memory_limit=memory_limit)
        with temporary_database(memory_limit, None, None) as con, room():
            users = pair_users(con, events=events)
            catalogue = target_items(con)
            number_pairs(con, source=vocabulary, target=catalogue)
            with atomic_folder(folder) as unfinished:
                counts, digest = write_arrays(
                    con, folder=unfinished, first_target=len(vocabulary), one_order=events.one_order
                )
                vocabulary.save(unfinished / "source_vocabulary.parquet")
                catalogue.save(unfinished / "target_vocabulary.parquet")
                if events.items is not None:
                    pq.write_table(events.items, unfinished / _ITEMS, compression="zstd")
                note = {
                    "format": FORMAT,
                    "format_version": FORMAT_VERSION,
                    "fingerprint": _fingerprint(unfinished, vocabulary, catalogue, digest=digest),
                    "summary": {
                        "order": "one log" if events.one_order else "times of two logs",
                        **describe_pairs(con, users=users, counts=counts),
                        **events.facts,
                    },
                }
                (unfinished / _NOTE).write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return open_pairs(folder)


def open_pairs(folder: Path) -> PairedLogs:
    """Open what `write_pairs` wrote.

    Raises DataError for any other folder or a damaged one, RefusedError for damaged vocabularies.
    """
    folder = Path(folder)
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        if (note["format"], note["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"{_NOTE} is of another format")
        fingerprint, summary = str(note["fingerprint"]), dict(note["summary"])
        columns = {
            name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)) for name in COLUMNS
        }
        if any(values.dtype != COLUMNS[name] or values.ndim != 1 for name, values in columns.items()):
            raise ValueError("a column has the wrong type")
        if len({len(values) for values in columns.values()}) != 1:
            raise ValueError("the columns differ in length")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise DataError(f"{folder}: not paired logs ({reason}); write them again.") from None
    source, target = (Vocabulary.load(folder / f"{domain}_vocabulary.parquet") for domain in ("source", "target"))
    sources, mixed = Sequences(folder / "sources"), Sequences(folder / "mixed")
    events = len(columns["owner"])
    if len(sources) != len(mixed) or int(mixed.lengths.sum() - sources.lengths.sum()) != events:
        raise DataError(f"{folder}: its histories and its {events:,} target events do not fit; write the pairs again.")
    return PairedLogs(
        folder=folder,
        source_vocabulary=source,
        target_vocabulary=target,
        sources=sources,
        mixed=mixed,
        owner=columns["owner"],
        item=columns["item"],
        before=columns["before"],
        place=columns["place"],
        summary=summary,
        fingerprint=fingerprint,
    )


def _fingerprint(folder: Path, source: Vocabulary, target: Vocabulary, *, digest: str) -> str:
    """SHA-256 (hex) over all that `folder` holds, `digest` being that of the target events: which data a run had."""
    whole = hashlib.sha256(f"{source.fingerprint} {target.fingerprint} {digest}".encode())
    whole.update(target.counts.tobytes())
    for part in ("sources", "mixed"):
        state = json.loads((folder / part / "state.json").read_text(encoding="utf-8"))
        whole.update(state["_fingerprint"].encode())
    items = folder / _ITEMS
    if items.exists():
        with items.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
