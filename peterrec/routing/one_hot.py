"""Fixed routes: an output reads its own expert, or all read one (shared-bottom)."""

from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.routing.router import Router
from peterrec.routing.tie import squared_distance
from peterrec.routing.wiring import Wiring


class OneHotRouter(Router):
    """Passes the experts' vectors on as they are: the one of all outputs (Caruana 1997), or one an output.

    Its penalty ties own experts together (soft sharing; Duong et al., ACL 2015).
    """

    def __init__(self, layer: BodyLayer, wiring: Wiring, *, below: int, channels: int):
        super().__init__()

    def forward(self, mapped: Tensor, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return mapped

    def penalty(self, experts: nn.ModuleList) -> Tensor:
        return squared_distance(experts)
