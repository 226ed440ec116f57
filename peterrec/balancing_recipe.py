"""What a recipe may say of balancing: how the losses of several objectives become one update."""

from typing import Annotated, Literal

from pydantic import Field

from peterrec.settings import Settings

BalancerName = Literal[
    "sum",
    "static",
    "uncertainty",
    "dwa",
    "gradnorm",
    "metabalance",
    "pe_ltr",
    "pcgrad",
    "mgda",
    "cagrad",
    "upgrad",
    "dualproj",
    "imtl_g",
    "aligned_mtl",
    "fairgrad",
]
# those that read the gradient of each objective on what objectives share; the others read losses alone
OF_GRADIENTS: tuple[BalancerName, ...] = (
    "gradnorm",
    "metabalance",
    "pe_ltr",
    "pcgrad",
    "mgda",
    "cagrad",
    "upgrad",
    "dualproj",
    "imtl_g",
    "aligned_mtl",
    "fairgrad",
)
# the options that belong to some balancers alone
OF_BALANCER: dict[str, tuple[BalancerName, ...]] = {
    "weights": ("static",),
    "learning_rate": ("uncertainty", "gradnorm"),
    "window": ("dwa",),
    "temperature": ("dwa",),
    "alpha": ("gradnorm",),
    "start": ("gradnorm",),
    "target": ("metabalance",),
    "strategy": ("metabalance",),
    "relax": ("metabalance",),
    "memory": ("metabalance",),
    "floor": ("pe_ltr",),
    "radius": ("cagrad",),
    "fairness": ("fairgrad",),
    "tables": OF_GRADIENTS,
}


class Balancing(Settings):
    """The options of balancers; each belongs to those that its description names."""

    weights: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(ge=0)]] = Field(
        default={}, description="static: what the objectives named here are multiplied by, beside their own weight"
    )
    learning_rate: float = Field(
        default=0.025, gt=0, description="uncertainty, gradnorm: of Adam on what they learn, the same in all steps"
    )
    window: int = Field(default=100, ge=0, description="dwa: steps whose mean losses are compared; 0: an epoch's")
    temperature: float = Field(default=2.0, gt=0, description="dwa: of its softmax; larger is more even")
    alpha: float = Field(default=1.5, ge=0, description="gradnorm: how much objectives that lag gain")
    start: int = Field(default=20, ge=1, description="gradnorm: steps whose mean is an objective's first loss")
    target: str | None = Field(
        default=None, description="metabalance: the objective whose gradients set the scale; the first, if not given"
    )
    strategy: Literal["A", "B", "C"] = Field(
        default="C", description="metabalance: A shrinks larger gradients alone, B enlarges smaller ones, C both"
    )
    relax: float = Field(default=0.7, ge=0, le=1, description="metabalance: 0 leaves gradients, 1 makes them equal")
    memory: float = Field(default=0.9, ge=0, lt=1, description="metabalance: of the moving average of norms")
    floor: float = Field(default=0.05, ge=0, lt=1, description="pe_ltr: the smallest weight of an objective")
    radius: float = Field(default=0.5, ge=0, description="cagrad: how far from the mean gradient it may go, its c")
    fairness: float = Field(default=1.0, ge=0, description="fairgrad: its alpha; 0 is the mean gradient")
    tables: bool = Field(
        default=False,
        description="gradient balancers: balance embedding tables as well, for as many copies as there are objectives",
    )


def check_balancing(balancer: BalancerName, options: Balancing) -> None:
    """Raises ValueError for an option that does not belong to this balancer."""
    for key, balancers in OF_BALANCER.items():
        if balancer not in balancers and getattr(options, key) != type(options).model_fields[key].default:
            owners = " or ".join(map(repr, balancers if len(balancers) < 4 else balancers[:3]))
            more = "" if len(balancers) < 4 else " (and others on gradients)"
            raise ValueError(f"balancing.{key} belongs to balancer = {owners}{more}, and balancer is {balancer!r}")
    if balancer == "static" and not options.weights:
        raise ValueError("balancer = 'static' needs balancing.weights; without any it is 'sum'")
