"""Hugging Face `datasets`: a folder of `save_to_disk`, or `owner/name[:split]` from the hub, streamed.

Rows are either events (user, item, time) or users with the list of their items, which is unrolled in order.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.atomic import atomic_file
from peterrec.data.logs.columns import LogColumns
from peterrec.data.sources.source import Rows, Source
from peterrec.errors import DataError, SettingsError, did_you_mean

BATCH = 10_000  # rows held at a time
_HUB_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(:(?P<split>[\w.-]+))?")
_DATA_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".gz", ".dat", ".data", ".arrow")


def matches(path: str | Path) -> bool:
    """Whether `path` is a folder that `datasets` saved, or no file here and of the form of a hub name."""
    if (local := _local(str(path))) is not None:
        folder, _ = local
        return _is_saved(folder) and not (folder / "run.json").is_file()  # a prepared folder is not a log
    absent = not Path(path).exists() and _suffix(path) not in _DATA_SUFFIXES
    return absent and _HUB_NAME.fullmatch(str(path)) is not None


def load(path: str | Path, *, columns: LogColumns | None = None, work: Path | None = None) -> Source:
    """The rows of a data set as a log, batch by batch into `work` if given.

    `columns` defaults to user, item (or items) and, where there is one, time. A folder with several splits
    needs `folder:split`. Raises DataError for columns that do not fit and where the hub cannot be reached.
    """
    stream, split = _open(str(path))
    schema = _schema(stream, path)
    if columns is None:
        columns = _usual(schema)
    for name in columns.names:
        if name not in schema.names:
            raise DataError(f"{path}: there is no column {name!r}. {did_you_mean(name, schema.names)}")
    _refuse_floats(schema, columns, path)
    tables = _events(stream, columns, path)
    log = _keep(tables, work=work, path=path)
    note = f"Hugging Face dataset, split {split!r}" if split else "Hugging Face dataset"
    return Source("huggingface", log, columns, note=f"{note}; {_shape(schema, columns)}.")


def _local(path: str) -> tuple[Path, str] | None:
    """Folder and split of `folder` or `folder:split`; None if there is no such folder."""
    if Path(path).is_dir():
        return Path(path), ""
    folder, _, split = path.rpartition(":")
    return (Path(folder), split) if folder and Path(folder).is_dir() else None


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _suffix(path: str | Path) -> str:
    return Path(str(path).partition(":")[0]).suffix.lower()


def _open(path: str) -> tuple[Any, str]:
    """An iterable data set, and the name of its split if it has several."""
    if (local := _local(path)) is not None:
        return _open_folder(*local)
    found = _HUB_NAME.fullmatch(path)
    if found is None:
        raise SettingsError(
            f"{path}: neither a folder saved by `datasets` nor a hub name of the form owner/name[:split]."
        )
    return _open_hub(found["name"], found["split"] or "train")


def _open_folder(folder: Path, split: str) -> tuple[Any, str]:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError, pa.ArrowInvalid) as error:  # LookupError: no rows at all
        raise DataError(f"{folder}: empty, or not a complete folder of `save_to_disk` ({error}).") from None
    if isinstance(data, datasets.DatasetDict):
        known = [str(name) for name in data]
        if not split and len(known) > 1:
            example = f"{folder}:{known[0]}"
            raise SettingsError(f"{folder}: several splits; give one as {example}. Known: {', '.join(known)}.")
        split = split or known[0]
        if split not in known:
            raise SettingsError(f"{folder}: no split {split!r}. {did_you_mean(split, known)}")
        return data[split].to_iterable_dataset(), split
    if split:
        raise SettingsError(f"{folder}: has no splits; give the folder alone, without :{split}.")
    return data.to_iterable_dataset(), ""


def _open_hub(name: str, split: str) -> tuple[Any, str]:
    import datasets

    try:
        return datasets.load_dataset(name, split=split, streaming=True), split
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such data set, no such split
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{name}:{split}: there is no such file or folder here, and as a data set of the Hugging "
            f"Face hub it could not be opened: {reason} Without a network, save it elsewhere with "
            "`save_to_disk` and give that folder."
        ) from None


def _schema(stream: Any, path: str | Path) -> pa.Schema:
    if stream.features is not None:
        return stream.features.arrow_schema
    first = next(iter(stream.with_format("arrow").iter(batch_size=1)), None)
    if first is None:
        raise DataError(f"{path}: there are no rows in this data set.")
    return first.schema


def _usual(schema: pa.Schema) -> LogColumns:
    item = "items" if "items" in schema.names and "item" not in schema.names else "item"
    return LogColumns(item=item, time="time" if "time" in schema.names else None)


def _refuse_floats(schema: pa.Schema, columns: LogColumns, path: str | Path) -> None:
    for name in (columns.user, columns.item):
        kind = _element(schema.field(name).type)
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"{path}: column {name!r} holds {kind}, expected whole numbers or text; ids that went "
                "through floating point may have lost digits. Cast the column where the data set is made."
            )
    if _is_list(schema.field(columns.user).type):
        raise DataError(f"{path}: column {columns.user!r} holds lists; a user is one value a row.")
    if columns.time and _is_list(schema.field(columns.time).type) and not _is_list(schema.field(columns.item).type):
        raise DataError(f"{path}: column {columns.time!r} holds lists, while {columns.item!r} holds one item a row.")


def _shape(schema: pa.Schema, columns: LogColumns) -> str:
    return "one row a user, unrolled" if _is_list(schema.field(columns.item).type) else "one row an event"


def _events(stream: Any, columns: LogColumns, path: str | Path) -> Iterator[pa.Table]:
    names = columns.names
    offset = 0
    for batch in stream.select_columns(names).with_format("arrow").iter(batch_size=BATCH):
        rows = batch.select(names)
        if _is_list(rows.schema.field(columns.item).type):
            rows_in = rows.num_rows
            rows = _unroll(rows.combine_chunks(), columns, path=path, offset=offset)
            offset += rows_in
        yield rows


def _unroll(rows: pa.Table, columns: LogColumns, *, path: str | Path, offset: int) -> pa.Table:
    """One row an item, in the order of the list; users with empty lists vanish."""
    items = _plain(rows[columns.item])
    parents = items.value_parent_indices()
    unrolled = {columns.user: rows[columns.user].take(parents), columns.item: items.flatten()}
    if columns.time is not None:
        times = rows[columns.time]
        if _is_list(times.type):
            times = _plain(times)
            here, there = (lists.value_lengths().fill_null(0).to_numpy() for lists in (items, times))
            if (here != there).any():
                row = offset + int(np.flatnonzero(here != there)[0]) + 1
                raise DataError(
                    f"{path}: row {row}: {columns.item!r} and {columns.time!r} have lists of different "
                    "lengths; each item needs its time."
                )
            unrolled[columns.time] = times.flatten()
        else:
            unrolled[columns.time] = times.take(parents)
    return pa.table(unrolled)


def _plain(lists: pa.ChunkedArray) -> pa.Array:
    one = lists.combine_chunks()
    return one.chunk(0) if isinstance(one, pa.ChunkedArray) else one


def _keep(tables: Iterator[pa.Table], *, work: Path | None, path: str | Path) -> Rows:
    first = next((rows for rows in tables if rows.num_rows), None)
    if first is None:
        raise DataError(f"{path}: there are no events in this data set.")
    if work is None:
        return pa.concat_tables([first, *tables])
    with (
        atomic_file(work / "log.parquet") as temporary,
        pq.ParquetWriter(temporary, first.schema, compression="zstd") as to,
    ):
        to.write_table(first)
        for rows in tables:
            to.write_table(rows)
    return (work / "log.parquet",)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if isinstance(kind, pa.ListType | pa.LargeListType) else kind
