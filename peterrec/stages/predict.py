"""`peterrec predict`: class probabilities for users, new ones too."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.data.logs.interactions import LogColumns, LogSource
from peterrec.data.new_histories import open_histories
from peterrec.inference import choose_device
from peterrec.run_folder import atomic_file
from peterrec.stages.output_file import refuse_existing, wanted_users
from peterrec.task_run import load_task
from peterrec.training.finetuning import predict


def run(
    source: LogSource,
    *,
    model: Path,
    output: Path,
    columns: LogColumns | None = None,
    users: Path | None = None,
    users_column: str = "user",
    encoder: Path | None = None,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predicts a task for the users of a log and writes `output` (Parquet), one row a user.

    Columns: user, predicted, p_<class>…, events (in the log), events_used (items that the encoder knows, at most the
    task's max_length). A user without any known item gets the class shares of the training labels. `users` is a table
    whose users are wanted, with or without events. Returns counts. Raises what loading the model and the log raise.
    """
    refuse_existing(output, overwrite=overwrite)
    loaded = load_task(model, encoder=encoder)
    facts = loaded.facts
    with open_histories(
        source,
        columns=columns or LogColumns(),
        vocabulary=loaded.vocabulary,
        users=wanted_users(users, column=users_column),
        bad_rows=bad_rows,
        memory_limit=memory_limit,
    ) as found:
        where = choose_device(device)
        sequences = found.sequences
        probabilities = np.tile(np.asarray(facts.prior), (len(sequences), 1))
        known = np.flatnonzero(sequences.lengths)
        if len(known):
            probabilities[known] = predict(
                loaded.model.to(where), sequences, rows=known, max_length=facts.task.max_length, device=where
            )
        classes = np.asarray(facts.classes)
        table = {
            "user": sequences.users.array,
            "predicted": pa.array(classes[probabilities.argmax(axis=1)].tolist(), pa.string()),
            **{f"p_{name}": probabilities[:, i] for i, name in enumerate(facts.classes)},
            "events": pa.array(found.events, pa.int64()),
            "events_used": pa.array(np.minimum(sequences.lengths, facts.task.max_length), pa.int64()),
        }
        with atomic_file(output) as temporary:
            pq.write_table(pa.table(table), temporary, compression="zstd")
        return {
            "users": len(sequences),
            "users_without_known_items": len(sequences) - len(known),
            "events": int(found.events.sum()),
            "unseen_events": found.unseen_events,
            "output": str(output),
        }
