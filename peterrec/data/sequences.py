"""One part of a prepared log: item lists in Arrow files that `datasets` reads too, mapped into memory."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from peterrec.errors import DataError

_FILE = "data-00000-of-00001.arrow"
_TEXT = {"dtype": "string", "_type": "Value"}
_INT32 = {"dtype": "int32", "_type": "Value"}


class UserIds(Sequence[str]):
    """The users of a part as text, in row order; `array` is the Arrow column itself."""

    def __init__(self, array: pa.ChunkedArray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self.array[int(index)].as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self.array.iterchunks():
            yield from chunk.to_pylist()

    def take(self, rows: npt.ArrayLike) -> list[str]:
        """The ids of `rows` (N,)."""
        return self.array.take(pa.array(np.asarray(rows, dtype=np.int64))).to_pylist()


class Sequences:
    """Zero-copy reader of one part of a prepared log: N users, each with a list of item rows, oldest first.

    The Arrow files are mapped, not read. Each is seen as one flat int32 array in which row `i` begins at
    `_starts[i]`: reading many rows needs no Python loop, whatever the size of the files' record batches.

    Raises `DataError` if the folder is no such part.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            state = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            paths = [self.folder / file["filename"] for file in state["_data_files"]]
            files = [_MappedFile(path) for path in paths]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as problem:
            raise DataError(
                f"{self.folder}: no part of a prepared log ({_first_line(problem)}); prepare the log again."
            ) from None
        self._flat = [file.flat for file in files]
        self._first_rows = np.cumsum([0, *(len(file.starts) for file in files)])  # of each file
        self._starts = _joined([file.starts for file in files], np.int64)
        self.lengths: npt.NDArray[np.int64] = _joined([file.lengths for file in files], np.int64)
        self._table = pa.concat_tables([file.table for file in files])

    def __len__(self) -> int:
        """The number of users N."""
        return len(self.lengths)

    @cached_property
    def users(self) -> UserIds:
        """The user ids (N,)."""
        return UserIds(self._table["user"])

    @cached_property
    def targets(self) -> npt.NDArray[np.int32] | None:
        """The row of each user's target item (N,); None where the part has none."""
        return self._table["target"].to_numpy() if "target" in self._table.column_names else None

    def gather(
        self, rows: npt.ArrayLike, starts: npt.ArrayLike, stops: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Events `[starts, stops)` of `rows` (n,): one flat array in that order, and the length of each (n,).

        Raises `IndexError` for rows or events that do not exist.
        """
        rows, starts, stops = (np.asarray(a, dtype=np.int64).reshape(-1) for a in (rows, starts, stops))
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"{self.folder}: rows {rows.min()} to {rows.max()} asked for; it has {len(self)}")
        if np.any(starts < 0) or np.any(stops < starts) or np.any(stops > self.lengths[rows]):
            raise IndexError(f"{self.folder}: events asked for that lie outside of their row")
        lengths = stops - starts
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        # where each event stands in its file: the begin of its row's slice, plus its place in that slice
        places = np.arange(total) + np.repeat(self._starts[rows] + starts - (ends - lengths), lengths)
        if len(self._flat) == 1:
            return self._flat[0][places], lengths
        out = np.empty(total, dtype=np.int32)
        file_of_row = np.searchsorted(self._first_rows, rows, side="right") - 1
        file_of_event = np.repeat(file_of_row, lengths)
        for file in np.unique(file_of_row):
            here = file_of_event == file
            out[here] = self._flat[file][places[here]]
        return out, lengths

    def items_of(self, row: int) -> npt.NDArray[np.int32]:
        """All items of one user, a read-only view into the file; `IndexError` if there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(f"{self.folder}: row {row} asked for; it has {len(self)}")
        file = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        return self._flat[file][self._starts[row] : self._starts[row] + self.lengths[row]]


class _MappedFile:
    """One Arrow stream: `flat`, the whole file as int32; where in it each row's items begin; their number."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as source:
            whole = source.read_buffer()
            self.table = pa.ipc.open_stream(pa.BufferReader(whole)).read_all()
        schema = self.table.schema
        if not {"user", "items"} <= set(schema.names) or schema.field("items").type != pa.list_(pa.int32()):
            raise ValueError(f"{path.name} has the columns {', '.join(f'{f.name} ({f.type})' for f in schema)}")
        if any(self.table[name].null_count for name in schema.names):
            raise ValueError(f"{path.name} has nulls")
        self.flat = np.frombuffer(whole, dtype=np.int32, count=whole.size // 4)
        starts, lengths = [], []
        for chunk in self.table["items"].iterchunks():
            offsets = chunk.offsets.to_numpy().astype(np.int64)
            lengths.append(np.diff(offsets))
            starts.append(offsets[:-1] + self._begin_of(chunk.values, whole, path))
        self.starts = _joined(starts, np.int64)
        self.lengths = _joined(lengths, np.int64)

    @staticmethod
    def _begin_of(values: pa.Array, whole: pa.Buffer, path: Path) -> int:
        """The index in the file, counted in int32, of the first of a record batch's values."""
        buffer = values.buffers()[1]
        if values.null_count or buffer is None or not len(values):
            if values.null_count:
                raise ValueError(f"{path.name} has null items")
            return 0
        begin, beyond = divmod(buffer.address - whole.address, 4)
        if beyond or not begin >= 0 or 4 * begin + buffer.size > whole.size:
            raise ValueError(f"{path.name} is compressed or misaligned and cannot be mapped")
        return begin + values.offset


class SequenceWriter:
    """Writes one part as a `datasets` folder (Arrow stream, state.json, dataset_info.json), batch by batch.

    Each `write` makes one record batch.
    """

    def __init__(self, folder: Path, *, targets: bool = False) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.rows = 0
        self._features: dict[str, object] = {"user": _TEXT, "items": {"feature": _INT32, "_type": "List"}}
        fields = [("user", pa.string()), ("items", pa.list_(pa.int32()))]
        if targets:
            self._features["target"] = _INT32
            fields.append(("target", pa.int32()))
        marked = {"huggingface": json.dumps({"info": {"features": self._features}})}
        self._schema = pa.schema(fields, metadata=marked)
        self._digest = hashlib.blake2b(json.dumps(self._features).encode(), digest_size=8)
        self._file = pa.OSFile(str(folder / _FILE), "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)

    def __enter__(self) -> "SequenceWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        self._file.close()
        if error is None:
            self._describe()

    def write(
        self,
        users: pa.Array,
        flat: npt.NDArray[np.int32],
        lengths: npt.NDArray[np.integer],
        targets: npt.NDArray[np.int32] | None = None,
    ) -> None:
        """Add n rows: `users` (n,), their items one after the other in `flat`, `lengths`, `targets` (n,)."""
        assert len(users) == len(lengths)
        assert int(lengths.sum()) == len(flat)
        if not len(users):
            return
        offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        columns = [users.cast(pa.string()), pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))]
        if targets is not None:
            columns.append(pa.array(targets, type=pa.int32()))
        batch = pa.record_batch(columns, schema=self._schema)
        self._writer.write_batch(batch)
        self.rows += batch.num_rows
        self._digest.update(flat.tobytes())
        self._digest.update("\0".join(users.to_pylist()).encode())
        if targets is not None:
            self._digest.update(targets.tobytes())
        self._digest.update(offsets.tobytes())

    def _describe(self) -> None:
        """What `datasets` reads beside the data; its fingerprint keys caches, so it follows the content."""
        state = {
            "_data_files": [{"filename": _FILE}],
            "_fingerprint": self._digest.hexdigest(),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": self.folder.name,
        }
        info = {"citation": "", "description": "", "features": self._features, "homepage": "", "license": ""}
        for name, value in (("state.json", state), ("dataset_info.json", info)):
            (self.folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def _joined(arrays: list[npt.NDArray[np.int64]], dtype: type[np.int64]) -> npt.NDArray[np.int64]:
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, dtype), *arrays])
