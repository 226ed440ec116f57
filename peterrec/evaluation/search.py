"""Equal search effort: every contestant tries the same learning rates on one seed, judged by validation users."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from peterrec.errors import DivergedError, SettingsError
from peterrec.evaluation.search_result import Searched
from peterrec.evaluation.trial import ContestantT, ResultT, Trial
from peterrec.evaluation.trials import Trials

RATES = (5e-4, 2e-3, 8e-3)
MANY = 5  # adapters from which on the best of them is likely a lucky one
OWN = "recipe"  # each recipe's own rate, no search


def parse_rates(text: str) -> tuple[float, ...] | None:
    """The grid that `--learning-rates` names, rising; None for `recipe`. Raises SettingsError."""
    if text.strip() == OWN:
        return None
    try:
        rates = sorted(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise SettingsError(f"--learning-rates {text!r}: {_WANTED}") from None
    check_rates(rates)
    return tuple(rates)


def check_rates(rates: Sequence[float]) -> None:
    """Raises SettingsError for a grid that is empty, names a rate twice, or one that is no rate."""
    if not rates or any(not math.isfinite(rate) or rate <= 0 for rate in rates) or len(set(rates)) < len(rates):
        raise SettingsError(f"--learning-rates {', '.join(f'{rate:g}' for rate in rates) or 'none'}: {_WANTED}")


_WANTED = (
    f"expected different numbers above 0, such as {','.join(f'{rate:g}' for rate in RATES)}, or the word {OWN} "
    "(each recipe's own rate, without a search)."
)


def search(
    contestant: ContestantT, trials: Trials[ContestantT, ResultT], *, rates: Sequence[float] | None
) -> Searched[ResultT]:
    """Trains a contestant with each of `rates` on the first seed and with the best of them on the others.

    The best has the highest watched figure on the validation users; of equals the smallest rate counts. A rate at
    which the training diverges is out; DivergedError is raised where all of them do. Without `rates` the recipe's own
    is taken.
    """
    plan = trials.arena.plan
    if rates is None:
        rate = plan.settings_of(contestant).learning_rate
        return Searched(trials.each_seed(contestant), rate, tried=[], seconds=None)
    first = plan.seeds[0]
    held: dict[float, ResultT] = {}
    tried: list[dict[str, Any]] = []
    problem: DivergedError | None = None
    for rate in sorted(rates):
        entry: dict[str, Any] = {"learning_rate": rate, "validation": None, "best_epoch": None}
        try:
            held[rate] = found = trials.run(Trial(contestant, first, rate))
            entry |= {"validation": found.validation, "best_epoch": found.best_epoch}
        except DivergedError as error:
            problem = error
            entry["diverged"] = True
        tried.append(entry)
    if not held:
        assert problem is not None
        raise DivergedError(f"every learning rate that was tried diverged. At the last: {problem}")
    chosen = best_rate({rate: fitted.validation for rate, fitted in held.items()})
    return Searched(
        {seed: held[chosen] if seed == first else trials.run(Trial(contestant, seed, chosen)) for seed in plan.seeds},
        chosen,
        tried=tried,
        seconds=sum(fitted.seconds for fitted in held.values()),
    )


def search_all(
    field: Sequence[tuple[ContestantT, str]],
    trials: Trials[ContestantT, ResultT],
    *,
    rates: Sequence[float] | None,
) -> tuple[dict[str, Searched[ResultT]], list[str]]:
    """Each contestant (with its role) at its rate, and a sentence for each that diverged.

    Raises DivergedError where no adapter is left.
    """
    found: dict[str, Searched[ResultT]] = {}
    lost: dict[str, str] = {}
    for contestant, _ in field:
        try:
            found[contestant.name] = search(contestant, trials, rates=rates)
        except DivergedError as problem:
            lost[contestant.name] = str(problem)
    if not any(role == "model" and one.name in found for one, role in field):
        raise DivergedError("No adapter could be trained. " + " ".join(lost.values()))
    return found, [f"{name} is not in the table: {problem}" for name, problem in lost.items()]


def refuse_second_rate(overrides: Sequence[str]) -> None:
    """Raises SettingsError where the settings that were overridden name a learning rate beside the grid's."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key.strip() == "learning_rate":
            raise SettingsError(
                f"--set {override}: compare tries the rates of --learning-rates and keeps the best of them. "
                f"To train everything at this one, give --learning-rates {value.strip()} instead; to take each "
                f"recipe's own, --learning-rates {OWN}."
            )


def best_rate(validation: Mapping[float, float | None]) -> float:
    """The rate with the highest figure; of equals the smallest, and the smallest of all where there is no figure.

    >>> best_rate({0.1: 0.8, 0.01: 0.8, 0.001: None})
    0.01
    """
    return max(sorted(validation), key=lambda rate: -math.inf if (v := validation[rate]) is None else v)


def effort(rates: Sequence[float] | None, *, metric: str, seed: int) -> str:
    """In words: how each contestant came to its learning rate."""
    if rates is None:
        return "Each recipe trains at its own learning rate; none was searched for."
    listed = ", ".join(f"{rate:g}" for rate in sorted(rates))
    if len(rates) == 1:
        return f"Every adapter and control trains at the learning rate {listed}."
    return (
        f"Equal search effort: every adapter and control is trained with each learning rate of {listed} on seed "
        f"{seed}; the one with the best {metric} on validation users of seed {seed} is kept (of equals the smallest) "
        "and trains the other seeds, whose test users may have been among those validation users."
    )


def notes(results: Sequence[Mapping[str, Any]], rates: Sequence[float] | None) -> list[str]:
    """What a reader of the search should know: rates at the edge of the grid, trainings that diverged."""
    if rates is None:
        return []
    said = []
    if (models := sum(result.get("role", "model") == "model" for result in results)) > MANY:
        said.append(f"{models} adapters are compared; no interval is corrected for the best of many being lucky.")
    for end, rate in (("smallest", min(rates)), ("largest", max(rates))) if len(rates) > 1 else ():
        names = ", ".join(str(result["name"]) for result in results if result.get("learning_rate") == rate)
        if names:
            said.append(
                f"Chosen at the edge of the grid: {rate:g} is its {end} learning rate ({names}); "
                f"one beyond it may do better."
            )
    for result in results:
        if out := [f"{one['learning_rate']:g}" for one in result.get("search") or [] if one.get("diverged")]:
            said.append(f"{result['name']} diverged at {', '.join(out)}, which was left out.")
    return said
