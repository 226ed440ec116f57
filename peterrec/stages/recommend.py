"""`peterrec recommend`: the best items for the users of a log, with scores."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.atomic import atomic_file
from peterrec.data.domain_logs import TwoLogs
from peterrec.data.item_rule import read_items
from peterrec.data.logs.interactions import LogColumns, LogSource
from peterrec.data.new_histories import NewHistories, open_histories
from peterrec.data.new_mixed import joined_vocabulary, open_mixed_histories
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import SettingsError
from peterrec.inference import choose_device
from peterrec.recommender import Recommender, load_recommender
from peterrec.stages.listed_items import read_listed
from peterrec.stages.output_file import refuse_existing, wanted_users
from peterrec.stages.recommended_rows import SCHEMA, RecommendedRows
from peterrec.stages.user_progress import user_progress


def run(
    source: LogSource,
    *,
    model: Path,
    output: Path | None,
    k: int = 10,
    columns: LogColumns | None = None,
    users: Path | None = None,
    users_column: str = "user",
    target: LogSource | None = None,
    target_columns: LogColumns | None = None,
    items: Path | pa.Table | None = None,
    remove_seen: bool | None = None,
    allow: Path | None = None,
    block: Path | None = None,
    encoder: Path | None = None,
    continued: bool = False,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
    shown: int = 10,
) -> dict[str, Any]:
    """Recommends k items to each user of a log and writes `output` (Parquet), a row an item, best first.

    Columns: user, rank (from 1), item, score, reason: `history`, or `popularity` for a user without any known item,
    whose scores are the items' counts in training. A user with fewer candidates has fewer rows. `users` is a table
    whose users are wanted, with or without events. `remove_seen` leaves out what a user has had: in the log, or, where
    another catalogue is recommended than histories are of, in the log `target` (by default the same one, if the model
    was made from one log); None: as far as that is known. A model of mixed histories reads that log too. `items` is a
    table of items, of which a model that knows attributes scores the new ones too. `allow` and `block` are lists of
    items (`read_item_list`): nothing but these, none of those.

    Returns counts. Without `output` nothing is written: the first `shown` users alone get items, which are returned as
    the table `recommendations`. Raises SettingsError, DataError, and what loading the model and the log raise.
    """
    if k < 1:
        raise SettingsError(f"k is {k}: at least one item must be asked for.")
    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    columns = columns or LogColumns()
    listing = None
    if items is not None:
        listing = read_items(items, column=(target_columns or columns).item, bad_rows=bad_rows)
    recommender = load_recommender(
        model, encoder=encoder, continued=continued, items=listing, device=choose_device(device)
    )
    catalogue = recommender.catalogue
    target = _target_log(recommender, source, target, model=model, remove_seen=remove_seen)
    lists = {
        option: read_listed(path, option, catalogue, column=columns.item, memory_limit=memory_limit)
        for option, path in (("--allow", allow), ("--block", block))
        if path is not None
    }
    asked, k = k, min(k, len(lists["--allow"].rows) if "--allow" in lists else max(catalogue.num_items, 1))
    with (
        open_histories(
            source,
            columns=columns,
            vocabulary=recommender.known,
            users=wanted_users(users, column=users_column),
            bad_rows=bad_rows,
            memory_limit=memory_limit,
        ) as found,
        _targets(
            target,
            found.sequences,
            columns=target_columns or columns,
            vocabulary=catalogue,
            bad_rows=bad_rows,
            memory_limit=memory_limit,
        ) as had,
        _mixed(
            recommender,
            source,
            target,
            found.sequences,
            columns=columns,
            target_columns=target_columns or columns,
            bad_rows=bad_rows,
            memory_limit=memory_limit,
        ) as mixed,
    ):
        sequences = found.sequences if mixed is None else mixed.sequences
        past = sequences if recommender.next_items else None if had is None else had.sequences
        recommended = RecommendedRows(
            recommender,
            sequences,
            None if remove_seen is False else past,
            k=k,
            allowed=lists["--allow"].rows if "--allow" in lists else None,
            blocked=lists["--block"].rows if "--block" in lists else None,
        )
        counts: dict[str, Any] = {
            "users": len(sequences),
            "users_without_known_items": int((sequences.lengths == 0).sum()),
            "events": int(found.events.sum()),
            "unseen_events": found.unseen_events,
        }
        if had is not None and target is source:
            counts["target_events"] = of_target = int(had.sequences.lengths.sum())
            counts["unseen_events"] -= of_target
        elif had is not None:
            counts |= {"target_events": int(had.events.sum()), "unseen_target_events": had.unseen_events}
        if items is not None:
            counts |= {"new_items": recommender.new_items, "new_items_without_attributes": recommender.left_out}
        for option, listed in lists.items():
            name = option.removeprefix("--")
            counts |= {f"{name}ed_items": len(listed.rows), f"unknown_{name}ed_items": listed.unknown}
        if output is None:
            counts["recommendations"] = recommended.table(np.arange(min(shown, len(sequences))))
            return counts
        written = short = 0
        with (
            atomic_file(output) as temporary,
            pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
            user_progress("recommending", users=len(sequences)) as advance,
        ):
            for rows in recommended.blocks():
                table = recommended.table(rows)
                writer.write_table(table)
                written += len(table)
                short += len(rows) - int((table["rank"].to_numpy() == asked).sum())
                advance(len(rows))
        counts |= {"recommendations": written, "users_with_fewer_items": short, "output": str(output)}
        return counts


def _target_log(
    recommender: Recommender, source: LogSource, target: LogSource | None, *, model: Path, remove_seen: bool | None
) -> LogSource | None:
    """Where the items stand that users have had of another catalogue than that of their histories."""
    if target is None:
        if remove_seen and not recommender.next_items and not recommender.one_log:
            raise SettingsError(
                "--remove-seen: LOG does not say what the users have had of the catalogue; name a log that does with "
                "--target."
            )
        return source if recommender.one_log else None
    if recommender.next_items:
        raise SettingsError(
            f"--target is for cold-start runs, whose catalogue is another than that of LOG; {model} recommends "
            "the items of LOG itself, so leave it out."
        )
    if remove_seen is False and not recommender.mixed:
        raise SettingsError("--target says which items to remove, and --keep-seen removes none; leave one of them out.")
    return target


@contextmanager
def _targets(
    target: LogSource | None,
    histories: Sequences,
    *,
    columns: LogColumns,
    vocabulary: Vocabulary,
    bad_rows: Literal["fail", "drop"],
    memory_limit: str,
) -> Iterator[NewHistories | None]:
    """What the same users, in the same order, had of the catalogue."""
    if target is None:
        yield None
        return
    with open_histories(
        target,
        columns=columns,
        vocabulary=vocabulary,
        users=histories.users.array,
        bad_rows=bad_rows,
        memory_limit=memory_limit,
    ) as had:
        assert len(had.sequences) == len(histories)
        yield had


@contextmanager
def _mixed(
    recommender: Recommender,
    source: LogSource,
    target: LogSource | None,
    histories: Sequences,
    *,
    columns: LogColumns,
    target_columns: LogColumns,
    bad_rows: Literal["fail", "drop"],
    memory_limit: str,
) -> Iterator[NewHistories | None]:
    """The same users, in the same order, with their events of both domains, where the model reads such."""
    known, catalogue = recommender.known, recommender.catalogue
    users = histories.users.array
    if target is None or not recommender.mixed:
        yield None
    elif target is source:
        with open_histories(
            source,
            columns=columns,
            vocabulary=joined_vocabulary(known, catalogue),
            users=users,
            bad_rows=bad_rows,
            memory_limit=memory_limit,
        ) as found:
            yield found
    else:
        logs = TwoLogs(source, target, columns, target_columns)
        with open_mixed_histories(
            logs, known=known, catalogue=catalogue, users=users, bad_rows=bad_rows, memory_limit=memory_limit
        ) as found:
            yield found
