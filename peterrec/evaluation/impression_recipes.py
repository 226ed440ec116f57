"""The recipes of a study on impressions, each with the words by which a command names it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from peterrec.balancing_recipe import OF_BALANCER, BalancerName
from peterrec.catalogue import ImpressionTask, impression_task
from peterrec.errors import SettingsError, did_you_mean
from peterrec.settings import dump, validate


class NamedRecipe(NamedTuple):
    """A recipe, and the words of `peterrec finetune` that name it."""

    task: ImpressionTask
    words: tuple[str, ...]


def named_recipes(names: Sequence[str | Path], *, balancers: Sequence[str]) -> tuple[NamedRecipe, ...]:
    """Each of the recipes `names`, with each of the `balancers` where there are some.

    A recipe with another balancer than its own is called `RECIPE+BALANCER`, and has the options that its own and the
    other one share. Raises SettingsError for unknown names, and for a balancer that needs options.
    """
    found = []
    for name in names:
        task = impression_task(name)
        words = ("--task", str(name))
        if not balancers:
            found.append(NamedRecipe(task, words))
        for balancer in balancers:
            more = () if balancer == task.balancer else ("--balancer", balancer)
            found.append(NamedRecipe(_balanced(task, balancer), (*words, *more)))
    return tuple(found)


def _balanced(task: ImpressionTask, balancer: str) -> ImpressionTask:
    known: tuple[BalancerName, ...] = get_args(BalancerName)
    if balancer not in known:
        raise SettingsError(f"There is no balancer {balancer!r}. {did_you_mean(balancer, known)}")
    if balancer == task.balancer:
        return task
    if balancer == "static":
        raise SettingsError(
            f"task {task.name}: balancer = 'static' needs balancing.weights; set both in a recipe of your own, and "
            "name it with --task."
        )
    options = {key: value for key, value in dump(task.balancing).items() if balancer in OF_BALANCER[key]}
    values = {**dump(task), "name": f"{task.name}+{balancer}", "balancer": balancer, "balancing": options}
    return validate(ImpressionTask, values, origin=f"task {task.name} with the balancer {balancer}")
