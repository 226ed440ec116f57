"""Prepare: every split of random logs against a plain reference, read back from the files alone."""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data import prepared
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.prepared import PARTS, open_prepared
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, PeterrecError, SettingsError
from peterrec.run_record import read_run
from peterrec.stages import prepare

SPLITS = [
    ("temporal", None, 0),
    ("temporal", (0.5, 0.6), 0),
    ("leave_one_out", None, 0),
    ("by_user", None, 0),
    ("by_user", (0.4, 0.3, 0.3), 11),
]
START = 1_600_000_000  # seconds
MOVIELENS = Path(__file__).parents[3] / "shared" / "data"


def random_log(seed, users=30, items=25, span=40):
    """Rows (user, item, time): ties in time, repeated items, users with one or two events, rare items."""
    rng = random.Random(seed)
    rows = []
    for user in range(users):
        start = rng.randrange(span)
        for _ in range(rng.choice([1, 1, 2, 3, 5, 12])):
            time = start + rng.randrange(span // 2)
            # later items are new, so that some are unseen before a cut
            item = min(int(rng.expovariate(0.25)) + time // 4, items - 1)
            rows.append((f"u{user}", f"i{item}", START + time))
    rng.shuffle(rows)
    return rows


def table_of(rows):
    user, item, time = (list(column) for column in zip(*rows, strict=True))
    return pa.table({"user": user, "item": item, "time": pa.array(time, pa.int64())})


def reference(rows, *, split, fractions, seed, minimum_item_count=1, minimum_user_events=1):
    """The parts {name: [(user, items, target)]}, the vocabulary and the figures, in plain Python."""
    counts = Counter(item for _, item, _ in rows)
    common = [row for row in rows if counts[row[1]] >= minimum_item_count]
    active = Counter(user for user, _, _ in common)
    kept = [row for row in common if active[row[0]] >= minimum_user_events]
    histories = {}
    for user, item, time in kept:
        histories.setdefault(user, []).append((time, item))
    histories = {user: sorted(histories[user], key=lambda event: event[0]) for user in sorted(histories)}
    if split == "temporal":
        ordered = sorted(time for _, _, time in kept)
        first, second = (ordered[int(round(f * len(kept), 6))] for f in fractions or (0.8, 0.9))
        bounds = {u: (sum(t < first for t, _ in h), sum(t < second for t, _ in h)) for u, h in histories.items()}
        trains = set(histories)
        known = [item for h in histories.values() for t, item in h if t < first]
    elif split == "leave_one_out":
        bounds = {u: (len(h) - 2, len(h) - 1) if len(h) > 2 else (len(h), len(h)) for u, h in histories.items()}
        trains = set(histories)
        known = [item for h in histories.values() for _, item in h]
    else:
        ranked = sorted(histories, key=lambda user: hashlib.md5(f"{seed}:{user}".encode()).hexdigest())
        shares = fractions or (0.7, 0.03, 0.27)
        ends = [int(round(end, 9) * len(ranked) + 0.5) for end in (shares[0], shares[0] + shares[1])]
        trains = set(ranked[: ends[0]])
        bounds = {user: (len(h), len(h)) for user, h in histories.items()}
        bounds |= {user: (len(histories[user]) - 1, len(histories[user])) for user in ranked[ends[0] : ends[1]]}
        bounds |= {user: (len(histories[user]) - 1,) * 2 for user in ranked[ends[1] :]}
        known = [item for user in trains for _, item in histories[user]]
    vocabulary = Counter(known)

    def seen(events):
        return [item for _, item in events if item in vocabulary]

    parts = {part: [] for part in PARTS}
    left_out = {part: Counter() for part in PARTS}
    for user, h in histories.items():
        first, second = bounds[user]
        if user in trains and seen(h[:first]):
            parts["train"].append((user, seen(h[:first]), None))
        for part, begin, end in (("validation", first, second), ("test", second, len(h))):
            if end > begin:
                target = h[begin][1]
                if target not in vocabulary:
                    left_out[part]["unseen_targets"] += 1
                elif not seen(h[:begin]):
                    left_out[part]["without_history"] += 1
                else:
                    parts[part].append((user, seen(h[:begin]), target))
                    left_out[part]["unseen_events"] += begin - len(seen(h[:begin]))
        parts["histories"].append((user, seen(h), None))
        left_out["histories"]["unseen_events"] += len(h) - len(seen(h))
    order = sorted(vocabulary.items(), key=lambda pair: (-pair[1], pair[0]))
    dropped = {"minimum_item_count": len(rows) - len(common), "minimum_user_events": len(common) - len(kept)}
    return parts, order, left_out, {reason: n for reason, n in dropped.items() if n}, kept


def read_parts(folder):
    """The parts as `datasets` reads them, items by name through vocabulary.parquet: from the files alone."""
    table = pq.read_table(folder / "vocabulary.parquet")
    names = dict(zip(table["row"].to_pylist(), table["item"].to_pylist(), strict=True))
    loaded = datasets.load_from_disk(str(folder))
    assert isinstance(loaded, datasets.DatasetDict)
    assert list(loaded) == list(PARTS)
    parts = {}
    for part in PARTS:
        rows = loaded[part].to_dict()
        targets = [names[row] for row in rows["target"]] if "target" in rows else [None] * len(rows["user"])
        items = [[names[row] for row in history] for history in rows["items"]]
        parts[part] = list(zip(rows["user"], items, targets, strict=True))
    return parts


def run(source, output, **options):
    return prepare.run(source, output=output, columns=options.pop("columns", LogColumns()), **options)


@pytest.mark.parametrize(
    ("minimum_item_count", "minimum_user_events", "batch_events"),
    [(1, 1, 13), (3, 1, 1), (1, 3, 1 << 22), (4, 3, 13)],
)
@pytest.mark.parametrize(("split", "fractions", "seed"), SPLITS)
def test_every_split_equals_the_reference(
    tmp_path, monkeypatch, split, fractions, seed, minimum_item_count, minimum_user_events, batch_events
):
    monkeypatch.setattr(prepared, "BATCH_EVENTS", batch_events)
    minima = {"minimum_item_count": minimum_item_count, "minimum_user_events": minimum_user_events}
    rows = random_log(batch_events % 97)
    parts, order, left_out, dropped, kept = reference(rows, split=split, fractions=fractions, seed=seed, **minima)
    summary = run(table_of(rows), tmp_path / "out", split=split, split_fractions=fractions, seed=seed, **minima)
    assert read_parts(tmp_path / "out") == parts
    with pa.memory_map(str(tmp_path / "out" / "histories" / "data-00000-of-00001.arrow")) as file:
        batches = sum(1 for _ in pa.ipc.open_stream(file))
    assert (batches > 1) == (batch_events < 1 << 22)
    vocabulary = pq.read_table(tmp_path / "out" / "vocabulary.parquet")
    assert list(zip(vocabulary["item"].to_pylist(), vocabulary["count"].to_pylist(), strict=True)) == order
    log = open_prepared(tmp_path / "out")
    for part in PARTS:
        sequences = log.sequences(part)
        assert sequences.users[:] == [user for user, _, _ in parts[part]]
        assert [log.vocabulary.ids(sequences.items_of(n)) for n in range(len(sequences))] == [
            h for _, h, _ in parts[part]
        ]
        figures = summary["parts"][part]
        assert figures["rows"] == len(parts[part])
        assert figures["events"] == log.events[part] == sum(len(h) for _, h, _ in parts[part])
        for name in ("unseen_targets", "without_history", "unseen_events"):
            assert figures.get(name, 0) == left_out[part][name]
    assert summary["rows_dropped"] == dropped
    assert summary["rows_read"] == len(rows)
    assert summary["events"] == len(kept)
    assert (summary["users"], summary["items"]) == tuple(len({row[n] for row in kept}) for n in (0, 1))


def test_the_reference_meets_the_hard_cases():
    """What the comparison above is worth: ties, unseen items, unseen targets, lone users all occur in it."""
    seen = Counter()
    for batch_events in (1, 13, 1 << 22):
        rows = random_log(batch_events % 97)
        parts, _, left_out, _, _ = reference(rows, split="temporal", fractions=None, seed=0)
        for part in PARTS:
            seen.update(left_out[part])
            seen[part] += len(parts[part])
        seen["ties"] += len(rows) - len({(user, time) for user, _, time in rows})
        seen["short"] += sum(n < 3 for n in Counter(user for user, _, _ in rows).values())
    for name in ("unseen_events", "unseen_targets", "without_history", "validation", "test", "ties", "short"):
        assert seen[name] > 3, name


@pytest.mark.parametrize(("split", "fractions", "seed"), SPLITS)
def test_pretraining_never_sees_an_evaluated_target(tmp_path, split, fractions, seed):
    """Told from the files: each user meets an item at most once here, so user and item name one event."""
    rng = random.Random(seed)
    rows = []
    for user in range(80):
        for item in rng.sample(range(60), rng.choice([1, 2, 3, 8, 20])):
            rows.append((f"u{user}", f"i{item}", START + rng.randrange(500)))
    summary = run(table_of(rows), tmp_path / "out", split=split, split_fractions=fractions, seed=seed)
    time_of = {(user, item): time for user, item, time in rows}
    parts = read_parts(tmp_path / "out")
    events = {part: {(u, item) for u, history, _ in parts[part] for item in history} for part in PARTS}
    targets = {part: {(u, target) for u, _, target in parts[part]} for part in ("validation", "test")}
    assert all(targets.values())
    assert not events["train"] & (targets["validation"] | targets["test"])
    assert not events["validation"] & (targets["validation"] | targets["test"])
    assert not events["test"] & targets["test"]
    assert not targets["validation"] & targets["test"]
    for part in ("validation", "test"):
        for user, history, target in parts[part]:
            assert all(time_of[user, item] <= time_of[user, target] for item in history)
    if split == "temporal":
        first, second = (summary["split"][f"{part}_from"] // 1_000_000 for part in ("validation", "test"))
        assert max(time_of[event] for event in events["train"]) < first
        assert first <= min(time_of[event] for event in targets["validation"])
        assert max(time_of[event] for event in targets["validation"]) < second
        assert second <= min(time_of[event] for event in targets["test"])
        vocabulary = set(pq.read_table(tmp_path / "out" / "vocabulary.parquet")["item"].to_pylist())
        assert vocabulary == {item for (_, item), time in time_of.items() if time < first}
    if split == "by_user":
        users = [{user for user, _, _ in parts[part]} for part in ("train", "validation", "test")]
        assert not users[0] & users[1]
        assert not users[0] & users[2]
        assert not users[1] & users[2]
    if split == "leave_one_out":  # the test history holds the validation item
        validation = {user: target for user, _, target in parts["validation"]}
        assert parts["test"]
        assert all(history[-1] == validation[user] for user, history, _ in parts["test"])


def test_ties_keep_the_order_of_the_rows(tmp_path):
    items = [f"i{n}" for n in random.Random(0).sample(range(1000), 500)]
    rows = [("u", item, 5) for item in items]
    run(table_of(rows), tmp_path / "out", split="leave_one_out")
    assert read_parts(tmp_path / "out")["histories"] == [("u", items, None)]


def test_a_log_without_times_takes_the_order_of_the_rows(tmp_path):
    rows = random_log(5)
    columns = LogColumns(time=None)
    summary = run(table_of(rows).drop_columns(["time"]), tmp_path / "out", split="leave_one_out", columns=columns)
    untimed = [(user, item, 0) for user, item, _ in rows]
    assert read_parts(tmp_path / "out") == reference(untimed, split="leave_one_out", fractions=None, seed=0)[0]
    assert summary["time"] is None
    for source in (table_of(rows).drop_columns(["time"]), table_of(rows)):
        with pytest.raises(SettingsError, match="leave_one_out or by_user"):
            run(source, tmp_path / "no", split="temporal", columns=columns)
    assert not (tmp_path / "no").exists()


def test_the_same_log_in_another_row_order_gives_the_same_files(tmp_path):
    rows = [(user, item, START + n) for n, (user, item, _) in enumerate(random_log(8))]  # no ties
    for name, order in (("a", rows), ("b", rows[::-1])):
        run(table_of(order), tmp_path / name, split="by_user", seed=3)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 14
    for file in files:
        if file.name not in (".lock",):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_labels_and_items_come_along(tmp_path):
    rows = random_log(9)
    names = sorted({user for user, _, _ in rows})
    gender = [["f", "m", None][n % 3] for n in range(len(names))]
    users = pa.table({"uid": names, "gender": gender, "age": pa.array(range(len(names)), pa.int32())})
    items = pa.table({"title": ["b", "a"], "item": ["i2", "i1"]})
    summary = run(
        table_of(rows),
        tmp_path / "out",
        users=users,
        users_column="uid",
        items=items,
        minimum_user_events=3,
        split="leave_one_out",
    )
    log = open_prepared(tmp_path / "out")
    labels = log.labels()
    assert labels is not None
    kept = set(log.sequences("histories").users)
    assert len(kept) < len(names)
    expected = [row for row in zip(names, gender, range(len(names)), strict=True) if row[0] in kept]
    assert [tuple(row.values()) for row in labels.select(["user", "gender", "age"]).to_pylist()] == expected
    genders = Counter(g for _, g, _ in expected if g)
    assert summary["labels"]["gender"] == {
        "labelled": sum(genders.values()),
        "missing": len(expected) - sum(genders.values()),
        "distinct": 2,
        "shares": [
            {"value": value, "count": count, "share": round(count / sum(genders.values()), 6)}
            for value, count in sorted(genders.items(), key=lambda pair: (-pair[1], pair[0]))
        ],
    }
    assert log.items().to_pylist() == [{"item": "i2", "title": "b"}, {"item": "i1", "title": "a"}]


def test_bad_rows_of_the_users_table_are_refused_or_left_out(tmp_path):
    rows = random_log(9)
    names = sorted({user for user, _, _ in rows})
    users = pa.table({"user": [*names, names[0], "stranger"], "group": ["a"] * len(names) + ["b", "c"]})
    with pytest.raises(DataError, match=names[0]):
        run(table_of(rows), tmp_path / "out", users=users, split="leave_one_out")
    assert not (tmp_path / "out").exists()
    summary = run(table_of(rows), tmp_path / "out", users=users, split="leave_one_out", bad_rows="drop")
    labels = open_prepared(tmp_path / "out").labels()
    assert labels is not None
    assert labels.to_pydict() == {"user": names, "group": ["a"] * len(names)}
    for name in (names[0], "stranger"):
        assert any(note.startswith("users table") and f"'{name}" in note for note in summary["notes"]), name


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (pa.table({"itme": ["a"]}), "Did you mean 'itme'"),
        (pa.table({"item": ["a", "b", "a"]}), "2 rows for 'a'"),
        (pa.table({"item": ["a", None]}), "row 2"),
        (pa.table({"item": [1.0, 2.0]}), "double"),
    ],
)
def test_a_bad_items_table_is_told(tmp_path, items, told):
    with pytest.raises(DataError, match=told):
        run(table_of(random_log(0)), tmp_path / "out", items=items)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (random_log(0), {"minimum_item_count": 10**6}, "minimum_item_count = 1000000 leaves nothing"),
        (random_log(0), {"minimum_user_events": 10**6}, "minimum_user_events = 1000000 leaves no user"),
        ([("a", "x", 1), ("b", "y", 1)], {}, "temporal .* leaves no event to train on"),
        (
            [("a", "x", 1), ("b", "y", 2)],
            {"split": "by_user", "split_fractions": (0, 0.5, 0.5)},
            "no user to train",
        ),
    ],
)
def test_an_empty_result_names_the_filter_that_made_it(tmp_path, rows, options, told):
    with pytest.raises(DataError, match=told):
        run(table_of(rows), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split": "by_users"}, "Did you mean 'by_user'"),
        ({"minimum_item_count": 0}, "at least 1"),
        ({"minimum_user_events": -1}, "at least 1"),
        ({"split": "leave_one_out", "split_fractions": (0.8, 0.9)}, "takes no fractions"),
    ],
)
def test_options_are_checked_before_anything_is_read(tmp_path, options, told):
    with pytest.raises(SettingsError, match=told):
        run([tmp_path / "missing.parquet"], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_empty_evaluation_parts_are_noted_and_still_read(tmp_path):
    summary = run(table_of([("a", "x", 1), ("b", "y", 2)]), tmp_path / "out", split="leave_one_out")
    for part, note in zip(("validation", "test"), summary["notes"][-2:], strict=True):
        assert f"{part!r} is empty" in note
    parts = read_parts(tmp_path / "out")
    assert (parts["validation"], parts["test"]) == ([], [])
    assert summary["parts"]["test"]["lengths"] is None


def test_a_finished_folder_is_kept_unless_overwritten(tmp_path):
    out = tmp_path / "out"
    users = pa.table({"user": ["u1"], "gender": ["f"]})
    first = run(table_of(random_log(1)), out, users=users)
    before = (out / "summary.json").read_bytes()
    with pytest.raises(SettingsError, match="overwrite"):
        run(table_of(random_log(2)), out)
    assert (out / "summary.json").read_bytes() == before
    second = run(table_of(random_log(2)), out, overwrite=True)
    assert second != first
    assert json.loads((out / "summary.json").read_text()) == second
    assert not (out / "users.parquet").exists()


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(table_of(random_log(1)), out)

    def fails(*_args, **_options):
        raise DataError("halfway")

    with monkeypatch.context() as patched:
        patched.setattr(Vocabulary, "save", fails)
        for where in (out, tmp_path / "new"):
            with pytest.raises(DataError, match="halfway"):
                run(table_of(random_log(2)), where, overwrite=True)
    assert open_prepared(out).summary == first
    assert not (tmp_path / "new").exists()
    assert not list(out.rglob("*.partial"))


def test_the_run_is_described(tmp_path):
    rows = random_log(3)
    summary = run(table_of(rows), tmp_path / "out", split="by_user", seed=2)
    facts = read_run(tmp_path / "out", stage="prepare")
    assert facts["inputs"] == {"log": "a table", "users": None, "items": None}
    assert facts["settings"]["split"] == {"name": "by_user", "fractions": [0.7, 0.03, 0.27], "seed": 2}
    assert facts["vocabulary_fingerprint"] == summary["vocabulary"]["fingerprint"]
    assert facts["settings"]["columns"]["item"] == "item"
    assert set(facts["id_types"]) == {"user", "item"}
    times = [time for _, _, time in rows]
    assert (summary["time"]["first"], summary["time"]["last"]) == (min(times) * 10**6, max(times) * 10**6)
    assert summary["time"]["unit"] == "s"
    assert summary["time"]["first_date"].startswith("2020-09-13T12:2")
    json.dumps(summary, allow_nan=False)


def test_memory_limit_is_told_when_it_is_too_little(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 10**9, size=(2, 400_000)).astype(str)
    table = pa.table({"user": ids[0], "item": ids[1], "time": np.arange(ids.shape[1])})
    with pytest.raises(PeterrecError, match="memory"):
        run(table, tmp_path / "out", memory_limit="1MB")


@pytest.mark.skipif(not (MOVIELENS / "ml1m_ratings.parquet").exists(), reason="MovieLens-1M is not in ../shared/data")
def test_movielens_gives_the_canonical_leave_one_out_data(tmp_path):
    """The data of the published figures: 6,040 users, 3,416 items, 999,611 events, in the order of `pos`."""
    summary = run(
        [MOVIELENS / "ml1m_ratings.parquet"],
        tmp_path / "out",
        columns=LogColumns(time="pos"),
        bad_rows="drop",
        split="leave_one_out",
    )
    assert (summary["users"], summary["items"], summary["events"]) == (6040, 3416, 999_611)
    assert summary["rows_dropped"] == {"bad_rows": 598}
    assert list(summary["bad_rows"].values()) == [598]
    ratings = pq.read_table(MOVIELENS / "ml1m_ratings.parquet", columns=["user", "item", "pos"])
    user, item, pos = (ratings.filter(ratings["pos"].is_valid())[name].to_numpy() for name in ratings.column_names)
    names = user.astype(str)
    order = np.lexsort((pos, names))  # users in the order of their ids as text
    log = open_prepared(tmp_path / "out")
    items = log.vocabulary.rows(pa.array(item[order].astype(str)))
    users, starts, lengths = np.unique(names[order], return_index=True, return_counts=True)
    for part, left_out in (("train", 2), ("validation", 2), ("test", 1), ("histories", 0)):
        sequences = log.sequences(part)
        assert sequences.users[:] == users.tolist()
        assert np.array_equal(sequences.lengths, lengths - left_out)
        flat, _ = sequences.gather(np.arange(6040), np.zeros(6040), sequences.lengths)
        inside = np.arange(len(items)) - np.repeat(starts, lengths) < np.repeat(lengths - left_out, lengths)
        assert np.array_equal(flat, items[inside])
        if sequences.targets is not None:
            assert np.array_equal(sequences.targets, items[starts + lengths - left_out])
