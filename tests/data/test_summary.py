"""The summary's figures: exact quantiles and histograms, label shares, and the printed tables."""

import io
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from peterrec.data.summary import SHOWN_VALUES, LengthCounts, label_shares, readable_time, render_summary


def counted(lengths, pieces=3):
    counts = LengthCounts()
    for piece in np.array_split(np.asarray(lengths, dtype=np.int64), pieces):
        counts.add(piece)
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_quantiles_are_those_of_all_lengths(seed):
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.zipf(1.5, size=rng.integers(1, 300)), 10**12)
    found = counted(lengths).quantiles()
    assert found is not None
    for name, share in (
        ("p5", 0.05),
        ("p25", 0.25),
        ("p50", 0.5),
        ("p75", 0.75),
        ("p95", 0.95),
        ("p99", 0.99),
    ):
        assert found[name] == np.quantile(lengths, share, method="inverted_cdf")
    assert (found["min"], found["max"]) == (lengths.min(), lengths.max())
    assert found["mean"] == pytest.approx(lengths.mean(), abs=1e-3)
    assert (counted(lengths).rows, counted(lengths).events) == (len(lengths), lengths.sum())


@pytest.mark.parametrize(
    "lengths", [[0], [1], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [5], [3, 4], [1, 10**9], [47, 48, 63, 64]]
)
def test_every_user_falls_into_one_bin_of_the_histogram(lengths):
    histogram = counted(lengths).histogram()
    edges = histogram["edges"]
    assert edges == sorted(set(edges))
    assert len(histogram["counts"]) == len(edges) - 1
    for low, high, count in zip(edges, edges[1:], histogram["counts"], strict=False):
        assert count == sum(low <= length < high for length in lengths)
    assert sum(histogram["counts"]) == len(lengths)
    assert histogram["counts"][0]
    assert histogram["counts"][-1]
    assert set(edges) <= {0, *(1 << n for n in range(40)), *(3 << n for n in range(40))}


def test_nothing_counted():
    assert LengthCounts().quantiles() is None
    assert LengthCounts().histogram() == {"edges": [], "counts": []}


def test_label_shares_equal_plain_counts():
    rng = np.random.default_rng(0)
    city = [f"c{n}" for n in rng.zipf(1.3, 500) % 50]
    score = [None if n % 3 == 0 else float(n % 2) for n in range(500)]
    table = pa.table({"user": [str(n) for n in range(500)], "city": city, "score": score, "ok": [True] * 500})
    shares = label_shares(table)
    assert list(shares) == ["city", "score", "ok"]
    expected = sorted(Counter(city).items(), key=lambda pair: (-pair[1], pair[0]))
    assert [(e["value"], e["count"], e["share"]) for e in shares["city"]["shares"]] == [
        (value, count, count / 500) for value, count in expected[:SHOWN_VALUES]
    ]
    assert shares["city"]["distinct"] == len(expected) > SHOWN_VALUES
    labelled = sum(value is not None for value in score)
    assert (shares["score"]["labelled"], shares["score"]["missing"]) == (labelled, 500 - labelled)
    assert sum(e["share"] for e in shares["score"]["shares"]) == pytest.approx(1, abs=1e-5)
    assert shares["ok"]["shares"] == [{"value": True, "count": 500, "share": 1.0}]


def test_a_column_without_labels_has_no_shares():
    table = pa.table({"user": ["a"], "age": pa.array([None], pa.int32())})
    assert label_shares(table)["age"] == {"labelled": 0, "missing": 1, "distinct": 0, "shares": []}


def test_times_in_words():
    assert readable_time(1_600_000_000_000_000) == "2020-09-13T12:26:40+00:00"
    assert readable_time(-1) == "1969-12-31T23:59:59.999999+00:00"
    assert readable_time(1 << 62) is None


def test_the_printed_summary_shows_every_figure_and_takes_no_markup():
    lengths = counted([1, 2, 3])
    part = {"rows": 3, "events": 6, "lengths": lengths.quantiles(), "unseen_events": 4321}
    summary = {
        "rows_read": 12_345,
        "rows_dropped": {"bad_rows": 7, "minimum_item_count": 9},
        "bad_rows": {"empty_id ([bold]user)": 7},
        "users": 3,
        "items": 5,
        "events": 678_901,
        "time": {"unit": "order", "first": 0, "last": 99},
        "vocabulary": {"fingerprint": "f" * 64, "items": 5},
        "split": {"name": "temporal", "parameters": {"cuts": [0.8, 0.9]}, "caveat": "caveat text"},
        "parts": {
            "train": part,
            "test": {**part, "lengths": None, "unseen_targets": 17, "without_history": 18},
        },
        "histogram": lengths.histogram(),
        "labels": label_shares(pa.table({"user": ["a", "b"], "[red]city": ["[/red]", "[blink]x"]})),
        "notes": ["a [note"],
    }
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_summary(summary))
    printed = console.export_text()
    for shown in (
        "12,345",
        "678,901",
        "minimum_item_count",
        "empty_id ([bold]user)",
        "4,321",
        "17",
        "18",
        "0 to 99",
        "ffff",
        "temporal (cuts [0.8, 0.9])",
        "caveat text",
        "[red]city",
        "[/red] 50.0%",
        "[blink]x 50.0%",
        "a [note",
    ):
        assert shown in printed, shown
