"""The towers of matches and of the correlation, which learn beside the heads of a task on impressions."""

from collections.abc import Mapping, Sequence

from peterrec.body_recipe import Channels
from peterrec.errors import SettingsError, did_you_mean
from peterrec.heads.two_towers import TwoTowers, VectorTower
from peterrec.impression_recipe import ImpressionTask


def matches_of(task: ImpressionTask, fields: Sequence[str]) -> dict[str, TwoTowers]:
    """The two towers of each of the task's matches, on vectors of these `fields`, by name."""
    return {
        match.name: TwoTowers(
            _tower(task, match.left, hidden=match.hidden, among=fields),
            _tower(task, match.right, hidden=match.hidden, among=fields),
        )
        for match in task.matches
    }


def correlation_of(task: ImpressionTask, fields: Sequence[str]) -> VectorTower | None:
    """The tower of the items that users took near each other; None where the task has no such loss."""
    one = task.correlation
    return None if one is None else _tower(task, one.fields, hidden=one.hidden, among=fields)


def check_matches(task: ImpressionTask, *, fields: Sequence[str], labels: Mapping[str, bool]) -> None:
    """Raises SettingsError for fields that the network does not read, and for a label that is not 0 or 1."""
    named = [(f"matches.{key}", getattr(match, key)) for match in task.matches for key in ("left", "right")]
    named += [] if task.correlation is None else [("correlation.fields", task.correlation.fields)]
    for key, names in named:
        for name in names:
            if name not in fields:
                raise SettingsError(
                    f"task {task.name}: {key} names {name!r}, no field that the network reads. "
                    f"{did_you_mean(name, fields)}"
                )
    if task.correlation is not None and not labels.get(task.correlation.label, False):
        raise SettingsError(
            f"task {task.name}: correlation.label names {task.correlation.label!r}, no label of 0 and 1 of the data; "
            f"they have {', '.join(name for name, binary in labels.items() if binary)}."
        )


def _tower(task: ImpressionTask, names: Sequence[str], *, hidden: Channels, among: Sequence[str]) -> VectorTower:
    return VectorTower([among.index(name) for name in names], dim=task.features.dim, hidden=hidden)
