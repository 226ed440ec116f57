"""The balancer of a task's objectives on impressions."""

from collections.abc import Sequence

from peterrec.balancing.balancer import Balancer
from peterrec.balancing.methods import Balanced, make_balancer
from peterrec.balancing_recipe import BalancerName, Balancing
from peterrec.objective_recipe import Objective
from peterrec.training.impression_labels import objective_names


def objectives_balanced(
    objectives: Sequence[Objective], *, balancer: BalancerName, options: Balancing, tensors: int
) -> Balancer:
    """The balancer of these objectives, which share so many tensors; every loss but cross-entropy is a squared error.

    Raises SettingsError for options that do not fit the objectives, and for a single objective.
    """
    squared = [one.loss in ("mse", "log_mse") for one in objectives]
    return make_balancer(balancer, Balanced(objective_names(objectives), squared, tensors), options=options)
