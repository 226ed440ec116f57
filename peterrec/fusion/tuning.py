"""Weights that serve several goals on the rows that tune, by optuna's TPE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peterrec.errors import SettingsError
from peterrec.fusion.formula import Form, Fusion, single, term_of
from peterrec.fusion.goal import Goal
from peterrec.fusion.predictions import Predictions
from peterrec.fusion.scored_rows import ScoredRows

REACH = 100.0  # how far a weight goes beyond the one at which two predictions move a score alike, and below it
DIGITS = 4  # of a weight that was found: more tell no rows apart that count


@dataclass(frozen=True)
class Tried:
    """A fusion, what it reaches by each goal `(G,)` on the rows that tune, and the weighted mean of these."""

    fusion: Fusion
    values: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Tuned:
    """All fusions tried, the single predictions first; which of them no other beats by every goal, and the chosen one.

    `front` rises by the first goal. `chosen` has the best weighted mean, which lies on the front.
    """

    tried: list[Tried]
    front: list[Tried]
    chosen: Tried


def tune(
    rows: Predictions,
    *,
    names: Sequence[str],
    goals: Sequence[Goal],
    form: Form,
    trials: int,
    seed: int,
) -> Tuned:
    """Looks for the weights of the predictions `names` that serve the `goals` best on the rows that tune.

    The first prediction's weight is 1; those of the others are searched on a logarithmic scale around the one at which
    both move the score alike. Several goals are as many directions of one study (Ozaki et al., 2022), so that it
    learns the whole front. The same seed gives the same weights. Raises SettingsError for fewer than two predictions,
    what `Fusion.scores` raises.
    """
    if len(names) < 2:
        raise SettingsError(
            f"There is one prediction to fuse ({', '.join(names)}), and one alone has nothing to tune. Name several "
            "with --scores."
        )
    parts = rows.rows(rows.tuned)
    terms = {name: term_of(form, name, rows.predicted[name]) for name in names}

    def attempt(fusion: Fusion) -> Tried:
        score = fusion.scores(rows.predicted)
        of_seeds = [ScoredRows(rows, at, score[at], goals=goals).whole for at in parts]
        values = tuple(float(np.mean([one[str(goal)] for one in of_seeds])) for goal in goals)
        return Tried(fusion, values, float(np.average(values, weights=[goal.weight for goal in goals])))

    spread = {name: _spread(values[rows.tuned]) for name, values in terms.items()}
    first, *others = names
    alike = {name: spread[first] / spread[name] for name in others}
    tried = [attempt(single(form, name, names)) for name in names]
    tried += _study(attempt, form, first=first, alike=alike, goals=goals, trials=trials, seed=seed)
    return Tuned(tried, front_of(tried), max(tried, key=lambda one: one.mean))


def front_of(tried: Sequence[Tried]) -> list[Tried]:
    """Those that no other equals by every goal and beats by one, by rising first goal; of equal ones the first."""
    values = np.asarray([one.values for one in tried])
    kept: dict[tuple[float, ...], Tried] = {}
    for one in tried:
        better = (values >= one.values).all(axis=1) & (values > one.values).any(axis=1)
        if not better.any():
            kept.setdefault(one.values, one)
    return [kept[key] for key in sorted(kept)]


def _study(
    attempt: Callable[[Fusion], Tried],
    form: Form,
    *,
    first: str,
    alike: dict[str, float],
    goals: Sequence[Goal],
    trials: int,
    seed: int,
) -> list[Tried]:
    """The fusions that optuna asked for, in their order."""
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.samplers import TPESampler
    from optuna.study import StudyDirection

    ends = {name: (scale / REACH, scale * REACH) for name, scale in alike.items()}
    space: dict[str, BaseDistribution] = {name: FloatDistribution(*between, log=True) for name, between in ends.items()}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            directions=[StudyDirection.MAXIMIZE] * len(goals),
            sampler=TPESampler(seed=seed, multivariate=True, n_startup_trials=max(10, trials // 5)),
        )
        study.enqueue_trial(alike)  # each moves the score alike
        study.enqueue_trial({name: min(max(1.0, low), high) for name, (low, high) in ends.items()})
        found = []
        for _ in range(trials):
            trial = study.ask(space)
            weights = {name: float(f"{trial.params[name]:.{DIGITS}g}") for name in alike}
            one = attempt(Fusion(form, {first: 1.0, **weights}))
            study.tell(trial, list(one.values))
            found.append(one)
    finally:
        optuna.logging.set_verbosity(level)
    return found


def _spread(values: NDArray[np.float64]) -> float:
    """The standard deviation of what is finite; 1 where nothing varies."""
    found = values[np.isfinite(values)]
    return float(found.std()) or 1.0 if len(found) else 1.0
