"""Training, validation and test rows of impressions."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.attribute import Split
from peterrec.data.impressions.schema import SplitRule
from peterrec.errors import DataError

Ints = NDArray[np.int64]


def split_rows(rule: SplitRule, *, rows: int, seed: int, user: Ints | None, time: Ints | None) -> Split:
    """Sorted row numbers of each part, a pure function of its arguments.

    `user` and `time` (N,) belong to rules that need them. `each_user` rounds what a user leaves to training up, so a
    user of one row trains. `each_user` and `temporal` put all rows (of a user) at one time into one part, the earlier
    one where a cut falls among them. Raises DataError where a part would be empty.
    """
    until = np.cumsum(rule.fractions)[:2]
    if rule.name == "each_user":
        assert user is not None
        assert time is not None
        part = _each_user(user, time, until)
    elif rule.name == "temporal":
        assert time is not None
        cuts = np.sort(time)[[min(_rounded(rows * share), rows - 1) for share in until]] if rows else time[:0]
        part = np.searchsorted(cuts, time, side="right")
    elif rule.name == "by_user":
        assert user is not None
        users, number = np.unique(user, return_inverse=True)
        part = _at_random(len(users), until, seed=seed, stream=31)[number]
    else:
        part = _at_random(rows, until, seed=seed, stream=37)
    found = [np.flatnonzero(part == number) for number in range(3)]
    for name, members in zip(("training", "validation", "test"), found, strict=True):
        if not len(members):
            raise DataError(
                f"the split {rule.name} with the fractions {', '.join(f'{f:g}' for f in rule.fractions)} leaves no row "
                f"for {name} ({rows:,} rows in all); prepare with other --fractions, another --split, or more rows."
            )
    return Split(*found)


def _each_user(user: Ints, time: Ints, until: NDArray[np.float64]) -> Ints:
    order = np.lexsort((np.arange(len(user)), time, user))
    sorted_user = user[order]
    first = np.searchsorted(sorted_user, sorted_user, side="left")
    total = np.searchsorted(sorted_user, sorted_user, side="right") - first
    sorted_time = time[order]
    begins = np.r_[True, (sorted_user[1:] != sorted_user[:-1]) | (sorted_time[1:] != sorted_time[:-1])]
    # rows of one time, such as a list that was shown at once, count by the first of them
    place = np.flatnonzero(begins)[np.cumsum(begins) - 1] - first
    part = np.empty(len(user), dtype=np.int64)
    part[order] = sum((place >= np.ceil(total * share - 1e-9)).astype(np.int64) for share in until)
    return part


def _at_random(total: int, until: NDArray[np.float64], *, seed: int, stream: int) -> Ints:
    place = np.random.default_rng((seed, stream)).permutation(total)
    return np.searchsorted([_rounded(total * share) for share in until], place, side="right")


def _rounded(number: float) -> int:
    return int(np.floor(number + 0.5))
