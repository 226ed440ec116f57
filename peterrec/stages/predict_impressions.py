"""`peterrec predict` for a model of impressions: what happens after each row, in the rows' own order."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.atomic import atomic_file
from peterrec.data.domain_logs import BadRows
from peterrec.data.impressions.history import History
from peterrec.data.impressions.new_rows import read_rows
from peterrec.data.impressions.schema import HistoryColumns, Schema, Table
from peterrec.data.impressions.side_table import SideTable
from peterrec.data.logs.interactions import LogColumns, LogSource
from peterrec.errors import SettingsError
from peterrec.impression_run import load_impressions
from peterrec.inference import choose_device
from peterrec.stages.output_file import refuse_existing
from peterrec.stages.user_progress import user_progress

BLOCK_ROWS = 1 << 17  # rows of a row group, and a step of the progress bar


def run(
    source: LogSource,
    *,
    model: Path,
    output: Path,
    history: LogSource | None = None,
    history_columns: LogColumns | None = None,
    side: Mapping[Table, SideTable] | None = None,
    encoder: Path | None = None,
    continued: bool = False,
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Predicts for the rows of `source` and writes `output` (Parquet), a row for each, in their order.

    Columns: row (its place in the files), user, item and domain where the rows have them, and p_<output> for each
    output: with click and conversion p_ctr, p_cvr, p_ctcvr. Labels are not needed, nor are fields that a `train_only`
    tower reads. `history` is the log of what users did before, for a model with an encoder; its columns are those of
    the training unless given. `side` are tables of users and items, for fields that come from there. `encoder` and
    `continued` are as for `load_impressions`. Returns counts. Raises what loading the model and the rows raise.
    """
    refuse_existing(output, overwrite=overwrite)
    where = choose_device(device)
    loaded = load_impressions(model, encoder=encoder, continued=continued)
    facts, schema = loaded.facts, loaded.schema
    if facts.with_encoder and history is None:
        raise SettingsError(f"{model} reads what users did before: name the log of their events with --history.")
    if not facts.with_encoder and history is not None:
        raise SettingsError(f"--history: {model} was trained without an encoder and reads no history; leave it out.")
    known = None
    if history is not None:
        assert loaded.vocabulary is not None
        known = History(history, history_columns or columns_of(schema), loaded.vocabulary)
    plan = loaded.fitted.plan
    optional = {name for bias in facts.task.biases if bias.train_only for name in bias.fields}
    with read_rows(
        source,
        schema,
        side=side,
        history=known,
        optional=optional | {name for name in schema_fields(schema) if name not in plan.all_fields},
        bad_rows=bad_rows,
        memory_limit=memory_limit,
    ) as rows:
        loaded.fitted.whole.to(where)
        outputs = loaded.fitted.network.outputs
        roles = {"user": (rows.user_ids, rows.user), "item": (rows.item_ids, rows.item)}
        there = {name: pair for name, pair in roles.items() if len(pair[0])}
        names = ["row", *there, *(["domain"] if schema.domains else []), *(f"p_{name}" for name in outputs)]
        kinds = {"row": pa.int64(), **dict.fromkeys((*there, "domain"), pa.string())}
        written = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
        domains = pa.array(schema.domains, pa.string())
        with (
            atomic_file(output) as temporary,
            pq.ParquetWriter(temporary, written, compression="zstd") as writer,
            user_progress("predicting", users=len(rows), noun="rows") as advance,
        ):
            for first in range(0, len(rows), BLOCK_ROWS):
                some = np.arange(first, min(first + BLOCK_ROWS, len(rows)))
                data = loaded.fitted.rows(rows, kept=some, cache_mb=0)
                predicted = data.predict(some, where, advance=advance)
                columns = [pa.array(rows.position[some])]
                columns += [
                    _column(ids.array.take(pa.array(codes[some], mask=codes[some] < 0)))
                    for ids, codes in there.values()
                ]
                if schema.domains:
                    codes = rows.domain[some]
                    columns.append(domains.take(pa.array(codes, mask=codes < 0)))
                columns += [pa.array(predicted[name]) for name in outputs]
                writer.write_table(pa.table(columns, schema=written))
        unknown = int((rows.domain < 0).sum()) if schema.domains else 0
        without = None if rows.before is None else int((rows.before == 0).sum())
        return {
            "rows": len(rows),
            **({"rows_of_unknown_domains": unknown} if schema.domains else {}),
            **({} if without is None else {"rows_without_known_history": without}),
            "output": str(output),
        }


def columns_of(schema: Schema) -> LogColumns:
    """The columns of the log of events that the model was trained with."""
    known: HistoryColumns | None = schema.history
    if known is None:
        return LogColumns()
    return LogColumns(user=known.user, item=known.item, time=known.time, time_unit=known.time_unit)


def schema_fields(schema: Schema) -> list[str]:
    """The names of all fields of a schema."""
    return [field.name for field in schema.fields]


def _column(found: pa.ChunkedArray | pa.Array) -> pa.Array:
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
