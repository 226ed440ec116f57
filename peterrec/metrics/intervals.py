"""95 % bootstrap intervals over users.

Users are drawn, not rows: all rows of a user, over all seeds, come and go together (the cluster bootstrap),
since a second seed is no second user. Where there are several seeds, these are drawn as well (the two-way
bootstrap, Owen, 2007), so that the interval speaks of other splits and label draws too. The draw depends on
the set of users, the number of seeds and the seed alone, so that two models which were evaluated on the same
users are compared on the same resamples (the paired bootstrap). Intervals are percentiles (Efron, 1979).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.errors import DataError
from peterrec.metrics.classification import METRICS, Classified

REPLICATES = 1000
PERCENTILES = (2.5, 97.5)
CELLS = 2**21  # weights at a time: some tens of megabytes with their intermediates

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


class Bootstrap:
    """How often each user is drawn in each replicate: the same for the same users and seed.

    The counts are multinomial. `users` holds the id of each row's user, in any order and with repeats.
    """

    def __init__(self, users: ArrayLike, *, replicates: int = REPLICATES, seed: int = 0) -> None:
        assert replicates > 0
        self.users: NDArray = np.unique(_ids(users))
        self.replicates: int = replicates
        self.seed: int = seed
        if not len(self.users):
            raise DataError("There are no test users to draw from. Use a larger test share.")

    def places(self, users: ArrayLike) -> NDArray[np.int64]:
        """The column of each row's user in the blocks: (N,)."""
        ids = _ids(users)
        places = np.searchsorted(self.users, ids)
        assert np.array_equal(self.users[np.minimum(places, len(self.users) - 1)], ids)
        return places

    def blocks(self, *, cells: int = CELLS) -> Iterator[Floats]:
        """Blocks (R, U) of counts that sum to U in each row; together R is `replicates`.

        A row's weight is its user's count: `block[:, places(users)]`. About `cells` counts are made at a
        time; the counts do not depend on that.
        """
        count = len(self.users)
        size = max(1, cells // count)
        random = np.random.default_rng(self.seed)
        for start in range(0, self.replicates, size):
            rows = min(size, self.replicates - start)
            drawn = random.integers(count, size=(rows, count))
            drawn += count * np.arange(rows)[:, None]
            drawn_counts = np.bincount(drawn.ravel(), minlength=rows * count)
            yield drawn_counts.reshape(rows, count).astype(np.float64)

    def seed_shares(self, seeds: int) -> Floats:
        """How much each of so many seeds weighs in each replicate: `(replicates, seeds)`, rows that sum to 1."""
        random = np.random.default_rng((self.seed, seeds, 1))
        return random.multinomial(seeds, np.full(seeds, 1 / seeds), size=self.replicates) / seeds


class Rows(Protocol):
    """The test rows of one seed: their users (N,), and their measures under row weights (R, N)."""

    @property
    def users(self) -> ArrayLike: ...
    @property
    def names(self) -> Sequence[str]: ...
    def measure(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]: ...


class ClassificationRows:
    """The test rows of one seed of a classifier: users (N,), labels (N,), probabilities (N, C); `names` of metrics."""

    def __init__(
        self, users: ArrayLike, labels: ArrayLike, probabilities: ArrayLike, *, names: Sequence[str] = METRICS
    ) -> None:
        self.users: ArrayLike = users
        self.names: Sequence[str] = names
        self._classified = Classified(labels, probabilities)

    def measure(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]:
        """The named measures in each replicate, (R,) each; NaN where the replicate leaves one undefined."""
        return self._classified.measure(weights, metrics=names)


class RankingRows:
    """The test rows of one seed of a ranker: users (N,) and each metric's values (N,) (`ranking_metrics`)."""

    def __init__(self, users: ArrayLike, values: Mapping[str, ArrayLike]) -> None:
        self.users: ArrayLike = users
        self.names: Sequence[str] = tuple(values)
        self._values = {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}

    def measure(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]:
        """The weighted means of the named values in each replicate, (R,) each."""
        total = weights.sum(-1, keepdims=True)
        sums = weights @ np.stack([self._values[name] for name in names], axis=-1)
        means = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
        return {name: means[..., column] for column, name in enumerate(names)}


def metric_intervals(
    rows: Sequence[Rows], *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, dict[str, float | list[float]]]:
    """{metric: {value, low, high, per_seed}} of a model from its test rows of each seed.

    The value is the mean over seeds of the metric; so it is in each replicate. A metric that is undefined on
    these rows (ROC-AUC where the test users have one class) is left out. Raises DataError if there are no
    rows.
    """
    return all_draws(rows, replicates=replicates, seed=seed).intervals()


@dataclass(frozen=True)
class AllDraws:
    """Every metric of a model from one pass over the replicates: of each seed `(S,)`, and in each replicate `(R,)`."""

    per_seed: dict[str, Floats]
    replicates: dict[str, Floats]
    users: NDArray

    def intervals(self) -> dict[str, dict[str, float | list[float]]]:
        """As `metric_intervals`."""
        found: dict[str, dict[str, float | list[float]]] = {}
        for name, per_seed in self.per_seed.items():
            if np.isnan(per_seed).any():
                continue
            value, drawn = float(per_seed.mean()), self.replicates[name]
            if name == "calibration_error":
                # never negative, so resampling adds to it; the draws are centred on the figure
                drawn = np.maximum(drawn - np.nanmean(drawn) + value, 0.0)
            interval = _interval(value, drawn)
            found[name] = {**vars(interval), "per_seed": per_seed.tolist()}
        return found

    def of(self, metric: str) -> "Draws":
        """One metric, for paired gains."""
        return Draws(float(self.per_seed[metric].mean()), self.replicates[metric], self.users)


def all_draws(rows: Sequence[Rows], *, replicates: int = REPLICATES, seed: int = 0) -> AllDraws:
    """All metrics that the test rows of every seed have, drawn as by `metric_intervals` and `metric_draws`."""
    bootstrap = _bootstrap(rows, replicates, seed)
    per_seed, draws = _draw(rows, _shared_names(rows), bootstrap)
    return AllDraws(per_seed, draws, bootstrap.users)


@dataclass(frozen=True)
class Draws:
    """A metric of one model: its value, and what it is in each replicate `(R,)` of the test users `users`."""

    value: float
    replicates: Floats
    users: NDArray


def metric_draws(rows: Sequence[Rows], *, metric: str, replicates: int = REPLICATES, seed: int = 0) -> Draws:
    """A metric of a model from its test rows of each seed, over the resampled users."""
    bootstrap = _bootstrap(rows, replicates, seed)
    per_seed, draws = _draw(rows, [metric], bootstrap)
    return Draws(float(per_seed[metric].mean()), draws[metric], bootstrap.users)


def gain_of(model: Draws, over: Draws) -> Interval | None:
    """The gain `model` − `over` on the same resampled users; None where the metric is undefined.

    Both must come from the same users and the same seed (DataError for other users).
    """
    if not np.array_equal(model.users, over.users):
        missing = np.setxor1d(model.users, over.users)
        raise DataError(
            f"A paired comparison needs the same test users, but {len(missing)} users (such as {missing[0]}) "
            "were evaluated in one of the two runs only. Evaluate both on the same split and seeds."
        )
    value = model.value - over.value
    return None if np.isnan(value) else _interval(value, model.replicates - over.replicates)


def paired_gain(
    model: Sequence[Rows], over: Sequence[Rows], *, metric: str, replicates: int = REPLICATES, seed: int = 0
) -> Interval | None:
    """The gain `model` − `over` in a metric on the same resampled users; None where the metric is undefined.

    Both hold the test rows of each seed; the numbers of seeds may differ, the users may not (else DataError).
    """
    ours = metric_draws(model, metric=metric, replicates=replicates, seed=seed)
    return gain_of(ours, metric_draws(over, metric=metric, replicates=replicates, seed=seed))


def interval_of_mean(
    values: ArrayLike, *, users: ArrayLike | None = None, replicates: int = REPLICATES, seed: int = 0
) -> Interval:
    """The mean of values (N,) with its interval; without `users` each value is a user's own."""
    values = np.asarray(values, dtype=np.float64)
    rows = RankingRows(np.arange(len(values)) if users is None else users, {"mean": values})
    per_seed, draws = _draw([rows], ["mean"], _bootstrap([rows], replicates, seed))
    return _interval(float(per_seed["mean"][0]), draws["mean"])


def _draw(
    rows: Sequence[Rows], names: Sequence[str], bootstrap: Bootstrap
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Each seed's metrics (S,), and the means over seeds in each replicate (R,)."""
    places = [bootstrap.places(part.users) for part in rows]
    whole = [part.measure(np.ones((1, len(place))), names) for part, place in zip(rows, places, strict=True)]
    per_seed = {name: np.concatenate([measured[name] for measured in whole]) for name in names}
    draws: dict[str, list[Floats]] = {name: [] for name in names}
    shares = bootstrap.seed_shares(len(rows))
    done = 0
    largest = max(len(place) for place in places)
    # Blocks are bounded by rows as well as users: a user may have many rows.
    for block in bootstrap.blocks(cells=max(1, CELLS * len(bootstrap.users) // largest)):
        measured = [part.measure(block[:, place], names) for part, place in zip(rows, places, strict=True)]
        drawn = shares[done : done + len(block)]
        done += len(block)
        for name in names:
            # a seed that is not drawn may leave a metric undefined
            columns = np.where(drawn > 0, np.stack([one[name] for one in measured], axis=1), 0.0)
            draws[name].append((columns * drawn).sum(axis=1))
    return per_seed, {name: np.concatenate(blocks) for name, blocks in draws.items()}


def _bootstrap(rows: Sequence[Rows], replicates: int, seed: int) -> Bootstrap:
    assert rows
    return Bootstrap(np.concatenate([_ids(part.users) for part in rows]), replicates=replicates, seed=seed)


def _shared_names(rows: Sequence[Rows]) -> list[str]:
    return [name for name in rows[0].names if all(name in part.names for part in rows)]


def _interval(value: float, draws: Floats) -> Interval:
    draws = draws[~np.isnan(draws)]  # replicates that drew too few users to define the metric
    if not len(draws):
        return Interval(value, value, value)
    low, high = np.percentile(draws, PERCENTILES)
    return Interval(value, float(low), float(high))


def _ids(users: ArrayLike) -> NDArray:
    ids = np.asarray(users)
    # Object arrays of text (from Arrow) sort slowly and would not compare with fixed-width text.
    return ids.astype(str) if ids.dtype == object else ids
