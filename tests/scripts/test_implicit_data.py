"""The tables of implicit feedback: what is drawn, what is held out, what an event knows of the other domain."""

import importlib.util
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.impressions.row_split import split_rows
from peterrec.data.impressions.schema import SplitRule

SCRIPT = Path(__file__).parents[2] / "scripts" / "implicit_data.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("implicit_data_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(script, monkeypatch, capsys, *arguments: object) -> tuple[list[str], list[dict]]:
    """The words of the command that the script prints, and the rows that it writes."""
    monkeypatch.setattr(sys, "argv", ["implicit_data.py", *map(str, arguments)])
    script.main()
    command = shlex.split(capsys.readouterr().out)
    return command, pq.read_table(command[2]).to_pylist()


def parts_of(command, rows):
    """The part of each row by the split of the command."""
    shares = tuple(float(share) for share in command[command.index("--fractions") + 1].split(","))
    time = np.array([row["part"] for row in rows])
    split = split_rows(SplitRule(name="temporal", fractions=shares), rows=len(rows), seed=0, user=None, time=time)
    found = np.empty(len(rows), dtype=int)
    for number, own in enumerate((split.train, split.validation, split.test)):
        found[own] = number
    return found


def test_behaviours(script, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    log = {(u, i, b) for u in range(1, 9) for b, n in (("collect", 4), ("buy", 3)) for i in rng.integers(100, 130, n)}
    events = [(*one, "train") for one in sorted(log)]
    events += [(u, int(i), "buy", part) for u in range(1, 9) for part, i in (("valid", 130), ("test", 131 + u % 2))]
    table = {n: list(c) for n, c in zip(("user", "item", "behavior", "split"), zip(*events, strict=True), strict=True)}
    table["dataset"] = ["mine"] * len(events)
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    command, rows = made(
        script, monkeypatch, capsys, "behaviours", tmp_path / "log.parquet", "--shop", "mine", "--output", tmp_path
    )
    assert [command[n + 1] for n, word in enumerate(command) if word == "--label"] == ["collect", "buy"]
    assert "cart" not in rows[0], "a behaviour that the shop has not"
    train = {(u, i) for u, i, _, part in events if part == "train"}
    seen = [row for row in rows if row["part"] == 0 and 1.0 in (row["collect"], row["buy"])]
    assert {(row["user"], row["item"]) for row in seen} == train
    for row in seen:
        for name in ("collect", "buy"):
            assert row[name] == (1.0 if (row["user"], row["item"], name) in log else None)
    drawn = [row for row in rows if row["part"] == 0 and row["collect"] == 0]
    assert len(drawn) == 4 * len(train)
    assert all(row["buy"] == 0 and (row["user"], row["item"]) not in train for row in drawn)
    every = {(u, i) for u, i, _, _ in events}
    for number, part in ((1, "valid"), (2, "test")):
        own = [row for row in rows if row["part"] == number]
        assert {(r["user"], r["item"]) for r in own if r["buy"]} == {(u, i) for u, i, _, p in events if p == part}
        assert all(row["collect"] is None for row in own)
        assert not {(row["user"], row["item"]) for row in own if not row["buy"]} & every
    assert parts_of(command, rows).tolist() == [row["part"] for row in rows]


def test_domains(script, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(1)
    events = [
        (user, f"{domain[0]}{item}", domain, pos)
        for user in range(8)
        for pos, (domain, item) in enumerate(
            zip(rng.choice(["toys", "games"], 4 + user), rng.integers(0, 9, 4 + user), strict=True)
        )
    ]
    events += [(9, f"{d[0]}{n}", d, n) for d in ("toys", "games") for n in range(7)]
    rng.shuffle(events)
    names = ("user", "item", "domain", "pos")
    events = [(int(u), str(i), str(d), int(p)) for u, i, d, p in events]
    table = {n: list(c) for n, c in zip(names, zip(*events, strict=True), strict=True)}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    command, rows = made(
        script, monkeypatch, capsys, "domains", tmp_path / "log.parquet", "--target", "games", "--output", tmp_path
    )
    ordered = sorted(events, key=lambda one: (one[0], one[3]))
    part = {}
    for user in {one[0] for one in events}:
        for domain in ("toys", "games"):
            own = [one for one in ordered if one[0] == user and one[2] == domain]
            for place, one in enumerate(own):
                left = len(own) - place
                part[one] = {1: 2, 2: 1}.get(left, 0) if len(own) >= 3 else 0
    expected = []
    for one in events:
        before = [
            other[1]
            for other in ordered
            if other[0] == one[0] and other[2] != one[2] and other[3] < one[3] and part[other] == 0
        ]
        other = before[-1] if before else None
        pair = (other, one[1]) if one[2] == "games" else (one[1], other)
        expected.append((one[0], *pair, part[one]))
    fields = ("user", "source_item", "target_item", "part")
    seen = [row for row in rows if 1.0 in (row["source"], row["target"])]
    assert sorted(map(str, (tuple(row[n] for n in fields) for row in seen))) == sorted(map(str, expected))
    had = {(u, i) for u, i, _, _ in events}
    trained = {(u, i) for u, i, _, _ in [one for one in events if part[one] == 0]}
    for label, field in (("source", "source_item"), ("target", "target_item")):
        drawn = [row for row in rows if row[label] == 0]
        assert len(drawn) == 4 * sum(row[label] == 1 for row in rows)
        assert all((r["user"], r[field]) not in (trained if r["part"] == 0 else had) for r in drawn)
        assert all(row[label] is None for row in rows if row not in drawn and row[label] != 1)
    assert all((row["source"] is None) != (row["target"] is None) for row in rows)
    assert parts_of(command, rows).tolist() == [row["part"] for row in rows]


def test_nothing_left_to_draw_is_said(script):
    with pytest.raises(ValueError, match="none is left"):
        script.draw_items(np.array([0]), np.array([0, 1]), items=2, rng=np.random.default_rng(0))
