"""`peterrec predict`: class probabilities for users, new ones too."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.atomic import atomic_file
from peterrec.data.logs.interactions import LogColumns, LogSource
from peterrec.data.new_histories import open_histories
from peterrec.errors import SettingsError
from peterrec.inference import choose_device
from peterrec.run_record import read_run
from peterrec.run_weights import kind_of
from peterrec.stages.output_file import refuse_existing, wanted_users
from peterrec.stages.user_progress import user_progress
from peterrec.task_run import load_task
from peterrec.training.finetuning import predict

BLOCK_USERS = 20_000  # users of a row group, and a step of the progress bar


def run(
    source: LogSource,
    *,
    model: Path,
    output: Path,
    columns: LogColumns | None = None,
    users: Path | None = None,
    users_column: str = "user",
    encoder: Path | None = None,
    continued: bool = False,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predicts a task for the users of a log and writes `output` (Parquet), one row a user.

    Columns: user, predicted, p_<class>…, events (in the log), events_used (those of them that the prediction
    depends on). A user without any known item gets the class shares of the training labels. `users` is a table
    whose users are wanted, with or without events. `encoder` may be the task's in another place, or one that holds it
    (with `continued`, one that went on from it). Returns counts. Raises what loading the model and the log raise.
    """
    refuse_existing(output, overwrite=overwrite)
    where = choose_device(device)
    if kind_of(read_run(model, stage="finetune")) == "ranking":
        raise SettingsError(
            f"{model} ranks the items of a target domain and has no classes to predict: "
            f"`peterrec recommend LOG --model {model}` gives the best items."
        )
    loaded = load_task(model, encoder=encoder, continued=continued)
    facts = loaded.facts
    with open_histories(
        source,
        columns=columns or LogColumns(),
        vocabulary=loaded.vocabulary,
        users=wanted_users(users, column=users_column),
        bad_rows=bad_rows,
        memory_limit=memory_limit,
    ) as found:
        sequences = found.sequences
        task_model = loaded.model.to(where)
        reading = task_model.reading(facts.max_length)
        schema = pa.schema(
            {
                "user": pa.string(),
                "predicted": pa.string(),
                **{f"p_{name}": pa.float64() for name in facts.classes},
                "events": pa.int64(),
                "events_used": pa.int64(),
            }
        )
        classes = pa.array(facts.classes, pa.string())
        with (
            atomic_file(output) as temporary,
            pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
            user_progress("predicting", users=len(sequences)) as advance,
        ):
            for first in range(0, len(sequences), BLOCK_USERS):
                rows = np.arange(first, min(first + BLOCK_USERS, len(sequences)))
                lengths = sequences.lengths[rows]
                probabilities = np.tile(np.asarray(facts.prior), (len(rows), 1))
                known = lengths > 0
                if known.any():
                    probabilities[known] = predict(
                        task_model, sequences, rows=rows[known], max_length=facts.max_length, device=where
                    )
                columns_of_block = [
                    sequences.users.array.slice(first, len(rows)),
                    classes.take(pa.array(probabilities.argmax(axis=1))),
                    *(pa.array(column) for column in probabilities.T.copy()),
                    pa.array(found.events[rows], pa.int64()),
                    pa.array(reading.events(lengths), pa.int64()),
                ]
                writer.write_table(pa.table(columns_of_block, schema=schema))
                advance(len(rows))
        return {
            "users": len(sequences),
            "users_without_known_items": int((sequences.lengths == 0).sum()),
            "events": int(found.events.sum()),
            "unseen_events": found.unseen_events,
            "output": str(output),
        }
