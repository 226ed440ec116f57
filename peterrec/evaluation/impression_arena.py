"""Impressions and their splits, on which recipes compete."""

from dataclasses import dataclass, field

from torch import Tensor

from peterrec.data.attribute import Split
from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.encoders.loading import open_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.evaluation.impression_plan import ImpressionPlan


@dataclass(frozen=True, eq=False)
class ImpressionArena:
    """Impressions and their splits; `vectors` are those of frozen encoders, computed once for all contestants."""

    plan: ImpressionPlan
    impressions: Impressions
    splits: dict[int, Split]
    vectors: dict[str, Tensor] = field(default_factory=dict)


def open_impression_arena(plan: ImpressionPlan) -> ImpressionArena:
    """The impressions of a plan, split for each of its seeds.

    Raises DataError where they cannot be read or split, SettingsError where they hold no histories for the encoder,
    RefusedError where they were prepared for another one.
    """
    impressions = open_impressions(plan.data)
    if plan.encoder is not None:
        wanted = open_encoder(plan.encoder)[1].fingerprint
        found = impressions.vocabulary
        if found is None:
            raise SettingsError(
                f"{plan.data} holds no histories, which the encoder would read. Prepare the impressions again with "
                f"--history LOG --encoder {plan.encoder}, or leave the encoder out with --without-encoder."
            )
        if found.fingerprint != wanted:
            raise RefusedError(
                f"{plan.data} was prepared with the item vocabulary {found.fingerprint[:16]}, but the encoder "
                f"{plan.encoder} has {wanted[:16]}. Prepare the impressions again with --encoder {plan.encoder}."
            )
    return ImpressionArena(plan, impressions, {seed: impressions.split(seed) for seed in plan.seeds})
