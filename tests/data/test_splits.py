"""Splits: bounds of every user against a plain count, cuts at exact order statistics, and what is refused."""

import hashlib
import random

import duckdb
import pyarrow as pa
import pytest

from peterrec.data.splits import ByUser, LeaveOneOut, Temporal, choose
from peterrec.errors import SettingsError


def log_of(seed, users=40, span=60, offset=0):
    """A log with many ties in time: (user number, item, time, position)."""
    rng = random.Random(seed)
    rows = [
        (user, rng.randrange(9), offset + rng.randrange(span))
        for user in range(users)
        for _ in range(rng.choice([1, 2, 3, 9]))
    ]
    rng.shuffle(rows)
    return [(*row, position) for position, row in enumerate(rows)]


def connection(rows):
    con = duckdb.connect()
    con.execute("SET threads = 1")
    columns = dict(zip(("user", "item", "time", "position"), map(list, zip(*rows, strict=True)), strict=True))
    con.register("rows", pa.table(columns))
    con.execute("CREATE TABLE log AS SELECT user::INTEGER AS user, item::INTEGER AS item, time, position FROM rows")
    con.execute("CREATE TABLE users AS SELECT user, 'u' || user AS name, count(*) AS events FROM log GROUP BY user")
    return con


def bounds(con, cuts):
    found = con.execute(f"SELECT user, first, second, total, trains FROM ({cuts.bounds})").fetchall()
    assert len({user for user, *_ in found}) == len(found)
    return {user: rest for user, *rest in found}


def times_of(rows):
    by_user = {}
    for user, _, time, _ in rows:
        by_user.setdefault(user, []).append(time)
    return by_user


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("span", [1, 7, 10**4, 10**15, 1 << 63])
def test_temporal_cuts_at_the_exact_order_statistic(seed, span):
    offset = [0, -span // 2][seed % 2] if span < 1 << 63 else -(1 << 62)
    span = min(span, 1 << 62) if span < 1 << 63 else span
    rows = log_of(seed, span=span, offset=offset)
    con = connection(rows)
    for fractions in ((0.8, 0.9), (0.1, 0.5), (0.001, 0.999)):
        cuts = Temporal(cuts=fractions).lay(con)
        ordered = sorted(time for _, _, time, _ in rows)
        first, second = (ordered[int(round(fraction * len(rows), 6))] for fraction in fractions)
        assert cuts.facts == {"validation_from": first, "test_from": second}
        for user, found in bounds(con, cuts).items():
            times = times_of(rows)[user]
            assert found == [sum(t < first for t in times), sum(t < second for t in times), len(times), True]
        assert con.execute(f"SELECT count(*) FROM log WHERE {cuts.vocabulary}").fetchall() == [
            (sum(t < first for t in ordered),)
        ]


def test_leave_one_out_keeps_short_users_for_training():
    rows = log_of(0)
    con = connection(rows)
    cuts = LeaveOneOut().lay(con)
    for user, found in bounds(con, cuts).items():
        n = len(times_of(rows)[user])
        assert found == ([n, n, n, True] if n < 3 else [n - 2, n - 1, n, True])
    assert con.execute(f"SELECT count(*) FROM log WHERE {cuts.vocabulary}").fetchall() == [(len(rows),)]


@pytest.mark.parametrize("users", [1, 2, 3, 10, 33, 100])
@pytest.mark.parametrize("fractions", [(0.7, 0.03, 0.27), (0.29, 0.71, 0.0), (1.0, 0.0, 0.0), (0.5, 0.25, 0.25)])
def test_by_user_gives_exact_shares_by_a_hash_of_seed_and_id(users, fractions):
    rows = log_of(users, users=users)
    for seed in (0, 7):
        con = connection(rows)
        cuts = ByUser(fractions=fractions, seed=seed).lay(con)
        ranked = sorted(range(users), key=lambda user: hashlib.md5(f"{seed}:u{user}".encode()).hexdigest())
        ends = [int(fractions[0] * users + 0.5), int(round(fractions[0] + fractions[1], 9) * users + 0.5)]
        assert cuts.facts["train_users"] == ends[0]
        assert sum(cuts.facts.values()) == users
        found = bounds(con, cuts)
        for place, user in enumerate(ranked):
            n = len(times_of(rows)[user])
            part = (place >= ends[0]) + (place >= ends[1])
            assert found[user] == [[n, n, n, True], [n - 1, n, n, False], [n - 1, n - 1, n, False]][part]
        trained = {user for user, (*_, trains) in found.items() if trains}
        seen = con.execute(f"SELECT DISTINCT user FROM log WHERE {cuts.vocabulary}").fetchall()
        assert {user for (user,) in seen} == trained


def test_by_user_does_not_depend_on_the_order_of_the_rows():
    rows = log_of(3)
    results = []
    for order in (rows, rows[::-1]):
        con = connection(order)
        results.append(bounds(con, ByUser(seed=5).lay(con)))
    assert results[0] == results[1]
    con = connection(rows)
    assert bounds(con, ByUser(seed=6).lay(con)) != results[0]


def test_choose_builds_the_named_split():
    assert choose("temporal") == Temporal(cuts=(0.8, 0.9))
    assert choose("temporal", fractions=[0.5, 0.75]).parameters == {"cuts": [0.5, 0.75]}
    assert choose("leave_one_out") == LeaveOneOut()
    assert choose("by_user", seed=4).parameters == {"fractions": [0.7, 0.03, 0.27], "seed": 4}
    assert "leaks time" in choose("leave_one_out").caveat


@pytest.mark.parametrize(
    ("name", "fractions", "told"),
    [
        ("temporel", None, "Did you mean 'temporal'"),
        ("temporal", (0.9, 0.8), "rising"),
        ("temporal", (0.8,), "rising"),
        ("temporal", (0.0, 0.9), "rising"),
        ("temporal", (0.8, float("nan")), "rising"),
        ("temporal", (0.7, 0.03, 0.27), "0.7, 0.03, 0.27"),
        ("by_user", (0.7, 0.3), "three shares"),
        ("by_user", (0.7, 0.2, 0.2), "three shares"),
        ("by_user", (1.2, -0.1, -0.1), "three shares"),
        ("by_user", (float("nan"), 0.5, 0.5), "three shares"),
        ("by_user", (), "none"),
        ("leave_one_out", (0.8, 0.9), "takes no fractions"),
    ],
)
def test_what_does_not_fit_is_refused(name, fractions, told):
    with pytest.raises(SettingsError, match=told):
        choose(name, fractions=fractions)
