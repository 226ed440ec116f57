"""The events of two domains as files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.domain_logs import OneLog, TwoLogs, write_events
from peterrec.data.item_rule import ItemRule
from peterrec.data.logs.interactions import LogColumns

ITEMS = pa.table({"item": ["i0", "i1", "i2"], "genre": ["x", "y", "y"]})


def log_of(seed):
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "user": [f"u{n}" for n in random.integers(0, 5, 300)],
            "item": [f"i{n}" for n in random.integers(0, 3, 300)],
            "at": 1_600_000_000 + random.integers(0, 9, 300),
        }
    )


@pytest.mark.parametrize("timed", [True, False])
def test_a_divided_log_keeps_every_event_its_place_and_its_order(timed, tmp_path):
    log = log_of(0)
    columns = LogColumns(time="at" if timed else None)
    events = write_events(OneLog(log, columns, ITEMS, ItemRule("genre", "y")), folder=tmp_path)
    assert events.one_order
    for path, items in ((events.source, {"i0"}), (events.target, {"i1", "i2"})):
        wanted = [
            {**row, "time": row.pop("at") * 10**6 if timed else None, "position": place}
            for place, row in enumerate(log.to_pylist())
            if row["item"] in items
        ]
        found = pq.read_table(path).to_pylist()
        assert found == [{name: row[name] for name in ("user", "item", "time", "position")} for row in wanted]


def test_two_logs_may_come_as_streams_and_hold_the_same_item_ids(tmp_path):
    logs = [log_of(seed) for seed in (0, 1)]
    streams = [pa.RecordBatchReader.from_batches(log.schema, log.to_batches(max_chunksize=50)) for log in logs]
    columns = LogColumns(time="at")
    events = write_events(TwoLogs(*streams, columns, columns, items=ITEMS), folder=tmp_path)
    assert not events.one_order
    for path, log in zip((events.source, events.target), logs, strict=True):
        assert pq.read_table(path)["item"].to_pylist() == log["item"].to_pylist()
    assert events.items["genre"].to_pylist() == ["x", "y", "y"]
    assert events.facts["logs"]["target"] == {"rows_read": 300, "bad_rows": 0}
    assert events.facts["notes"] == []
