"""One task that ranks a target catalogue, on one paired log and one set of splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peterrec.catalogue import RankingTask, ranking_task
from peterrec.data.cross_domain import PairedLogs, write_pairs
from peterrec.data.domain_logs import BadRows, DomainLogs, OneLog
from peterrec.data.examples import split_pairs
from peterrec.data.item_features import ItemFeatures, item_features
from peterrec.encoders.loading import open_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.evaluation.adapter_plan import AdapterPlan
from peterrec.evaluation.cold_start import ColdStart
from peterrec.evaluation.cross_baselines import NAMES
from peterrec.evaluation.training_plan import training_overrides
from peterrec.ranking_recipe import TargetItems
from peterrec.run_record import read_run


@dataclass(frozen=True)
class RankingPlan(AdapterPlan):
    """A resolved fine-tuning of a task that ranks items."""

    task: RankingTask

    @property
    def adapter(self) -> str:
        """The task's adapter."""
        return self.task.adapter

    @property
    def reserved(self) -> Sequence[str]:
        """The names of the baselines."""
        return NAMES


@dataclass(frozen=True)
class RankingArena:
    """The data of one plan: the same users, splits and test events for every contestant and baseline.

    `features` are the attributes of target items, where the task names some.
    """

    plan: RankingPlan
    pairs: PairedLogs
    cold: ColdStart
    features: ItemFeatures | None


def resolve_ranking(
    task_name: str | Path,
    *,
    encoder: Path,
    logs: DomainLogs,
    seeds: Sequence[int] | None,
    overrides: Sequence[str],
) -> RankingPlan:
    """Reads the recipe and the settings; of one log its rule stands in the task.

    `overrides` are `key=value` for the task's training settings. Raises SettingsError for anything unknown, and for two
    logs where the task divides one.
    """
    recipe = ranking_task(task_name)
    if isinstance(logs, OneLog):
        rule = TargetItems(column=logs.rule.column, value=logs.rule.value)
        recipe = recipe.model_copy(update={"target_items": rule})
    elif recipe.target_items is not None:
        raise SettingsError(
            f"task {recipe.name}: target_items divides one log into source and target domain, and two logs are named. "
            "Leave --target out, or take a task without target_items."
        )
    read_run(encoder, stage="pretrain")
    return RankingPlan(
        task=recipe,
        overrides=training_overrides(overrides, task=recipe),
        encoder=encoder,
        seeds=tuple(recipe.seeds if seeds is None else seeds),
        source=str(task_name),
    )


def pair_logs(
    plan: RankingPlan, logs: DomainLogs, *, folder: Path, bad_rows: BadRows = "fail", memory_limit: str = "2GB"
) -> PairedLogs:
    """Writes the logs into `folder`, joined by user, in the rows of the plan's encoder.

    Raises RefusedError where an encoder knows target items of one log: then pretraining has seen test events. Raises
    what `write_pairs` raises.
    """
    vocabulary = open_encoder(plan.encoder)[1]
    pairs = write_pairs(logs, folder=folder, vocabulary=vocabulary, bad_rows=bad_rows, memory_limit=memory_limit)
    known = pairs.summary["items"]["target_ids_in_the_source_vocabulary"]
    if isinstance(logs, OneLog) and known:
        rule = f"{logs.rule.column}={logs.rule.value}"
        raise RefusedError(
            f"{plan.encoder}: its vocabulary holds {known:,} of the {pairs.target_vocabulary.num_items:,} target items "
            f"({rule}), so in pretraining it has seen the very events that are tested, and no figure would be "
            "believable. Pretrain on the source domain alone: `peterrec prepare LOG --items ITEMS --without-items "
            f"'{rule}' --before-target --output SOURCE`, `peterrec pretrain SOURCE --output ENCODER`, then give this "
            "command --encoder ENCODER."
        )
    return pairs


def open_ranking_arena(plan: RankingPlan, pairs: PairedLogs) -> RankingArena:
    """Splits the users; raises DataError where a part would be empty or attributes that the task names are missing."""
    task = plan.task
    splits = {seed: split_pairs(pairs, fractions=task.split.fractions, seed=seed) for seed in plan.seeds}
    cold = ColdStart(
        pairs, splits, predict=task.predict, mixed=task.history == "mixed", fewest_source=task.fewest_source
    )
    features = None
    if task.item_features:
        features = item_features(pairs.items(), vocabulary=pairs.target_vocabulary, columns=task.item_features)
    return RankingArena(plan, pairs, cold, features)
