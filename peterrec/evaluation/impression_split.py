"""Which part of a run each impression was in: the file split.parquet beside a model of impressions."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from peterrec.data.attribute import Split
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import RefusedError
from peterrec.evaluation.split_file import FILE, PARTS, UNUSED


def write_row_split(folder: Path, *, impressions: Impressions, split: Split) -> None:
    """Writes place and part of each of the N rows."""
    part = np.full(len(impressions), UNUSED, dtype=object)
    for name in PARTS:
        part[getattr(split, name)] = name
    table = pa.table({"row": pa.array(impressions.position), "part": pa.array(part.tolist(), pa.string())})
    pq.write_table(table, folder / FILE, compression="zstd")


def read_test_rows(model: Path, *, impressions: Impressions) -> NDArray[np.int64]:
    """The test rows `(n,)`, rising, of the run in `model` among the `impressions` that it was made with.

    Raises RefusedError where the file is missing, damaged or of other impressions.
    """
    return np.flatnonzero(read_parts(model, impressions=impressions) == "test")


def read_parts(model: Path, *, impressions: Impressions) -> NDArray[np.str_]:
    """The part of each of the N `impressions` that the run in `model` was made with; raises as `read_test_rows`."""
    path = model / FILE
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=["row", "part"])
        row = table["row"].to_numpy()
        part = np.asarray(table["part"].to_pylist(), dtype=np.str_)
    except (OSError, pa.ArrowException, KeyError) as problem:
        raise RefusedError(
            f"{path}: not readable ({(str(problem).splitlines() or [''])[0]}), so nothing says which rows the task was "
            "trained on; make the run again."
        ) from None
    if not np.array_equal(row, impressions.position):
        raise RefusedError(f"{path}: damaged (its rows are not those of {impressions.folder}); make the run again.")
    odd = sorted(set(part.tolist()) - {*PARTS, UNUSED})
    if odd or not (part == "test").any():
        told = f"a part {odd[0]!r}" if odd else "no test rows"
        raise RefusedError(f"{path}: damaged ({told}); make the run again.")
    return part
