"""`peterrec encode`: user vectors to Parquet."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.data.logs.interactions import LogColumns, LogSource
from peterrec.data.new_histories import open_histories
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.loading import load_encoder
from peterrec.inference import choose_device, user_vectors
from peterrec.run_folder import atomic_file, read_run
from peterrec.stages.output_file import refuse_existing, wanted_users


def run(
    source: LogSource,
    *,
    encoder: Path,
    output: Path,
    columns: LogColumns | None = None,
    users: Path | None = None,
    users_column: str = "user",
    readout: Literal["mean", "last", "tcl"] | None = None,
    max_length: int | None = None,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Encodes the users of a log and writes `output` (Parquet): user, vector (D float32), events, events_used.

    Readout and length are the encoder's own unless given. A user without known items gets zeros (the state of TCL alone
    for the readout `tcl`). Returns counts. Raises what loading the encoder and the log raise.
    """
    refuse_existing(output, overwrite=overwrite)
    read_run(encoder, stage="pretrain")
    model = load_encoder(encoder)
    length = model.config.max_length if max_length is None else max_length
    with open_histories(
        source,
        columns=columns or LogColumns(),
        vocabulary=Vocabulary.load(encoder / "vocabulary.parquet"),
        users=wanted_users(users, column=users_column),
        bad_rows=bad_rows,
        memory_limit=memory_limit,
    ) as found:
        where = choose_device(device)
        sequences = found.sequences
        model.to(where)  # type: ignore[arg-type]  # transformers' signature hides torch's
        vectors = user_vectors(
            model,
            sequences,
            max_length=length,
            readout=readout or model.config.readout,
            device=where,
        ).numpy()
        flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        table = {
            "user": sequences.users.array,
            "vector": pa.FixedSizeListArray.from_arrays(flat, model.config.hidden_size),
            "events": pa.array(found.events, pa.int64()),
            "events_used": pa.array(np.minimum(sequences.lengths, length), pa.int64()),
        }
        with atomic_file(output) as temporary:
            pq.write_table(pa.table(table), temporary, compression="zstd")
        return {
            "users": len(sequences),
            "users_without_known_items": int((sequences.lengths == 0).sum()),
            "channels": model.config.hidden_size,
            "events": int(found.events.sum()),
            "unseen_events": found.unseen_events,
            "output": str(output),
        }
