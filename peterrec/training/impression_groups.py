"""Which rows of impressions compete with each other, and batches that hold whole groups of them."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError

Ints = NDArray[np.int64]


def groups_of(impressions: Impressions, within: str) -> Ints:
    """The group `(N,)` of each row: those of its user, of its user and time, or of its value of a categorical field.

    A row without that value is a group by itself. Raises DataError where the data have no such column.
    """
    if within in ("user", "time"):
        if not impressions.schema.users or (within == "time" and impressions.time is None):
            raise DataError(
                f"{impressions.folder}: within = {within!r} groups rows by {within}, and there is no such column: "
                f"prepare the impressions with --user COLUMN{' --time COLUMN' if within == 'time' else ''}."
            )
        users = np.asarray(impressions.user, dtype=np.int64)
        if within == "user" or impressions.time is None:
            return users
        return _numbered(users, np.asarray(impressions.time))
    names = impressions.schema.of_kind("categorical")
    if within not in names:
        raise DataError(
            f"{impressions.folder}: within = {within!r} is no categorical field; there are {', '.join(names)}, user "
            f"and time. Prepare the impressions with --field {within}:categorical."
        )
    codes = np.asarray(impressions.categorical[:, names.index(within)], dtype=np.int64)
    return np.where(codes > 0, codes, -1 - np.arange(len(codes)))


def group_batches(rows: Ints, groups: Ints, *, batch: int, rng: np.random.Generator) -> list[Ints]:
    """`rows` in random batches of about `batch` that hold whole groups; `groups` `(N,)` are those of all rows.

    The rows of a group stand together. A group that is larger than a batch is one.
    """
    _, place = np.unique(groups[rows], return_inverse=True)
    ranks = rng.permutation(int(place.max(initial=-1)) + 1)[place]
    order = np.argsort(ranks, kind="stable")
    ends = np.flatnonzero(np.diff(ranks[order], append=-1)) + 1
    cuts = np.unique(np.searchsorted(ends, np.arange(batch, len(rows), batch)))
    return [part for part in np.split(rows[order], ends[cuts[cuts < len(ends) - 1]]) if len(part)]


def group_part(rows: Ints, groups: Ints, *, part: int, parts: int) -> Ints:
    """A share of a batch's `rows` `(B,)`, cut between groups; `groups` as in `group_batches`."""
    ends = np.r_[0, np.flatnonzero(np.diff(groups[rows])) + 1, len(rows)]
    goals = np.arange(parts + 1) * len(rows) / parts
    cuts = ends[np.searchsorted(ends, goals)]
    return rows[cuts[part] : cuts[part + 1]]


def group_runs(rows: Ints, groups: Ints, lengths: Ints, *, limit: int) -> list[Ints]:
    """`rows` `(B,)` in runs of whole groups whose `lengths` `(B,)` sum to `limit` at most, or of one group."""
    found: list[Ints] = []
    first, total = 0, 0
    for one in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(groups[rows])) + 1):
        own = int(lengths[one].sum())
        if total and total + own > limit:
            found.append(rows[first : one[0]])
            first, total = int(one[0]), 0
        total += own
    return [*found, rows[first:]] if len(rows) else found


def _numbered(*columns: NDArray) -> Ints:
    """The same number for rows that agree in all columns."""
    found = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        _, place = np.unique(column, return_inverse=True)
        found = np.unique(found * (int(place.max(initial=0)) + 1) + place, return_inverse=True)[1]
    return found.astype(np.int64)
