"""The heads of a task that names none: by the labels of the data."""

from collections.abc import Mapping
from typing import NamedTuple

from peterrec.errors import SettingsError
from peterrec.impression_recipe import Head
from peterrec.objective_recipe import Measure, Objective

CLICK, CONVERSION = "click", "conversion"


class DefaultHeads(NamedTuple):
    """What stands in a recipe under these keys."""

    heads: tuple[Head, ...]
    derived: dict[str, str]
    objectives: tuple[Objective, ...]
    measures: tuple[Measure, ...]


def default_heads(labels: Mapping[str, bool]) -> DefaultHeads:
    """One head a label, in their order; `labels` says of each whether it is binary.

    A binary `click` becomes ctr; a binary `conversion` beside it becomes cvr, learned and measured on clicked rows, and
    ctcvr, their product, measured on all rows. Any other label is a head of its own name: a probability if it is
    binary, else a value, learned by squared error. Raises SettingsError if there is no label, or one of them has a name
    that these rules take.
    """
    if not labels:
        raise SettingsError("the data has no label to learn: prepare it with --label.")
    heads: list[Head] = []
    derived: dict[str, str] = {}
    objectives: list[Objective] = []
    measures: list[Measure] = []
    clicks = labels.get(CLICK, False)
    for label, binary in labels.items():
        name, space = label, None
        if clicks and label == CLICK:
            name = "ctr"
        elif clicks and binary and label == CONVERSION:
            name, space = "cvr", f"{CLICK} == 1"
            derived["ctcvr"] = "ctr * cvr"
        heads.append(Head(name=name, output="probability" if binary else "value"))
        objectives.append(Objective(of=name, label=label, loss="bce" if binary else "mse", space=space))
        measures.append(Measure(of=name, label=label, space=space))
        if space is not None:
            measures.append(Measure(of="ctcvr", label=label))
    names = [*(head.name for head in heads), *derived]
    if twice := [name for name in labels if names.count(name) > 1 or (name in derived)]:
        raise SettingsError(
            f"label {twice[0]!r} has the name of what is predicted from {CLICK!r} and {CONVERSION!r}: prepare it under "
            "another name, or name the heads of the task, with [[heads]]."
        )
    return DefaultHeads(tuple(heads), derived, tuple(objectives), tuple(measures))
