"""`peterrec encode`: user vectors to Parquet."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.atomic import atomic_file
from peterrec.data.logs.interactions import LogColumns, LogSource
from peterrec.data.new_histories import open_histories
from peterrec.data.reading import WHOLE
from peterrec.encoders.loading import open_encoder
from peterrec.encoders.user_reading import reading_of
from peterrec.inference import choose_device, reader_of, user_vectors
from peterrec.objectives.settings import POSITION_LEVEL, USER_LEVEL
from peterrec.run_record import read_run
from peterrec.stages.output_file import refuse_existing, wanted_users
from peterrec.stages.user_progress import user_progress

BLOCK_USERS = 50_000  # users of a row group: their vectors are in memory together


def run(
    source: LogSource,
    *,
    encoder: Path,
    output: Path,
    columns: LogColumns | None = None,
    users: Path | None = None,
    users_column: str = "user",
    readout: str | None = None,
    max_length: int | Literal["all"] | None = None,
    window: int | None = None,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Encodes the users of a log and writes `output` (Parquet): user, vector (D float32), events, events_used.

    Readout and length are the encoder's own unless given, but that one that `reads_all` reads all events; with `window`
    a history is encoded in parts of so many positions, and read out over all of them. A user without known items gets
    zeros (the state of TCL alone for the readout `tcl`). `events_used` are those that a vector depends on. Returns
    counts. Raises what loading the encoder and the log raise.
    """
    refuse_existing(output, overwrite=overwrite)
    where = choose_device(device)
    settings = read_run(encoder, stage="pretrain")["settings"]
    model, vocabulary = open_encoder(encoder)
    channels = model.config.hidden_size
    if max_length is None and reads_all(settings):
        max_length = "all"
    length = model.config.max_length if max_length is None else WHOLE if max_length == "all" else max_length
    reader = reader_of(model.to(where), readout)  # type: ignore[arg-type]  # transformers' signature hides torch's
    reading = reading_of(model, reader, max_length=length, window=window)
    with open_histories(
        source,
        columns=columns or LogColumns(),
        vocabulary=vocabulary,
        users=wanted_users(users, column=users_column),
        bad_rows=bad_rows,
        memory_limit=memory_limit,
    ) as found:
        sequences = found.sequences
        schema = pa.schema(
            {
                "user": pa.string(),
                "vector": pa.list_(pa.float32(), channels),
                "events": pa.int64(),
                "events_used": pa.int64(),
            }
        )
        with (
            atomic_file(output) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
            user_progress("encoding", users=len(sequences)) as advance,
        ):
            for first in range(0, len(sequences), BLOCK_USERS):
                rows = np.arange(first, min(first + BLOCK_USERS, len(sequences)))
                vectors = user_vectors(
                    model,
                    sequences,
                    rows=rows,
                    max_length=length,
                    readout=reader,
                    window=window,
                    device=where,
                    advance=advance,
                )
                columns_of_block = [
                    sequences.users.array.slice(first, len(rows)),
                    pa.FixedSizeListArray.from_arrays(pa.array(vectors.numpy().reshape(-1)), channels),
                    pa.array(found.events[rows], pa.int64()),
                    pa.array(reading.events(sequences.lengths[rows]), pa.int64()),
                ]
                writer.write_table(pa.table(columns_of_block, schema=schema))
        return {
            "users": len(sequences),
            "users_without_known_items": int((sequences.lengths == 0).sum()),
            "channels": channels,
            "events": int(found.events.sum()),
            "unseen_events": found.unseen_events,
            "output": str(output),
        }


def reads_all(settings: dict[str, Any]) -> bool:
    """Whether an encoder pretrained with `settings` reads whole histories by default.

    Pooled encoders do, and those that learnt from nothing but views of users, since these are of whole histories.
    """
    objective = settings.get("objective", {})
    of_users = any(objective.get(name) for name in USER_LEVEL)
    of_positions = any(objective.get(name) for name in POSITION_LEVEL)
    return settings.get("encoder", {}).get("kind") == "pooled" or (of_users and not of_positions)
