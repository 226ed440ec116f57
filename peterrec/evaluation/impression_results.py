"""The results of tasks on impressions: recipes, baselines and the ceiling on the same test rows."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from peterrec.evaluation.costs import costs_of
from peterrec.evaluation.gains import gains_between
from peterrec.evaluation.impression_arena import ImpressionArena
from peterrec.evaluation.impression_baselines import baselines
from peterrec.evaluation.impression_ceiling import ceiling
from peterrec.evaluation.impression_entrant import Entrant, Predicted, by_measure, entrant
from peterrec.evaluation.impression_fitted import ImpressionFitted
from peterrec.evaluation.impression_measures import asked_of
from peterrec.evaluation.impression_plan import BASELINES, ORACLE, ImpressionContestant
from peterrec.evaluation.search_result import Searched
from peterrec.impression_design import Design
from peterrec.metrics.impression_rows import bootstrap_facts, replicates_of
from peterrec.metrics.measure_name import MEAN, MeasureName
from peterrec.settings import dump

if TYPE_CHECKING:
    from peterrec.evaluation.impression_study import ImpressionStudy

MODEL, BASELINE, CEILING = "model", "baseline", "ceiling"


def fitted_results(
    study: "ImpressionStudy", contestant: ImpressionContestant, fitted: Mapping[int, ImpressionFitted]
) -> dict[str, Any]:
    """What metrics.json holds of one model and of the baselines."""
    plan = study.design(contestant.recipe)
    model = _model(study.arena, contestant.name, MODEL, plan, fitted, facts=costs_of(fitted))
    return {"protocol": protocol(study.arena, plan), **_results(study.arena, [model], plan)}


def compared_results(
    study: "ImpressionStudy",
    field: Sequence[tuple[ImpressionContestant, str]],
    found: Mapping[str, Searched[ImpressionFitted]],
    *,
    effort: str,
) -> dict[str, Any]:
    """The same of several models, in the order of `field`, of which the first says what is compared."""
    models = [
        _model(
            study.arena,
            one.name,
            role,
            study.design(one.recipe),
            found[one.name].fitted,
            facts={**costs_of(found[one.name].fitted), **found[one.name].facts()},
        )
        for one, role in field
    ]
    plan = study.design(field[0][0].recipe)
    told = protocol(study.arena, plan)
    if apart := [one.name for one in models if not _alike(one, models[0])]:
        told += (
            f" Measured otherwise than {models[0].name}: {', '.join(apart)}; these are compared in the figures that "
            "ask for the same label on the same rows, not in the mean over outputs."
        )
    return {"protocol": f"{told} {effort}", "reference": None, **_results(study.arena, models, plan)}


def _model(
    arena: ImpressionArena,
    name: str,
    role: str,
    plan: Design,
    fitted: Mapping[int, ImpressionFitted],
    *,
    facts: dict[str, Any],
) -> Entrant:
    predicted = {seed: by_measure(plan, each.predicted) for seed, each in fitted.items()}
    return entrant(name, role, arena, plan, predicted, facts=facts)


def _results(arena: ImpressionArena, models: Sequence[Entrant], plan: Design) -> dict[str, Any]:
    """All that metrics.json holds of `models`, and of what stands beside them; `plan` is the first one's."""
    first = models[0]
    beside = [
        entrant(name, BASELINE, arena, plan, found.predicted, facts={"seconds": found.seconds})
        for name, found in baselines(arena, plan).items()
    ]
    if (known := ceiling(arena, plan)) is not None:
        beside.append(entrant(ORACLE, CEILING, arena, plan, known.predicted, facts={"seconds": known.seconds}))
    replicates = replicates_of(first.rows)
    results = [one.result() for one in models]
    for one in beside:  # a mean over other outputs than the models' would stand in the same column
        means = [name for name in one.rows[0].names if _of_mean(name) and one.question(name) != first.question(name)]
        results.append(one.result(without=means))
    main = _main(models, metric=plan.task.metric)
    gains = []
    for metric in dict.fromkeys((main, *_told(first))):
        alike = [
            one for one in (*models, *beside) if one.has(metric) and one.question(metric) == first.question(metric)
        ]
        own = [one.name for one in alike if one.role == MODEL]
        if own:
            draws = {one.name: one.draws.of(metric) for one in alike}
            gains += gains_between(own, draws, baselines=BASELINES, metric=metric)
    return {
        "metric": main,
        "results": results,
        "gains": gains,
        "measures": [dump(one) for one in plan.measures],
        "calibration": first.rows[0].calibration,
        "bootstrap": bootstrap_facts(users=arena.impressions.schema.users, replicates=replicates),
    }


def _told(first: Entrant) -> list[str]:
    """The figures whose gains are told: what each output is chosen and fitted by."""
    probabilities = [name for name, (_, _, value) in first.asked.items() if not value]
    names = [MeasureName(name, "auc") for name in first.asked]  # a value has none
    names += [MeasureName(name, "log_loss" if name in probabilities else "rmse") for name in first.asked]
    return [str(name) for name in names]


def _main(models: Sequence[Entrant], *, metric: str) -> str:
    """The figure that all models have alike: the first one's own, else that of the first output that they share."""
    first = models[0]
    own = first.rows[0].main(metric)
    shared = (str(MeasureName(name, metric)) for name in first.asked)
    for name in (own, *shared):
        if all(one.has(name) and one.question(name) == first.question(name) for one in models):
            return name
    return own


def _alike(one: Entrant, other: Entrant) -> bool:
    return dict(one.asked) == dict(other.asked)


def _of_mean(name: str) -> bool:
    known = MeasureName.parse(name)
    return known is not None and known.output == MEAN


def prediction_table(arena: ImpressionArena, predicted: Mapping[int, Predicted]) -> pa.Table:
    """The test rows of every seed: row (its place in the file), user, item, domain, seed, labels, and each output."""
    impressions = arena.impressions
    tables = []
    for seed, outputs in predicted.items():
        test = arena.splits[seed].test
        columns: dict[str, Any] = {"row": pa.array(impressions.position[test])}
        for name, ids, codes in (
            ("user", impressions.user_ids, impressions.user),
            ("item", impressions.item_ids, impressions.item),
        ):
            if len(ids):
                columns[name] = ids.array.take(pa.array(codes[test]))
        if impressions.schema.domains:
            domain = impressions.domain[test]
            columns["domain"] = pa.array(impressions.schema.domains, pa.string()).take(
                pa.array(domain, mask=domain < 0)
            )
        columns["seed"] = pa.array(np.full(len(test), seed))
        columns |= {name: pa.array(values[test], from_pandas=True) for name, values in impressions.labels.items()}
        columns |= {f"p_{name}": pa.array(values.astype(np.float32)) for name, values in outputs.items()}
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def protocol(arena: ImpressionArena, plan: Design) -> str:
    """In words: which rows are tested, and how."""
    impressions, split = arena.impressions, arena.splits[arena.plan.seeds[0]]
    rule = impressions.schema.split
    shares = "/".join(f"{100 * share:g}" for share in rule.fractions)
    drawn = {
        "each_user": f"each user's rows in time order, {shares} (a split within users: those tested were trained on)",
        "rows": f"rows drawn at random, {shares}",
        "by_user": f"users drawn at random, {shares}",
        "temporal": f"two cuts in time for all, {shares}",
    }[rule.name]
    measured = "; ".join(
        f"{one.of} against {asked_of(one)}" + (" on all rows" if one.space is None else f" where {one.space}")
        for one in plan.measures
    )
    over = "users" if impressions.schema.users else "rows"
    return (
        f"{len(impressions):,} impressions, split {rule.name}: {drawn}; {len(arena.plan.seeds)} seed(s): "
        f"{len(split.train):,} training, {len(split.validation):,} validation and {len(split.test):,} test rows of the "
        f"first. Measured: {measured}. Early stopping looks at the mean {plan.task.metric} of these on the validation "
        f"rows, rare labels weighing less, never at the test rows. "
        f"95 % bootstrap intervals over test {over} and seeds; gains are paired."
    )
