"""Layers of recipes, bodies with weights worth testing, and experts in numpy."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from peterrec.body_recipe import BodyLayer
from peterrec.routing import Body

Array = np.ndarray


@pytest.fixture
def body() -> Callable[..., Body]:
    """A body in float64, in evaluation, all of whose parameters are random."""

    def build(*layers: dict[str, object], channels: int = 5, outputs: int = 2, **options: object) -> Body:
        torch.manual_seed(0)
        built = Body([BodyLayer(**layer) for layer in layers], channels=channels, outputs=outputs, **options).double()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.normal_()
        return built.eval()

    return build


@pytest.fixture
def numbers() -> Callable[[nn.Module], Callable[[str], Array]]:
    """Parameters of a module by name, as arrays."""

    def of(module: nn.Module) -> Callable[[str], Array]:
        state = module.state_dict()
        return lambda name: state[name].detach().numpy()

    return of


@pytest.fixture
def expert(numbers) -> Callable[[Body, int, int, Array], Array]:
    """What expert e of a layer makes of x (B, D): ReLU after each of its linear maps."""

    def run(body: Body, layer: int, e: int, x: Array) -> Array:
        weight, level = numbers(body), 0
        while (name := f"layers.{layer}.experts.{e}.linears.{level}") + ".weight" in body.state_dict():
            x = np.maximum(x @ weight(f"{name}.weight").T + weight(f"{name}.bias"), 0)
            level += 1
        assert level
        return x

    return run


@pytest.fixture
def gate(numbers) -> Callable[[Body, int, int, Array], Array]:
    """The weights (B, E) that gate g of a layer gives the experts that it sees."""

    def run(body: Body, layer: int, g: int, x: Array) -> Array:
        logits = x @ numbers(body)(f"layers.{layer}.router.linears.{g}.weight").T
        raised = np.exp(logits - logits.max(1, keepdims=True))
        return raised / raised.sum(1, keepdims=True)

    return run


@pytest.fixture
def x() -> torch.Tensor:
    """Inputs (7, 5)."""
    return torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
