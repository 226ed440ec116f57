"""Small encoders, and patches away from their start."""

import pytest
import torch
from peft import PeftModel, get_peft_model

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.tuners import PatchConfig

CHANNELS = 8


@pytest.fixture
def make():
    """An encoder of 53 rows and four convolutions, every weight random, norms included."""

    def build(block: str = "plain", *, causal: bool = True, dropout: float = 0.0) -> NextItNet:
        shape = NextItNetConfig(
            vocab_size=53, hidden_size=CHANNELS, dilations=(1, 2, 4, 8), block=block, causal=causal, dropout=dropout
        )
        return scatter(NextItNet(shape), seed=7).eval()

    return build


@pytest.fixture
def patch(make):
    """`patch(block, causal=..., seed=..., **settings of PatchConfig)`: such an encoder, patched, all weights random."""

    def build(block: str = "plain", *, causal: bool = True, seed: int = 3, **settings: object) -> PeftModel:
        config = PatchConfig(**{"bottleneck": 3, **settings})
        model = get_peft_model(make(block, causal=causal), config, adapter_name="first")
        return scatter_adapter(model, "first", seed=seed).eval()

    return build


@pytest.fixture
def add():
    """`add(model, name, seed=..., **settings)`: one more adapter, all its weights random."""

    def build(model: PeftModel, name: str, *, seed: int = 5, **settings: object) -> PeftModel:
        model.add_adapter(name, PatchConfig(**{"bottleneck": 2, **settings}))
        return scatter_adapter(model, name, seed=seed).eval()

    return build


@pytest.fixture
def ids():
    """Histories `(4, 9)` that end in TCL; the third is right padded."""
    ids = torch.randint(3, 53, (4, 9), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 2
    ids[2, 5:] = 0
    ids[2, 4] = 2
    return ids


def scatter(model, *, seed, pick=lambda name: True):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if pick(name):
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + 0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def scatter_adapter(model, name, *, seed):
    own = (f".{name}.", f".{name}")
    return scatter(model, seed=seed, pick=lambda key: own[0] in key or key.endswith(own[1]))
