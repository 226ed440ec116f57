"""A balancer by its name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from peterrec.balancing.balancer import Balancer
from peterrec.balancing.dwa import DWA
from peterrec.balancing.gradnorm import GradNorm
from peterrec.balancing.metabalance import MetaBalance
from peterrec.balancing.pe_ltr import PELTR
from peterrec.balancing.static import Static
from peterrec.balancing.torchjd_door import TorchJD
from peterrec.balancing.uncertainty import Uncertainty
from peterrec.balancing_recipe import BalancerName, Balancing
from peterrec.errors import SettingsError


@dataclass(frozen=True)
class Balanced:
    """What is balanced: the `names` of the T objectives, which have a `squared` error, and P shared tensors."""

    names: Sequence[str]
    squared: Sequence[bool]
    tensors: int

    def __len__(self) -> int:
        return len(self.names)


OWN: Mapping[BalancerName, Callable[[Balanced, Balancing], Balancer]] = {
    "static": lambda of, options: Static(of.names, weights=options.weights),
    "uncertainty": lambda of, options: Uncertainty(of.squared, learning_rate=options.learning_rate),
    "dwa": lambda of, options: DWA(len(of), window=options.window, temperature=options.temperature),
    "gradnorm": lambda of, options: GradNorm(
        len(of), alpha=options.alpha, start=options.start, learning_rate=options.learning_rate
    ),
    "metabalance": lambda of, options: MetaBalance(
        of.names,
        tensors=of.tensors,
        target=options.target,
        strategy=options.strategy,
        relax=options.relax,
        memory=options.memory,
    ),
    "pe_ltr": lambda of, options: PELTR(len(of), floor=options.floor),
}


def make_balancer(name: BalancerName, of: Balanced, *, options: Balancing) -> Balancer:
    """The balancer `name` for these objectives; `sum` needs none.

    Raises SettingsError for a single objective, and what the methods raise.
    """
    assert name != "sum"
    if len(of) < 2:
        raise SettingsError(
            f"balancer = {name!r}: there is one objective, {of.names[0]!r}, and nothing to balance it with; set "
            'balancer = "sum".'
        )
    return OWN[name](of, options) if name in OWN else TorchJD(name, objectives=len(of), options=options)
