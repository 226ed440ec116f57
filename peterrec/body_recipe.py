"""What the TOML of a task on impressions may say of its body: layers of experts, and the routers that mix them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from peterrec.settings import Settings

Router = Literal["one_hot", "softmax", "linear", "hard_concrete", "matrix"]
Channels = tuple[Annotated[int, Field(ge=1)], ...]
# the keys of a body layer that belong to one router or two
OF_ROUTER: dict[str, tuple[Router, ...]] = {
    "tied": ("softmax",),
    "top_k": ("softmax",),
    "own_share": ("linear",),
    "per_channel": ("linear",),
    "transform": ("hard_concrete",),
    "temperature": ("hard_concrete",),
}


class BodyLayer(Settings):
    """Experts, and the router that mixes them into one vector an output (or a branch of the layer above)."""

    router: Router = Field(
        default="one_hot",
        description="one_hot: an output reads its own expert, or the shared one; softmax: a gate (OMoE, MMoE, PLE); "
        "linear: free weights (cross-stitch); hard_concrete: connections that are learned to be there or not (SNR); "
        "matrix: cross connections (CoNet)",
    )
    experts: int = Field(default=0, ge=0, description="experts that every output may read")
    own_experts: int = Field(default=0, ge=0, description="experts of each output, which no other output reads")
    hidden: Channels = Field(default=(64,), min_length=1, description="channels of the layers of each expert")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="after each layer of an expert")
    tied: bool = Field(default=False, description="softmax: one gate for all outputs (OMoE)")
    top_k: int | None = Field(default=None, ge=1, description="softmax: the k largest gates alone (sparsely gated)")
    own_share: float = Field(
        default=0.9, gt=0, le=1, description="linear: the weight of an output's own expert at start"
    )
    per_channel: bool = Field(default=False, description="linear: a weight a channel, not one a pair")
    transform: bool = Field(
        default=False, description="hard_concrete: a matrix a connection (SNR-Trans), not an average"
    )
    temperature: float = Field(default=0.5, gt=0, description="hard_concrete: of the relaxation, its beta")
    penalty: float = Field(
        default=0.0,
        ge=0,
        description="weight of what joins the loss. one_hot: squared distances between own experts (soft sharing); "
        "hard_concrete: the expected number of connections (L0); matrix: the L1 norm of cross connections (SCoNet)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "BodyLayer":
        if not self.experts and not self.own_experts:
            raise ValueError("a layer has experts, own_experts or both: both are 0")
        for key, routers in OF_ROUTER.items():
            if self.router not in routers and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} belongs to router = {routers[0]!r}, and router is {self.router!r}")
        if self.router in ("linear", "matrix") and (self.experts or self.own_experts != 1):
            raise ValueError(f"router = {self.router!r} mixes one expert an output: set own_experts = 1, experts = 0")
        if self.router == "one_hot" and (self.experts, self.own_experts) not in ((1, 0), (0, 1)):
            raise ValueError("router = 'one_hot' has experts = 1 (shared by all outputs) or own_experts = 1")
        if self.router == "hard_concrete" and self.own_experts:
            raise ValueError("router = 'hard_concrete' connects all experts with all outputs: set own_experts = 0")
        if self.penalty and self.router in ("softmax", "linear"):
            raise ValueError(
                f"penalty belongs to the routers one_hot, hard_concrete and matrix, not to {self.router!r}"
            )
        if self.penalty and self.router == "one_hot" and not self.own_experts:
            raise ValueError("penalty ties own experts together: set own_experts = 1, experts = 0")
        return self
