"""Which of peft's own methods a recipe may name, where each may stand, and which of its options a recipe may set.

Every method here leaves the encoder as it was at step 0, never changes a frozen weight, and its file loads again.
Left out: methods that start elsewhere (VB-LoRA, Uni-LoRA), rewrite frozen weights (the PiSSA and OLoRA starts of LoRA),
need calls during training that no recipe can make (AdaLoRA), compile code at first use (BOFT), warn in every run
(SHiRA), or do not take subclasses of `nn.Linear` (GLoRA). No option names code, a path or a module. Options without any
effect here are left out as well (OFT's module_dropout, PSOFT's alpha, Lily's stride), and DEFT's dropout, which would
move the states at step 0 in training.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from peterrec.errors import did_you_mean

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]  # a dropout

# method -> option -> what it may be
PEFT_METHODS: dict[str, dict[str, Any]] = {
    "beft": {},
    "c3a": {"block_size": Count},
    "deft": {"r": Count, "alpha": Positive, "decomposition_method": Literal["relu", "qr"]},
    "delora": {"r": Count, "delora_lambda": Count, "module_dropout": Share},
    "fourierft": {"n_frequency": Count, "scaling": Positive, "random_loc_seed": Seed},
    "gralora": {"r": Count, "alpha": Count, "gralora_k": Count, "hybrid_r": Seed, "gralora_dropout": Share},
    "hira": {"r": Count, "hira_dropout": Share},
    "hra": {"r": Annotated[int, Field(ge=2, multiple_of=2)]},  # an odd r is no identity
    "ia3": {},
    "lily": {"r": Count, "num_B": Count, "scaling": Positive},
    "ln_tuning": {},
    "loha": {"r": Count, "alpha": Count, "rank_dropout": Share, "module_dropout": Share},
    "lokr": {
        "r": Count,
        "alpha": Count,
        "decompose_both": bool,
        "decompose_factor": Count,
        "rank_dropout": Share,
        "module_dropout": Share,
    },
    "lora": {
        "r": Count,
        "lora_alpha": Count,
        "lora_dropout": Share,
        "use_dora": bool,
        "use_rslora": bool,
        "init_lora_weights": Literal["gaussian", "orthogonal"],
    },
    "miss": {"r": Count, "miss_dropout": Share},
    "oft": {"oft_block_size": Count, "block_share": bool},
    "peanut": {"r": Count, "depth": Seed, "scaling": Positive},
    "psoft": {"r": Count, "psoft_dropout": Share},
    "randlora": {"r": Count, "randlora_alpha": Count, "randlora_dropout": Share, "projection_prng_key": Seed},
    "road": {"variant": Literal["road_1", "road_2", "road_4"], "group_size": Count},
    "trainable_tokens": {},
    "vera": {"r": Count, "d_initial": Positive, "vera_dropout": Share, "projection_prng_key": Seed},
    "waveft": {"n_frequency": Count, "scaling": Positive, "random_loc_seed": Seed},
}
Place = Literal["convolutions", "norms", "blocks", "items"]
# method -> where it may stand; a method that is not named here stands on the convolutions
PLACES: dict[str, tuple[Place, ...]] = {
    "ln_tuning": ("norms", "convolutions", "blocks"),
    "lora": ("convolutions", "items"),
    "trainable_tokens": ("items",),
}
TRAINS_ROWS = ("lora", "trainable_tokens")  # methods whose adapter can hold the TCL row


def places(method: str) -> tuple[Place, ...]:
    """Where a method may stand."""
    return PLACES.get(method, ("convolutions",))


def check_options(method: str, options: dict[str, Any]) -> None:
    """Raises ValueError for an option that the method does not have, or a value that it cannot take."""
    allowed = PEFT_METHODS[method]
    for name, value in options.items():
        if name not in allowed:
            hint = did_you_mean(name, allowed) if allowed else f"{method} has no options in a recipe."
            raise ValueError(f"unknown option {name!r} of the method {method}. {hint}")
        try:
            TypeAdapter(allowed[name]).validate_python(value, strict=True)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise ValueError(f"options.{name} = {value!r}: {reason[0].lower()}{reason[1:]}") from None
