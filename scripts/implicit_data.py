"""Impressions of what users did, with drawn items beside: `python scripts/implicit_data.py SET FILE --output FOLDER`

    behaviours FILE --shop NAME   dataset, user, item, behavior (collect, cart, buy), split (train, valid, test): for
                                  the task nmtr. A row is a user and an item; its labels are 1 for what the user did in
                                  training, missing for the other behaviours, and 0 in drawn rows. The file has no
                                  times: its own split stands in their place, and nothing says what came first.
    domains FILE --target NAME    user, item, domain (two of them), pos or timestamp: for the tasks conet and sconet. A
                                  row is an event of one domain and, of the other one, the user's last training item
                                  before it. Of each user and domain the last event tests, the one before validates.

Drawn are, uniformly, items that the user has not had: in training those of no training event, in validation and test
those of no event at all. Files are Parquet. Writes FOLDER/rows.parquet and prints the `peterrec prepare` that fits it.
"""

import argparse
import shlex
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

BEHAVIOURS = ("collect", "cart", "buy")
TRAIN, VALIDATION, TEST = range(3)
FEWEST = 3  # events of a user in a domain from which one validates and one tests

Ints = NDArray[np.int64]
Numbers = NDArray[np.floating]


def draw_items(users: Ints, had: Ints, *, items: int, rng: np.random.Generator) -> Ints:
    """One of the numbers below `items` for each of `users` (N,), none that is among `had`: user · items + item, sorted.

    Raises ValueError for a user who has had them all.
    """
    of = np.bincount(had // items, minlength=int(users.max(initial=0)) + 1)
    if len(users) and (of[users] >= items).any():
        raise ValueError(f"user {users[of[users] >= items][0]} has had all {items} items; none is left to draw")
    found = rng.integers(0, items, len(users))
    open_ = np.arange(len(users))
    while len(open_):
        keys = users[open_] * items + found[open_]
        at = np.minimum(np.searchsorted(had, keys), max(len(had) - 1, 0))
        open_ = open_[had[at] == keys] if len(had) else open_[:0]
        found[open_] = rng.integers(0, items, len(open_))
    return found


def behaviours(file: Path, *, shop: str, output: Path, negatives: int, seed: int) -> list[str]:
    """Writes the rows of one shop; returns the command."""
    rng = np.random.default_rng(seed)
    with duckdb.connect() as con:
        log = con.sql(
            'SELECT DISTINCT "user", item, behavior, split FROM read_parquet(?) WHERE dataset = ? '
            'ORDER BY split, behavior, "user", item',
            params=[str(file), shop],
        ).to_arrow_table()
    if not len(log):
        raise SystemExit(f"{file}: there is no shop {shop!r}")
    user_ids, users = np.unique(log["user"].to_numpy(), return_inverse=True)
    item_ids, items = np.unique(log["item"].to_numpy(), return_inverse=True)
    behaviour, split = (np.asarray(log[name].to_pylist()) for name in ("behavior", "split"))
    keys, train = users * len(item_ids) + items, split == "train"
    names = [name for name in BEHAVIOURS if (train & (behaviour == name)).any()]
    pairs = np.unique(keys[train])
    labels = {name: np.where(np.isin(pairs, keys[train & (behaviour == name)]), 1.0, np.nan) for name in names}
    parts = [_rows(pairs, TRAIN, labels)]
    parts.append(_drawn(pairs, TRAIN, names, had=pairs, items=len(item_ids), negatives=negatives, rng=rng))
    every = np.unique(keys)
    for part, name in ((VALIDATION, "valid"), (TEST, "test")):
        bought = np.unique(keys[(split == name) & (behaviour == "buy")])
        known = {each: np.full(len(bought), 1.0 if each == "buy" else np.nan) for each in names}
        parts += [
            _rows(bought, part, known),
            _drawn(bought, part, ["buy"], had=every, items=len(item_ids), negatives=negatives, rng=rng),
        ]
    found = {name: np.concatenate([one.get(name, _nothing(one)) for one in parts]) for name in ("key", "part", *names)}
    user, item = np.divmod(found.pop("key"), len(item_ids))
    columns = {"user": user_ids[user], "item": item_ids[item], **found}
    return _written(columns, output, labels=names, fields=["user", "item"])


def _rows(keys: Ints, part: int, labels: dict[str, Numbers]) -> dict[str, NDArray]:
    return {"key": keys, "part": np.full(len(keys), part), **labels}


def _drawn(
    keys: Ints, part: int, names: list[str], *, had: Ints, items: int, negatives: int, rng: np.random.Generator
) -> dict[str, NDArray]:
    """`negatives` rows for each of `keys`, of the same users, with 0 for the labels `names`."""
    users = np.repeat(keys // items, negatives)
    drawn = users * items + draw_items(users, had, items=items, rng=rng)
    return _rows(drawn, part, {name: np.zeros(len(drawn)) for name in names})


def _nothing(rows: dict[str, NDArray]) -> Numbers:
    return np.full(len(rows["key"]), np.nan)


def domains(file: Path, *, target: str, output: Path, negatives: int, seed: int) -> list[str]:
    """Writes the rows of two domains; returns the command."""
    rng = np.random.default_rng(seed)
    with duckdb.connect() as con:
        source = f"read_parquet('{str(file).replace(chr(39), chr(39) * 2)}')"
        time = "pos" if "pos" in con.sql(f"SELECT * FROM {source} LIMIT 0").columns else "timestamp"
        log = con.sql(
            f'SELECT "user", item, domain, {time} AS time FROM (SELECT *, row_number() OVER () AS line FROM {source}) '
            f'ORDER BY "user", {time}, line'
        ).to_arrow_table()
    names = sorted(set(log["domain"].to_pylist()))
    if len(names) != 2 or target not in names:
        raise SystemExit(f"{file}: two domains are wanted, {target!r} among them; there are {', '.join(names)}")
    user_ids, users = np.unique(log["user"].to_numpy(), return_inverse=True)
    domain = np.asarray(log["domain"].to_pylist()) == target
    time = log["time"].to_numpy()
    part = held_out(users, domain)
    item_ids, items = [], np.zeros(len(log), dtype=np.int64)
    for number in (0, 1):
        ids, items[domain == number] = np.unique(log["item"].to_numpy()[domain == number], return_inverse=True)
        item_ids.append(ids)
    other = last_before(users, domain, time, items, kept=part == TRAIN)
    columns: dict[str, list[NDArray]] = {name: [] for name in (*FIELDS, *LABELS, "part")}
    for number in (0, 1):
        own, size = domain == number, len(item_ids[number])
        keys = np.unique(users[own] * size + items[own])
        trained = np.unique(users[own & (part == TRAIN)] * size + items[own & (part == TRAIN)])
        for name in (TRAIN, VALIDATION, TEST):
            rows = np.flatnonzero(own & (part == name))
            again = np.repeat(rows, negatives)
            had = trained if name == TRAIN else keys
            drawn = draw_items(users[again], had, items=size, rng=rng)
            both = np.concatenate([rows, again])
            label = np.repeat([1.0, 0.0], [len(rows), len(again)])
            columns["user"].append(user_ids[users[both]])
            columns[FIELDS[1 + number]].append(item_ids[number][np.concatenate([items[rows], drawn])].astype(str))
            columns[FIELDS[2 - number]].append(_named(item_ids[1 - number], other[both]))
            columns[LABELS[number]].append(label)
            columns[LABELS[1 - number]].append(np.full(len(both), np.nan))
            columns["part"].append(np.full(len(both), name))
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    return _written(joined, output, labels=list(LABELS), fields=list(FIELDS))


FIELDS = ("user", "source_item", "target_item")
LABELS = ("source", "target")


def held_out(users: Ints, domain: NDArray[np.bool_]) -> Ints:
    """The part of each event (N,), in order of user and time: by user and domain the last tests, the one before
    validates; those with fewer than three events train alone."""
    group = users * 2 + domain
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=int(group.max()) + 1)
    left = np.empty(len(users), dtype=np.int64)  # events of the group from this one on
    ends = np.cumsum(sizes)[group[order]]
    left[order] = ends - np.arange(len(users))
    enough = sizes[group] >= FEWEST
    return np.where(enough & (left == 1), TEST, np.where(enough & (left == 2), VALIDATION, TRAIN))


def last_before(users: Ints, domain: NDArray[np.bool_], time: Ints, items: Ints, *, kept: NDArray[np.bool_]) -> Ints:
    """Of each event (N,), in order of user and time, the user's last `kept` item of the other domain strictly before
    its time; -1 without one."""
    found = np.full(len(users), -1)
    for own in (False, True):
        rows = np.flatnonzero(domain == own)
        others = np.flatnonzero((domain != own) & kept)
        # ranks of (user, time), so that one search serves all users
        moments = np.unique(np.stack([users, time], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
        at = np.searchsorted(moments[others], moments[rows], side="left") - 1
        last = others[np.maximum(at, 0)] if len(others) else rows
        there = (at >= 0) & (users[last] == users[rows]) & (len(others) > 0)
        found[rows] = np.where(there, items[last], -1)
    return found


def _named(ids: NDArray, places: Ints) -> NDArray:
    names = ids[np.maximum(places, 0)].astype(str).astype(object)
    names[places < 0] = None
    return names


def _written(columns: dict[str, NDArray], output: Path, *, labels: list[str], fields: list[str]) -> list[str]:
    """Writes the rows in the order of their parts; returns how they are prepared."""
    order = np.argsort(columns["part"], kind="stable")
    rows = output / "rows.parquet"
    output.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, values in columns.items():
        if name in labels:
            arrays[name] = pa.array(values[order], from_pandas=True, type=pa.float32())
        else:
            arrays[name] = pa.array(values[order].tolist() if values.dtype == object else values[order])
    pq.write_table(pa.table(arrays), rows, compression="zstd")
    counts = np.bincount(columns["part"], minlength=3)
    # `temporal` cuts at shares of the rows, and leaves rows of one time together: these fall inside of each part
    inside = np.cumsum(counts) - counts / 2
    cuts = inside[1:] / counts.sum()
    first, second = round(cuts[0], 6), round(cuts[1] - cuts[0], 6)
    shares = (first, second, 1 - first - second)
    words = ["peterrec", "prepare", str(rows), "--user", "user", "--time", "part"]
    for label in labels:
        words += ["--label", label]
    for field in fields:
        words += ["--field", f"{field}:categorical"]
    words += ["--split", "temporal", "--fractions", ",".join(f"{share:.6f}" for share in shares)]
    return [*words, "--output", str(output / "prepared")]


def main() -> None:
    """Writes the rows of one set and prints how they are prepared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("behaviours", "domains"))
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--shop", help="which `dataset` of the behaviours")
    parser.add_argument("--target", help="which `domain` is the target")
    parser.add_argument("--negatives", type=int, default=4, help="drawn rows for each row of an event (4)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the rows")
    given = parser.parse_args()
    if not given.file.is_file():
        parser.error(f"{given.file}: there is no such file")
    if (given.set == "behaviours") != (given.shop is not None):
        parser.error("--shop goes with behaviours, which need it")
    if (given.set == "domains") != (given.target is not None):
        parser.error("--target goes with domains, which need it")
    if given.negatives < 1:
        parser.error("--negatives is at least 1")
    drawing = {"output": given.output, "negatives": given.negatives, "seed": given.seed}
    try:
        if given.set == "behaviours":
            command = behaviours(given.file, shop=given.shop, **drawing)
        else:
            command = domains(given.file, target=given.target, **drawing)
    except ValueError as problem:
        parser.error(f"{given.file}: {problem}")
    print(shlex.join(command))


if __name__ == "__main__":
    main()
