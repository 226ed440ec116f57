"""Which part of a run each user was in: the file split.parquet beside a fine-tuned model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from peterrec.data.attribute import Split
from peterrec.errors import RefusedError

FILE = "split.parquet"
PARTS = ("train", "validation", "test")
UNUSED = "unused"


def write_split(folder: Path, *, users: Sequence[str], split: Split) -> None:
    """Writes user and part of each of `users` (N,), in which the split's numbers are places."""
    part = np.full(len(users), UNUSED, dtype=object)
    for name in PARTS:
        part[getattr(split, name)] = name
    table = pa.table({"user": pa.array(users, pa.string()), "part": pa.array(part.tolist(), pa.string())})
    pq.write_table(table, folder / FILE, compression="zstd")


def read_split(model: Path) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Users (N,) and parts (N,) of the run in `model`. Raises RefusedError where the file is missing or damaged."""
    path = model / FILE
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=["user", "part"])
        users, parts = (np.asarray(table[name].to_pylist(), dtype=np.str_) for name in ("user", "part"))
    except (OSError, pa.ArrowException, KeyError) as problem:
        raise RefusedError(
            f"{path}: not readable ({(str(problem).splitlines() or [''])[0]}), so nothing says which users the task "
            "was trained on; make the run again."
        ) from None
    odd = sorted(set(parts.tolist()) - {*PARTS, UNUSED})
    if odd or not len(users):
        raise RefusedError(f"{path}: damaged ({f'a part {odd[0]!r}' if odd else 'no users'}); make the run again.")
    return users, parts
