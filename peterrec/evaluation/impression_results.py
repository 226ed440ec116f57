"""The results of tasks on impressions: recipes and baselines on the same test rows."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.baselines.base_rate import BaseRate
from peterrec.baselines.field_regression import FieldRegression
from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.space import parse_space
from peterrec.evaluation.costs import costs_of
from peterrec.evaluation.gains import gains_of
from peterrec.evaluation.search_result import Searched
from peterrec.impression_design import Design
from peterrec.impression_recipe import Measure
from peterrec.metrics.impression_rows import ImpressionRows, MeasuredOutput, bootstrap_facts, replicates_of
from peterrec.metrics.intervals import metric_intervals
from peterrec.settings import dump
from peterrec.transfer import Tested

if TYPE_CHECKING:
    from peterrec.evaluation.impression_study import ImpressionArena, ImpressionStudy

Predicted = Mapping[str, NDArray[np.float64]]
BASELINE = "baseline"
NAMES = ("logistic_regression", "base_rate_of_domain", "base_rate")


def measured_rows(
    impressions: Impressions, rows: NDArray[np.int64], plan: Design, predicted: Predicted
) -> ImpressionRows:
    """The test `rows` `(n,)` with what was predicted for each `(n,)`, by output, measured as the task says."""
    outputs = {}
    for measure in plan.measures:
        label = label_of(impressions, measure)[rows]
        counts = np.ones(len(rows), dtype=bool)
        if measure.space is not None:
            counts = np.asarray(parse_space(measure.space).rows(impressions.labels))[rows]
        name = measure.of if measure.of not in outputs else f"{measure.of}:{measure.label}"
        kind = "value" if measure.of in plan.values else "probability"
        outputs[name] = MeasuredOutput(label, predicted[measure.of], counts, kind)
    users = impressions.user_ids.array.combine_chunks() if impressions.schema.users else None
    weight = impressions.weight if plan.task.row_weights else None
    return ImpressionRows(
        None if users is None else impressions.user[rows],
        impressions.domain[rows],
        impressions.schema.domains,
        outputs,
        None if weight is None else weight[rows],
        row_numbers=rows,
    )


def label_of(impressions: Impressions, measure: Measure) -> NDArray[np.float32]:
    """What a measure is held against `(N,)`: a label, or a numeric field."""
    if measure.label in impressions.labels:
        return impressions.labels[measure.label]
    return impressions.numeric_field(measure.label)


def fitted_results(
    study: "ImpressionStudy", name: str, plan: Design, fitted: Mapping[int, Tested], predicted: Mapping[int, Predicted]
) -> dict[str, Any]:
    """What metrics.json holds of one model and of the baselines."""
    found = _all_results(study, {name: (plan, predicted)}, {name: ("model", costs_of(fitted))})
    return {"protocol": protocol(study, plan), **found}


def compared_results(
    study: "ImpressionStudy",
    field: Sequence[tuple[Any, str]],
    found: Mapping[str, Searched[Any]],
    *,
    effort: str,
) -> dict[str, Any]:
    """The same of several models, in the order of `field`."""
    predicted, facts = {}, {}
    for contestant, role in field:
        searched = found[contestant.name]
        predicted[contestant.name] = (
            study.design(contestant.recipe),
            {seed: one.predicted for seed, one in searched.fitted.items()},
        )
        facts[contestant.name] = role, {**costs_of(searched.fitted), **searched.facts()}
    results = _all_results(study, predicted, facts)
    return {
        "protocol": f"{protocol(study, study.design(study.plan.task))} {effort}",
        "reference": None,
        **results,
    }


def _all_results(
    study: "ImpressionStudy",
    models: Mapping[str, tuple[Design, Mapping[int, Predicted]]],
    facts: Mapping[str, tuple[str, dict[str, Any]]],
) -> dict[str, Any]:
    arena = study.arena
    impressions = arena.impressions
    first = next(iter(models.values()))[0]
    rows = {
        name: [
            measured_rows(impressions, arena.splits[seed].test, plan, predicted) for seed, predicted in by_seed.items()
        ]
        for name, (plan, by_seed) in models.items()
    }
    results = [
        {
            "name": name,
            "role": facts[name][0],
            "metrics": metric_intervals(each, replicates=replicates_of(each)),
            **facts[name][1],
        }
        for name, each in rows.items()
    ]
    models_alone = [name for name in models if facts[name][0] == "model"]
    for name, (seconds, by_seed) in baselines(arena, first).items():
        rows[name] = [
            measured_rows(impressions, arena.splits[seed].test, first, predicted) for seed, predicted in by_seed.items()
        ]
        results.append(
            {
                "name": name,
                "role": BASELINE,
                "metrics": metric_intervals(rows[name], replicates=replicates_of(rows[name])),
                "seconds": seconds,
            }
        )
    lead = next(iter(rows.values()))
    replicates = replicates_of(lead)
    main = lead[0].main(first.task.metric)
    watched = dict.fromkeys((main, *(f"{one.of}/auc" for one in first.measures), *_losses(first)))
    gains = []
    for metric in watched:
        # recipes may have different outputs: those that have this one are compared
        having = {name: each for name, each in rows.items() if all(metric in one.names for one in each)}
        own = [name for name in models_alone if name in having]
        if own:
            gains += gains_of(own, having, baselines=NAMES, metrics=[metric], replicates=replicates)
    return {
        "metric": main,
        "results": results,
        "gains": gains,
        "measures": [dump(one) for one in first.measures],
        "calibration": lead[0].calibration,
        "bootstrap": bootstrap_facts(users=impressions.schema.users, replicates=replicates),
    }


def _losses(plan: Design) -> list[str]:
    """The log losses and errors of the measured outputs."""
    return [f"{one.of}/{'rmse' if one.of in plan.values else 'log_loss'}" for one in plan.measures]


def baselines(
    arena: "ImpressionArena", plan: Design
) -> dict[str, tuple[float, dict[int, dict[str, NDArray[np.float64]]]]]:
    """Logistic regression on the fields, and base rates: seconds a seed, and what each predicts for the test rows.

    A baseline learns each measured label on the rows of its space. Values have none.
    """
    impressions = arena.impressions
    found: dict[str, dict[int, dict[str, NDArray[np.float64]]]] = {name: {} for name in NAMES}
    seconds: dict[str, float] = dict.fromkeys(NAMES, 0.0)
    if not impressions.schema.domains:
        del found["base_rate_of_domain"]
    same: dict[bytes, int] = {}  # seeds that share a split share what was learned on it
    for seed, split in arena.splits.items():
        earlier = same.setdefault(split.test.tobytes(), seed)
        if earlier != seed:
            for each in found.values():
                each[seed] = each[earlier]
            continue
        coding = FieldCoding.fit(impressions, split.train, fields=plan.fields, minimum=plan.task.features.minimum)
        for each in found.values():
            each[seed] = {}
        for measure in plan.measures:
            if measure.of in plan.values:
                for each in found.values():
                    label = label_of(impressions, measure)[split.train]
                    each[seed][measure.of] = np.full(len(split.test), float(np.nanmean(label)))
                continue
            train, validation = (in_space(impressions, measure, part) for part in (split.train, split.validation))
            for name, each in found.items():
                started = time.perf_counter()
                if name == "logistic_regression":
                    model: FieldRegression | BaseRate = FieldRegression.fit(
                        impressions,
                        coding=coding,
                        rows=train,
                        validation=validation,
                        label=measure.label,
                        row_weights=plan.task.row_weights,
                    )
                else:
                    model = BaseRate.fit(
                        impressions,
                        rows=train,
                        label=measure.label,
                        per_domain=name == "base_rate_of_domain",
                        row_weights=plan.task.row_weights,
                    )
                each[seed][measure.of] = model.predict(impressions, split.test)
                seconds[name] += time.perf_counter() - started
    return {name: (seconds[name] / len(same), each) for name, each in found.items()}


def in_space(impressions: Impressions, measure: Measure, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of `rows` on which a measure counts."""
    if measure.space is None:
        return rows
    return rows[np.asarray(parse_space(measure.space).rows(impressions.labels))[rows]]


def prediction_table(arena: "ImpressionArena", predicted: Mapping[int, Predicted]) -> pa.Table:
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


def protocol(study: "ImpressionStudy", plan: Design) -> str:
    """In words: which rows are tested, and how."""
    arena = study.arena
    impressions, split = arena.impressions, arena.splits[study.plan.seeds[0]]
    rule = impressions.schema.split
    shares = "/".join(f"{100 * share:g}" for share in rule.fractions)
    drawn = {
        "each_user": f"each user's rows in time order, {shares} (a split within users: those tested were trained on)",
        "rows": f"rows drawn at random, {shares}",
        "by_user": f"users drawn at random, {shares}",
        "temporal": f"two cuts in time for all, {shares}",
    }[rule.name]
    measured = "; ".join(
        f"{one.of} against {one.label}" + (" on all rows" if one.space is None else f" where {one.space}")
        for one in plan.measures
    )
    over = "users" if impressions.schema.users else "rows"
    return (
        f"{len(impressions):,} impressions, split {rule.name}: {drawn}; {len(study.plan.seeds)} seed(s): "
        f"{len(split.train):,} training, {len(split.validation):,} validation and {len(split.test):,} test rows of the "
        f"first. Measured: {measured}. Early stopping looks at the mean {plan.task.metric} of these on the validation "
        f"rows, never at the test rows. 95 % bootstrap intervals over test {over} and seeds; gains are paired."
    )
