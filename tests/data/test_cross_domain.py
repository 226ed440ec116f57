"""Paired logs, against a plain loop over the rows of both logs; and that no history holds what came later."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data import paired_writer
from peterrec.data.cross_domain import ItemRule, OneLog, TwoLogs, open_pairs, write_pairs
from peterrec.data.examples import Examples, choose_events, draw_events
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, RefusedError, SettingsError

KNOWN = [f"i{n}" for n in range(8)]
VOCABULARY = Vocabulary.build(KNOWN, counts=np.arange(8)[::-1] + 1)
V = len(VOCABULARY)
UNTIMED = LogColumns(time=None)
START = 1_600_000_000


def random_log(random, *, events, users, items, span):
    """Rows in random order, with ties in time."""
    return pa.table(
        {
            "user": [f"u{n}" for n in random.choice(users, events)],
            "item": [f"i{n}" for n in random.choice(items, events)],
            "time": START + random.integers(0, span, events),
        }
    )


def rows_of(log):
    """(user, item, time, position) of each row."""
    columns = [log[name].to_pylist() for name in ("user", "item")]
    times = log["time"].to_pylist() if "time" in log.column_names else [0] * log.num_rows
    return list(zip(*columns, times, range(log.num_rows), strict=True))


def wanted_pairs(source, target, *, one_order):
    """Of each joint user, by id: all known source events, and each target event with the histories before it.

    The histories are lists of (domain, item).
    """

    def earlier(event, other, domain):
        if one_order or domain == "target":
            return (other[2], other[3]) < (event[2], event[3])
        return other[2] < event[2]

    def place(domain, event):
        return (event[2], 0 if one_order else domain == "source", event[3])

    wanted = {}
    for user in sorted({row[0] for row in source} & {row[0] for row in target}):
        mine = [("source", row) for row in source if row[0] == user and row[1] in KNOWN]
        mine += [("target", row) for row in target if row[0] == user]
        mine.sort(key=lambda entry: place(*entry))
        events = []
        for domain, event in mine:
            if domain == "target":
                past = [(kind, row[1]) for kind, row in mine if earlier(event, row, kind)]
                events.append((event[1], [item for kind, item in past if kind == "source"], past))
        wanted[user] = ([row[1] for kind, row in mine if kind == "source"], events)
    return wanted


def read_pairs(pairs):
    """The same from what was written, through the views that examples read."""
    examples = Examples(np.arange(len(pairs.owner)))
    sources, mixed = (examples.histories(pairs, history=kind) for kind in ("source", "mixed"))
    found = {user: (pairs.source_vocabulary.ids(pairs.sources.items_of(n)), []) for n, user in enumerate(pairs.users)}
    for event, (owner, row) in enumerate(zip(pairs.owner, pairs.item, strict=True)):
        past = [
            ("source", VOCABULARY.ids([r])[0]) if r < V else ("target", pairs.target_vocabulary.ids([r - V + 3])[0])
            for r in mixed.items_of(event).tolist()
        ]
        target = pairs.target_vocabulary.ids([row])[0]
        found[pairs.users[int(owner)]][1].append((target, VOCABULARY.ids(sources.items_of(event)), past))
    return found


def check_order(pairs):
    assert list(pairs.users) == sorted(pairs.users)
    assert np.all(np.diff(pairs.owner) >= 0)
    assert pairs.starts.tolist() == [0, *np.cumsum(np.bincount(pairs.owner, minlength=len(pairs))).tolist()]


@pytest.mark.parametrize(("seed", "batch"), [(0, 1 << 22), (1, 1), (2, 30), (3, 1), (4, 30)])
def test_two_logs_are_paired_as_a_plain_loop_pairs_them(seed, batch, tmp_path, monkeypatch):
    monkeypatch.setattr(paired_writer, "BATCH_EVENTS", batch)
    random = np.random.default_rng(seed)
    source = random_log(random, events=150, users=np.arange(0, 14), items=np.arange(0, 12), span=25)
    target = random_log(random, events=90, users=np.arange(4, 20), items=np.arange(5, 20), span=25)
    logs = TwoLogs(source, target, source_columns=LogColumns(), target_columns=LogColumns())
    pairs = write_pairs(logs, folder=tmp_path / "pairs", vocabulary=VOCABULARY)
    wanted = wanted_pairs(rows_of(source), rows_of(target), one_order=False)
    assert read_pairs(pairs) == wanted
    check_order(pairs)

    counts = {item: target["item"].to_pylist().count(item) for item in target["item"].to_pylist()}
    assert dict(zip(pairs.target_vocabulary.items.to_pylist(), pairs.target_vocabulary.counts, strict=True)) == counts
    figures, joined = pairs.summary, [row for row in rows_of(source) if row[0] in wanted]
    first, second = set(source["user"].to_pylist()), set(target["user"].to_pylist())
    assert figures["users"] == {
        "source": len(first),
        "target": len(second),
        "joined": len(wanted),
        "source_only": len(first - second),
        "target_only": len(second - first),
        "joined_without_known_source_events": sum(not items for items, _ in wanted.values()),
    }
    events = [event for _, found in wanted.values() for event in found]
    mine = [row for row in rows_of(target) if row[0] in wanted]
    times = {(row[0], row[2]) for row in joined}
    assert figures["events"] == {
        "source_log": 150,
        "source": len(joined),
        "source_unseen": sum(row[1] not in KNOWN for row in joined),
        "target_log": 90,
        "target": len(events),
        "target_without_source_before": sum(not past for _, past, _ in events),
        "target_at_the_time_of_a_source_event": sum((row[0], row[2]) in times for row in mine),
    }
    assert figures["events"]["target_at_the_time_of_a_source_event"] > 0
    bought = set(target["item"].to_pylist())
    assert figures["items"] == {
        "source_unseen": len(set(source["item"].to_pylist()) - set(KNOWN)),
        "target": len(bought),
        "target_ids_in_the_source_log": len(bought & set(source["item"].to_pylist())),
        "target_ids_in_the_source_vocabulary": len(bought & set(KNOWN)),
    }


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_one_log_is_divided_by_a_rule_and_keeps_its_own_order(seed, timed, tmp_path):
    random = np.random.default_rng(seed)
    log = random_log(random, events=260, users=np.arange(12), items=np.arange(14), span=20)
    log = log if timed else log.drop_columns(["time"])
    genres = ["Drama", "Comedy|Drama", "Romantic Comedy", " Comedy ", "Comedy"]
    items = pa.table({"item": [f"i{n}" for n in range(13)], "genres": [genres[n % 5] for n in range(13)]})
    logs = OneLog(log, LogColumns() if timed else UNTIMED, items, ItemRule("genres", "Comedy"))
    pairs = write_pairs(logs, folder=tmp_path / "pairs", vocabulary=VOCABULARY)
    comedies = {f"i{n}" for n in range(13) if n % 5 in (1, 3, 4)}
    rows = rows_of(log)
    source, target = ([row for row in rows if (row[1] in comedies) == kind] for kind in (False, True))
    assert read_pairs(pairs) == wanted_pairs(source, target, one_order=True)
    check_order(pairs)
    assert set(pairs.target_vocabulary.items.to_pylist()) <= comedies
    assert pairs.summary["items_not_listed"] == 1
    assert pairs.items()["item"].to_pylist() == sorted(comedies, key=lambda item: int(item[1:]))
    assert {"Drama", "Romantic Comedy"}.isdisjoint(pairs.items()["genres"].to_pylist())


def planted_log():
    """Users whose every target event is told by source events at its time and right behind it, and by nothing before.

    `spy-<n>` is the source item that gives the target item `t<n>` away.
    """
    random = np.random.default_rng(7)
    source, target = [], []
    for user in range(30):
        time = START
        for _ in range(4):
            source += [(f"u{user}", f"i{random.integers(8)}", time + step) for step in range(random.integers(0, 3))]
            told, time = random.integers(5), time + 10
            source += [(f"u{user}", f"spy-{told}", time), (f"u{user}", f"spy-{told}", time + 1)]
            target.append((f"u{user}", f"t{told}", time))
            time += 20_000
        target.append((f"u{user}", "t0", time))
        source.append((f"u{user}", "spy-0", time))
    return [
        pa.table(dict(zip(("user", "item", "time"), zip(*rows, strict=True), strict=True))) for rows in (source, target)
    ]


def test_no_history_holds_the_event_that_gives_its_target_away(tmp_path):
    """The spies of the target event itself never stand in its history, though they are in the user's row."""
    source, target = planted_log()
    spies = [f"spy-{n}" for n in range(5)]
    vocabulary = Vocabulary.build([*KNOWN, *spies], counts=np.ones(13, dtype=np.int64))
    logs = TwoLogs(source, target, source_columns=LogColumns(), target_columns=LogColumns())
    pairs = write_pairs(logs, folder=tmp_path / "pairs", vocabulary=vocabulary)
    users = np.arange(len(pairs))
    chosen = [choose_events(pairs, users, which=which, fewest_source=0) for which in ("first", "last", "all")]
    drawn = [
        draw_events(pairs, users, most=2, fewest_source=0, seed=seed, epoch=epoch)
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    times = {  # of each user's target events, in order
        user: [row[2] for row in rows_of(target) if row[0] == user] for user in pairs.users
    }
    spied = {(user, time): item for user, item, time, _ in rows_of(source) if item in spies}
    for events in (*chosen, *drawn):
        examples = Examples(events)
        for history in ("source", "mixed"):
            view = examples.histories(pairs, history=history)
            for number, event in enumerate(events):
                owner = int(pairs.owner[event])
                user, rows = pairs.users[owner], view.items_of(number)
                nth = int(event - pairs.starts[owner])
                allowed = [spied[user, time + late] for time in times[user][:nth] for late in (0, 1)]
                seen = vocabulary.ids(rows[rows < len(vocabulary)])
                assert [item for item in seen if item in spies] == allowed
                assert spied[user, times[user][nth]] == f"spy-{pairs.target_vocabulary.ids([pairs.item[event]])[0][1:]}"
    # that the spies are there to be seen, behind the prefix
    assert all(
        spied[user, times[user][-1]] in vocabulary.ids(pairs.sources.items_of(n)) for n, user in enumerate(times)
    )


def rows(user, item, time):
    return {"user": user, "item": item, "time": time}


def small(*, source=None, target=None, source_columns=None, target_columns=None):
    source = source or rows(["a", "b"], ["i0", "i1"], [START, START])
    target = target or rows(["a", "b"], ["x", "y"], [START + 1, START + 2])
    columns = LogColumns()
    return TwoLogs(pa.table(source), pa.table(target), source_columns or columns, target_columns or columns)


def divided(rule=("genre", "x"), **items):
    log = pa.table({"user": ["a", "a", "b"], "item": ["i0", "i1", "i0"], "time": [START] * 3})
    return OneLog(log, LogColumns(), pa.table(items or {"item": ["i0", "i1"], "genre": ["x", "y"]}), ItemRule(*rule))


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        (small(source=rows(["c"], ["i0"], [START])), "no user is in both domains: 1 users .*'c'.*'a'"),
        (small(source=rows(["a"], ["zz"], [START])), "knows no item of the source log .*'zz'.*'i0'"),
        (small(source_columns=UNTIMED), "source log has no time column named.*--time"),
        (small(target_columns=UNTIMED), "target log has no time column named.*--time"),
        (small(target=rows(["a"], ["x"], [3])), "times of the target log are small numbers"),
        (small(target=rows(["a", ""], ["x", "y"], [START, START])), "row 2, column 'user'"),
        (divided(rule=("genre", "X")), "genre = 'X' takes no item of the items table. Did you mean 'x'"),
        (divided(rule=("gnre", "x")), "no column 'gnre'. Did you mean 'genre'"),
        (divided(item=["i0", "i1"], genre=["x", "x|y"]), "takes all 2 items of the items table"),
        (divided(item=["i0", "i1", "i2"], genre=["x", "x", "y"]), "takes all items that are in the log"),
        (divided(item=["00", "i1"], genre=["x", "y"]), "takes 1 items .such as '00'., none of which is in the log"),
        (divided(item=["i0", "i0"], genre=["x", "y"]), "the item has several rows with different values"),
        (divided(item=["i0", "i1"], genre=[0.5, 1.5]), "holds double; a rule compares text"),
        (divided(film=["i0", "i1"], genre=["x", "y"]), "column 'item': there is no such column"),
    ],
)
def test_logs_that_cannot_be_paired_are_told_and_leave_nothing(logs, message, tmp_path):
    with pytest.raises(DataError, match=message):
        write_pairs(logs, folder=tmp_path / "pairs", vocabulary=VOCABULARY)
    assert not list(tmp_path.iterdir())


def test_bad_rows_are_left_out_on_request(tmp_path):
    logs = small(target=rows(["a", "", "b"], ["x", "y", "y"], [START, START, START]))
    pairs = write_pairs(logs, folder=tmp_path / "pairs", vocabulary=VOCABULARY, bad_rows="drop")
    assert pairs.summary["logs"] == {
        "source": {"rows_read": 2, "bad_rows": 0},
        "target": {"rows_read": 3, "bad_rows": 1},
    }
    assert pairs.target_vocabulary.items.to_pylist() == ["x", "y"]


def test_what_is_written_follows_from_logs_and_vocabulary_alone(tmp_path, monkeypatch):
    random = np.random.default_rng(5)
    source = random_log(random, events=80, users=np.arange(9), items=np.arange(8), span=400_000)
    target = random_log(random, events=60, users=np.arange(9), items=np.arange(20, 30), span=400_000)
    both = [LogColumns(), LogColumns()]

    def fingerprint(name, source, target, vocabulary=VOCABULARY, items=None):
        logs = TwoLogs(source, target, *both, items=items)
        return write_pairs(logs, folder=tmp_path / name, vocabulary=vocabulary).fingerprint

    first = fingerprint("a", source, target)
    fingerprint("b", source.slice(1), target)
    assert fingerprint("b", source, target) == first, "earlier pairs are replaced"
    contents = [{f.name: f.read_bytes() for f in sorted((tmp_path / n).rglob("*")) if f.is_file()} for n in "ab"]
    assert contents[0] == contents[1]
    assert open_pairs(tmp_path / "a").fingerprint == first
    others = [
        fingerprint("c", source, target.slice(1)),
        fingerprint("e", source, target, Vocabulary.build(KNOWN, counts=np.arange(8))),
        fingerprint("f", source, target, items=pa.table({"item": ["i20"], "genre": ["x"]})),
        fingerprint("g", source, target, items=pa.table({"item": ["i20"], "genre": ["y"]})),
    ]
    assert len({first, *others}) == 5
    assert open_pairs(tmp_path / "g").items().to_pylist() == [{"item": "i20", "genre": "y"}]
    assert open_pairs(tmp_path / "a").items() is None


def test_folders_that_hold_something_else_are_left_alone(tmp_path):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "thesis.tex").write_text("mine")
    with pytest.raises(SettingsError, match="holds something else"):
        write_pairs(small(), folder=tmp_path / "pairs", vocabulary=VOCABULARY)
    assert (tmp_path / "pairs" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("damage", ["absent", "cut", "type", "length", "version", "vocabulary"])
def test_damaged_folders_are_told(damage, tmp_path):
    folder = tmp_path / "pairs"
    write_pairs(small(), folder=folder, vocabulary=VOCABULARY)
    if damage == "absent":
        shutil.rmtree(folder)
    elif damage == "cut":
        (folder / "owner.npy").write_bytes((folder / "owner.npy").read_bytes()[:-9])
    elif damage == "type":
        np.save(folder / "item.npy", np.zeros(2))
    elif damage == "length":
        for name, kind in paired_writer.COLUMNS.items():
            np.save(folder / f"{name}.npy", np.zeros(3, dtype=kind))
    elif damage == "version":
        note = json.loads((folder / "pairs.json").read_text())
        (folder / "pairs.json").write_text(json.dumps(note | {"format_version": 99}))
    else:
        (folder / "target_vocabulary.parquet").unlink()
    with pytest.raises(RefusedError if damage == "vocabulary" else DataError, match="pairs"):
        open_pairs(folder)


def test_the_embedded_world_has_a_pair_of_logs(tmp_path):
    from peterrec.data.synthetic import World, WorldSettings
    from peterrec.stages.world import domain_logs

    settings = WorldSettings(users=30, items=40, target_items=20, mean_length=10)
    world = World.generate(settings)
    vocabulary = Vocabulary.build(world.items, counts=np.ones(40, dtype=np.int64))
    logs = domain_logs(tmp_path / "raw", settings=settings)
    pairs = write_pairs(logs, folder=tmp_path / "pairs", vocabulary=vocabulary)
    wanted = wanted_world(world)
    assert list(pairs.users) == sorted(wanted)
    for number, user in enumerate(pairs.users):
        items = [world.items[item] for item in world.histories[world.users.index(user)]]
        assert pairs.source_vocabulary.ids(pairs.sources.items_of(number)) == items
        mine = slice(pairs.starts[number], pairs.starts[number + 1])
        assert pairs.target_vocabulary.ids(pairs.item[mine]) == wanted[user]
        assert (pairs.before[mine] == len(items)).all(), "the target domain comes after the history"


def wanted_world(world):
    """The target items of each user who has some, in order."""
    wanted = {}
    for row in world.target.to_pylist():
        wanted.setdefault(row["user"], []).append(row["item"])
    return wanted
