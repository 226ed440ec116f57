"""The one door to torchjd: weights of the objectives' gradients, by the name of the method."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from peterrec.balancing.balancer import Balancer, Present
from peterrec.balancing.gradient_rows import GradientRows
from peterrec.balancing_recipe import BalancerName, Balancing
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from torchjd.aggregation import Weighting

Made = Callable[[Balancing, int], "Weighting"]  # from the options and the number of objectives
# the extras with which the packages come that some methods need
EXTRAS = {
    "upgrad": "peterrec[projection]",
    "dualproj": "peterrec[projection]",
    "cagrad": "torchjd[cagrad]",
    "fairgrad": "torchjd[fairgrad]",
}
AVERAGES = ("mgda", "cagrad", "imtl_g")  # their weights sum to 1 or so, those of the others to T


def weightings() -> Mapping[str, Made]:
    """The methods of torchjd that read nothing but the products of gradients, and keep nothing between steps."""
    from torchjd import aggregation as jd

    return {
        "pcgrad": lambda options, number: jd.PCGradWeighting(),
        "mgda": lambda options, number: jd.MGDAWeighting(),
        "cagrad": lambda options, number: jd.CAGradWeighting(c=options.radius),
        "upgrad": lambda options, number: jd.UPGradWeighting(torch.ones(number)),
        "dualproj": lambda options, number: jd.DualProjWeighting(torch.ones(number)),
        "imtl_g": lambda options, number: jd.IMTLGWeighting(),
        "aligned_mtl": lambda options, number: jd.AlignedMTLWeighting(torch.ones(number)),
        "fairgrad": lambda options, number: jd.FairGradWeighting(alpha=options.fairness),
    }


class TorchJD(Balancer):
    """A method of torchjd on the Gramian of the gradients of those objectives that have a target in the step.

    Where gradients do not conflict and are of one length, all come to their sum. torchjd solves most of its problems on
    the CPU: such a step waits for the device. Random choices are drawn from torch's generator of the CPU.

    Raises SettingsError, naming what to install, for a method whose packages are not there.
    """

    reads_gradients: ClassVar[bool] = True

    def __init__(self, name: BalancerName, *, objectives: int, options: Balancing):
        super().__init__(objectives)
        self.name = name
        self.options = options
        self._made = weightings()[name]
        self._of_number: dict[int, Weighting] = {}
        self._weighting(objectives)

    def coefficients(self, rows: GradientRows, *, present: Present) -> Tensor:
        there = [number for number, one in enumerate(present) if one]
        found = torch.ones_like(self.told)
        if len(there) < 2:
            return found
        own = rows.gramian(there)
        weights = self._weighting(len(there))(own.to("cpu") if own.device.type == "mps" else own)
        times = len(there) if self.name in AVERAGES else 1
        found[there] = times * weights.to(found)
        return found

    def _weighting(self, number: int) -> "Weighting":
        """The method for so many objectives."""
        if number not in self._of_number:
            try:
                self._of_number[number] = self._made(self.options, number)
            except ImportError as problem:
                cause = str(problem).partition(" Install")[0].rstrip(".")  # torchjd's own hint names its extra
                raise SettingsError(
                    f"balancer = {self.name!r} needs packages that are not installed ({cause}). Install them with: "
                    f'pip install "{EXTRAS.get(self.name, "torchjd")}"'
                ) from None
        return self._of_number[number]
