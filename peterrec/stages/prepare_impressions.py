"""`peterrec check` and `peterrec prepare` for impressions: labelled rows of who was shown what, where and when."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from peterrec.data.domain_logs import BadRows
from peterrec.data.impressions.impressions import open_impressions
from peterrec.data.impressions.preparation import Sources, check_impressions, fill_folder
from peterrec.data.impressions.wanted import Wanted
from peterrec.data.logs.interactions import CheckReport, LogSource
from peterrec.run_folder import output_folder

KIND = "impressions"  # as run.json calls such a prepared folder


def check(sources: Sources, *, wanted: Wanted, memory_limit: str = "2GB") -> CheckReport:
    """Reads all of the impressions, the tables and the log beside them; reports every problem and writes nothing.

    Raises SettingsError for options that do not fit, ResourceError if memory or disk gives out.
    """
    return check_impressions(sources, wanted, memory_limit=memory_limit)


def run(
    sources: Sources,
    *,
    wanted: Wanted,
    output: Path,
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Check, join and number impressions; returns the summary that also stands in `<output>/summary.json`.

    The folder holds what `open_impressions` opens. Its `parts` are those of seed 0, where the split is drawn. All files
    appear at once, at the end. Raises `SettingsError` for options that do not fit, `DataError` for data that cannot be
    used or a split that leaves a part empty, and what `output_folder` raises.
    """
    output = Path(output)
    with output_folder(output, stage="prepare", overwrite=overwrite) as folder:
        with folder.files() as temporary:
            summary, fingerprint = fill_folder(
                sources, wanted, folder=temporary, bad_rows=bad_rows, memory_limit=memory_limit
            )
            opened = open_impressions(temporary)
            parts = opened.split(0)
            schema = opened.schema
        summary = {
            "format_version": 1,
            "kind": KIND,
            **summary,
            "parts": {name: len(getattr(parts, name)) for name in ("train", "validation", "test")},
            "split": schema.split.model_dump(mode="json"),
        }
        folder.write_json("summary.json", summary)
        known = None if sources.history is None else sources.history.vocabulary.fingerprint
        folder.finish(
            kind=KIND,
            settings={"schema": schema.model_dump(mode="json"), "bad_rows": bad_rows, "encoder_vocabulary": known},
            inputs={
                "rows": _named(sources.rows),
                **{table: _named(side.source) for table, side in sources.side.items()},
                "history": None if sources.history is None else _named(sources.history.log),
            },
            fingerprint=fingerprint,
            vocabulary_fingerprint=known,
        )
    return summary


def _named(source: LogSource) -> str | list[str]:
    """Paths as they were named, for run.json."""
    if isinstance(source, pa.Table | pa.RecordBatchReader):
        return "a table"
    given = [source] if isinstance(source, str | os.PathLike) else source
    return [os.fspath(path) for path in given]
