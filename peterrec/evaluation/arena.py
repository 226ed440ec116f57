"""One task on one set of users and splits: every contestant and baseline meets the others here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.catalogue import TaskRecipe, task
from peterrec.data.attribute import Attribute, Split, read_attribute, split_users
from peterrec.data.prepared import PreparedLog, open_prepared
from peterrec.encoders.loading import open_encoder, read_config
from peterrec.errors import RefusedError
from peterrec.evaluation.adapter_plan import AdapterPlan
from peterrec.evaluation.contestants import RESERVED
from peterrec.evaluation.costs import costs_of
from peterrec.evaluation.training_plan import training_overrides
from peterrec.metrics.classification import Classified
from peterrec.metrics.intervals import ClassificationRows, metric_intervals
from peterrec.run_record import data_of, read_run
from peterrec.task_recipe import AUTO
from peterrec.transfer import Fitted

MODEL = "model"


@dataclass(frozen=True)
class Plan(AdapterPlan):
    """A resolved fine-tuning on labelled users: also where the data are, and the budget of labels."""

    task: TaskRecipe
    data: Path
    labels: int | None

    @property
    def adapter(self) -> str:
        """The adapter when none is asked for: the task's, else one that fits the encoder.

        What was best on an encoder by itself: patches in its blocks, or where it has none, item deviations.
        """
        if self.task.adapter != AUTO:
            return self.task.adapter
        return "serial" if read_config(self.encoder).depth else "items_convex"

    @property
    def reserved(self) -> Sequence[str]:
        """The names of the baselines and of the ceiling."""
        return RESERVED


def resolve(
    task_name: str | Path,
    *,
    encoder: Path,
    data: Path | None,
    seeds: Sequence[int] | None,
    labels: int | None,
    overrides: Sequence[str],
) -> Plan:
    """Reads the recipe and the settings; the data are those of the encoder unless given.

    `overrides` are `key=value` for the task's training settings. Raises SettingsError for anything unknown.
    """
    recipe = task(task_name)
    named = training_overrides(overrides, task=recipe)
    run = read_run(encoder, stage="pretrain")
    return Plan(
        task=recipe,
        overrides=named,
        encoder=encoder,
        data=data_of(encoder, run) if data is None else data,
        seeds=tuple(recipe.seeds if seeds is None else seeds),
        labels=labels,
        source=str(task_name),
    )


@dataclass(frozen=True)
class Arena:
    """The data of one plan: the same users, labels and splits for every contestant and baseline."""

    plan: Plan
    prepared: PreparedLog
    attribute: Attribute
    splits: dict[int, Split]

    def rows(self, probabilities: Mapping[int, NDArray[np.float64]]) -> list[ClassificationRows]:
        """Test rows of each seed, for intervals and gains."""
        return [
            ClassificationRows(
                self.attribute.users[self.splits[seed].test],
                self.attribute.labels[self.splits[seed].test],
                found,
                names=self.plan.task.metrics,
            )
            for seed, found in probabilities.items()
        ]


def open_arena(plan: Plan) -> Arena:
    """Opens data and labels; raises RefusedError where data and encoder have different vocabularies."""
    prepared = open_prepared(plan.data)
    wanted = open_encoder(plan.encoder)[1].fingerprint
    if prepared.vocabulary.fingerprint != wanted:
        raise RefusedError(
            f"{plan.data} was prepared with the item vocabulary {prepared.vocabulary.fingerprint[:16]}, but the "
            f"encoder {plan.encoder} has {wanted[:16]}. Prepare the log again with --encoder {plan.encoder}."
        )
    attribute = read_attribute(prepared, column=plan.task.column, classes=plan.task.classes)
    splits = {
        seed: split_users(
            attribute,
            fractions=plan.task.split.fractions,
            stratified=plan.task.split.stratified,
            seed=seed,
            budget=plan.labels,
        )
        for seed in plan.seeds
    }
    return Arena(plan, prepared, attribute, splits)


def protocol(arena: Arena) -> str:
    """In words: who is tested, and how."""
    plan, first = arena.plan, arena.splits[arena.plan.seeds[0]]
    shares = "/".join(f"{100 * share:g}" for share in plan.task.split.fractions)
    drawn = "stratified by class" if plan.task.split.stratified else "drawn at random"
    budget = f" Only {plan.labels:,} labels are used beside the test users'." if plan.labels is not None else ""
    missing = arena.attribute.unlabelled
    unlabelled = f" ({missing:,} users have no label)" if missing else ""
    return (
        f"{plan.task.column}: {len(arena.attribute):,} labelled users{unlabelled}, split by user {shares} {drawn}, "
        f"{len(plan.seeds)} seed(s), each with its own split: {len(first.train):,} training, "
        f"{len(first.validation):,} validation and {len(first.test):,} test users.{budget} Early stopping looks at "
        f"{plan.task.metric} of the validation users, never at the test users; baselines that need no validation train "
        "on those users too. Predictions are the most probable class; 95 % bootstrap intervals over test users (all "
        "seeds of a user together) and seeds. Seconds are training time a seed; memory is the peak of the process "
        "while training (on a CUDA device, of its tensors); the file holds adapter and head, or the whole model where "
        "all trains."
    )


def result_of(name: str, fitted: Mapping[int, Fitted], arena: Arena, *, role: str = MODEL) -> dict[str, Any]:
    """A contestant's row of `results`."""
    return {
        "name": name,
        "role": role,
        "metrics": metric_intervals(arena.rows({seed: each.probabilities for seed, each in fitted.items()})),
        **costs_of(fitted),
    }


def errors_of(fitted: Mapping[int, Fitted], arena: Arena) -> dict[str, Any]:
    """Confusion matrix (summed over seeds) and calibration of a contestant, and the label shares."""
    labels = np.concatenate([arena.attribute.labels[arena.splits[seed].test] for seed in fitted])
    classified = Classified(labels, np.concatenate([each.probabilities for each in fitted.values()]))
    classes = list(arena.attribute.classes)
    counts = np.bincount(arena.attribute.labels, minlength=len(classes))
    return {
        "confusion": {"labels": classes, "matrix": classified.confusion_matrix().tolist()},
        "calibration": classified.reliability_curve(),
        "histograms": {"labels": dict(zip(classes, counts.tolist(), strict=True))},
    }


def predictions(fitted: Mapping[int, Fitted], arena: Arena) -> pa.Table:
    """Test predictions of every seed: user, seed, label, predicted, p_<class>….

    >>> predictions(fitted, arena).column_names
    ['user', 'seed', 'label', 'predicted', 'p_f', 'p_m']
    """
    classes = np.asarray(arena.attribute.classes)
    tables = []
    for seed, each in fitted.items():
        test = arena.splits[seed].test
        columns: dict[str, Any] = {
            "user": arena.attribute.users[test],
            "seed": np.full(len(test), seed, dtype=np.int64),
            "label": classes[arena.attribute.labels[test]],
            "predicted": classes[each.probabilities.argmax(axis=1)],
        }
        columns |= {f"p_{name}": each.probabilities[:, i] for i, name in enumerate(arena.attribute.classes)}
        tables.append(pa.table({name: pa.array(list(values)) for name, values in columns.items()}))
    return pa.concat_tables(tables)
