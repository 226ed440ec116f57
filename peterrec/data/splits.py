"""The splits: up to which event of each user the model learns, validates and is tested.

A split is two cuts in each user's ordered events: `[0, first)` is the past, `[first, second)` the validation
period, `[second, total)` the test period. The rest follows by the same rules for all splits: training sees
the past of the users that train; the validation target is the event at `first`, its history the past; the
test target is the event at `second`, its history everything before it. A user whose validation (test) period
is empty has no row in that part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from peterrec.errors import SettingsError, did_you_mean

if TYPE_CHECKING:
    import duckdb

_BUCKETS = 1 << 16
_LARGEST_INT64 = (1 << 63) - 1


@dataclass(frozen=True)
class Cuts:
    """A split laid on one log, as SQL over `log(user, item, time, position)` and `users(user, name, events)`.

    `bounds` selects `user, first, second, total, trains`, one row a user; `vocabulary` is the condition on
    the events of `log` whose items the model may know; `facts` go into the summary.
    """

    bounds: str
    vocabulary: str
    facts: dict[str, int]


@dataclass(frozen=True)
class Temporal:
    """One cut in time for all users: the past is before the first cut, the test period begins at the second.

    `cuts` are fractions of the events in time order; an event at the very time of a cut stands after it.
    """

    cuts: tuple[float, ...] = (0.8, 0.9)
    name: ClassVar[str] = "temporal"
    needs_time: ClassVar[bool] = True
    caveat: ClassVar[str] = (
        "One cut in time for all users, as in use: training knows nothing after the first cut, and items "
        "that appear later are unseen. A user is tested on the first event after the cut."
    )

    def __post_init__(self) -> None:
        if len(self.cuts) != 2 or not 0 < self.cuts[0] < self.cuts[1] < 1:
            raise SettingsError(
                "the temporal split takes two rising fractions between 0 and 1, such as 0.8 and 0.9, not "
                f"{_listed(self.cuts)}."
            )

    @property
    def parameters(self) -> dict[str, object]:
        return {"cuts": list(self.cuts)}

    def lay(self, con: "duckdb.DuckDBPyConnection") -> Cuts:
        """The cuts in this log, whose events all have a time."""
        first, second = (_time_at(con, fraction) for fraction in self.cuts)
        return Cuts(
            bounds=f"""SELECT user, count(*) FILTER (time < {first}) AS first,
                count(*) FILTER (time < {second}) AS second, count(*) AS total, true AS trains
                FROM log GROUP BY user""",
            vocabulary=f"time < {first}",
            facts={"validation_from": first, "test_from": second},
        )


@dataclass(frozen=True)
class LeaveOneOut:
    """Each user's last event is the test, the one before it the validation; users with 1 or 2 only train."""

    name: ClassVar[str] = "leave_one_out"
    needs_time: ClassVar[bool] = False
    caveat: ClassVar[str] = (
        "It leaks time across users: training sees events of some users that are later than the test "
        "events of others, and the vocabulary, with its counts, is that of the whole log. It is for "
        "comparing with published figures; take the temporal split to learn how a model does in use."
    )

    @property
    def parameters(self) -> dict[str, object]:
        return {}

    def lay(self, con: "duckdb.DuckDBPyConnection") -> Cuts:
        """The cuts in this log."""
        return Cuts(
            bounds="""SELECT user, if(events < 3, events, events - 2) AS first,
                if(events < 3, events, events - 1) AS second, events AS total, true AS trains FROM users""",
            vocabulary="true",
            facts={},
        )


@dataclass(frozen=True)
class ByUser:
    """A seeded share of the users trains, the others validate and test, each on the last event.

    Users are ranked by the MD5 of seed and id: the order of the rows does not matter, and the shares are
    exact to the nearest user.
    """

    fractions: tuple[float, ...] = (0.7, 0.03, 0.27)
    seed: int = 0
    name: ClassVar[str] = "by_user"
    needs_time: ClassVar[bool] = False
    caveat: ClassVar[str] = (
        "Users, not times, are set apart: validation and test users are new to the model and tested on "
        "their last event, but training sees events of others that are later. Items that only those users "
        "had are unseen."
    )

    def __post_init__(self) -> None:
        shares = self.fractions
        if len(shares) != 3 or min(shares) < 0 or not abs(sum(shares) - 1) < 1e-9:
            raise SettingsError(
                "the by_user split takes three shares (train, validation, test) that add up to 1, such as "
                f"0.7, 0.03 and 0.27, not {_listed(shares)}."
            )

    @property
    def parameters(self) -> dict[str, object]:
        return {"fractions": list(self.fractions), "seed": self.seed}

    def lay(self, con: "duckdb.DuckDBPyConnection") -> Cuts:
        """The cuts in this log; makes the table `places`."""
        users = con.execute("SELECT count(*) FROM users").fetchall()[0][0]
        ends = [sum(map(_exact, self.fractions[:n])) for n in (1, 2)]
        train, validation = (int(users * end + Fraction(1, 2)) for end in ends)
        con.execute(f"""CREATE OR REPLACE TABLE places AS SELECT user, events,
            if(place <= {train}, 'train', if(place <= {validation}, 'validation', 'test')) AS part
            FROM (SELECT user, events,
            row_number() OVER (ORDER BY md5('{int(self.seed)}:' || name), name) AS place FROM users)""")
        return Cuts(
            bounds="""SELECT user, if(part = 'train', events, events - 1) AS first,
                if(part = 'test', events - 1, events) AS second, events AS total, part = 'train' AS trains
                FROM places""",
            vocabulary="user IN (SELECT user FROM places WHERE part = 'train')",
            facts={
                "train_users": train,
                "validation_users": validation - train,
                "test_users": users - validation,
            },
        )


Split = Temporal | LeaveOneOut | ByUser
SPLITS = (Temporal.name, LeaveOneOut.name, ByUser.name)


def choose(name: str, *, fractions: Sequence[float] | None = None, seed: int = 0) -> Split:
    """The split of that name; `fractions` are the two cuts of `temporal` or the three shares of `by_user`.

    Raises `SettingsError` for an unknown name or fractions that the split does not take.
    """
    values = None if fractions is None else tuple(float(fraction) for fraction in fractions)
    if name == Temporal.name:
        return Temporal() if values is None else Temporal(cuts=values)
    if name == ByUser.name:
        return ByUser(seed=seed) if values is None else ByUser(fractions=values, seed=seed)
    if name == LeaveOneOut.name:
        if values is not None:
            raise SettingsError(f"the leave_one_out split takes no fractions; leave out {_listed(values)}.")
        return LeaveOneOut()
    raise SettingsError(f"there is no split named {name!r}. {did_you_mean(name, SPLITS)}")


def _time_at(con: "duckdb.DuckDBPyConnection", fraction: float) -> int:
    """The time of the event at index `floor(fraction * N)` in time order.

    Found by counting events in ever narrower ranges of time: exact, and with flat memory, where a quantile
    would hold every time and a sort would spill them all.
    """
    events, low, high = con.execute("SELECT count(*), min(time), max(time) FROM log").fetchall()[0]
    index = int(events * _exact(fraction))
    while low < high:
        width = (high - low) // _BUCKETS + 1
        since = f"time{'::HUGEINT' if high - low > _LARGEST_INT64 else ''} - ({low})"
        counts = con.execute(f"""SELECT (({since}) // {width})::BIGINT AS bucket, count(*)
            FROM log WHERE time BETWEEN {low} AND {high} GROUP BY bucket ORDER BY bucket""").fetchall()
        for bucket, count in counts:
            if index < count:
                low, high = low + bucket * width, min(high, low + (bucket + 1) * width - 1)
                break
            index -= count
    return low


def _exact(fraction: float) -> Fraction:
    """The fraction as it was written: .29 of 100 is 29, not 28.999…"""
    return Fraction(str(fraction))


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "none"
