"""Every adapter that the contract tests run over, on one small encoder."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from peterrec import catalogue
from peterrec.adaptation import adapt
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.data.vocabulary import TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.settings import validate


def _peft(method: str, where: str = "convolutions", **options: Any) -> dict[str, Any]:
    return {"tuner": "peft", "peft": {"method": method, "where": where, "options": options}}


WIDTH = 16  # channels: two inside the bottlenecks of most recipes, as a single one may be dead
# what no recipe of the catalogue has
MORE: dict[str, dict[str, Any]] = {
    "patch_norms": {"tuner": "patch", "patch": {"bottleneck": 2, "train_norms": True}},
    "patch_top_tcl": {"tuner": "patch", "patch": {"bottleneck": 3, "blocks": 1}, "train_tcl": True},
    "star_full_3": {"tuner": "star", "star": {"domains": 3, "form": "full"}},
    "star_low_rank_3": {"tuner": "star", "star": {"domains": 3, "form": "low_rank", "rank": 2}},
    "star_norms_3": {"tuner": "star", "star": {"domains": 3, "norms": True}},
    "star_norms_1": {"tuner": "star", "star": {"form": "full", "norms": True}},
    "lora_items": _peft("lora", "items", r=2),
    "loha": _peft("loha", r=2),
    "oft": _peft("oft", oft_block_size=4),
    "vera": _peft("vera", r=2),
    "hra": _peft("hra", r=2),
    "road": _peft("road", variant="road_1", group_size=4),
}
# Adding a TOML to adapters/ is enough; what it cannot do by nature goes into contract/conftest.py.
CATALOGUE = map(catalogue.adapter, catalogue.names("adapters"))
RECIPES = {f"{recipe.name}.toml": recipe for recipe in CATALOGUE if recipe.tuner not in ("none", "full")}
RECIPES |= {name: validate(AdapterRecipe, {"name": name, **table}, origin=name) for name, table in MORE.items()}


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Lets pass what peft says of layers that it tunes by copying them whole, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type '.*' encountered, proceed at your own risk")
        yield


@dataclass(frozen=True)
class Case:
    """One adapter on the small encoder: four convolutions. `tcl` = False: read without the TCL row."""

    name: str
    tcl: bool = True

    @property
    def recipe(self) -> AdapterRecipe:
        return RECIPES[self.name]

    @property
    def ours(self) -> bool:
        return self.recipe.tuner in ("patch", "star")

    @property
    def largest_share(self) -> float:
        """How much of a table of 16 channels it may train: a third, or, of thin matrices beside it, their rank."""
        peft = self.recipe.peft
        thin = peft is not None and (peft.method, peft.where) == ("lora", "items")
        return max(1 / 3, int(peft.options["r"]) / 16 * 1.01) if peft is not None and thin else 1 / 3

    @property
    def domains(self) -> int:
        return self.recipe.star_domains() if self.recipe.star else 0

    @property
    def readout(self) -> str:
        return "tcl" if self.tcl and (self.recipe.train_tcl or self.recipe.readout == "tcl") else "mean"

    @property
    def tags(self) -> set[str]:
        """The case's name and what it has in common with others, in the words of the list of limits."""
        recipe, tags = self.recipe, {self.name, self.recipe.tuner}
        if recipe.patch is not None:
            tags |= {recipe.patch.placement} | ({"shortcut"} if recipe.patch.shortcut else set())
        if recipe.peft is not None:
            tags |= {recipe.peft.method} | ({"dora"} if recipe.peft.options.get("use_dora") else set())
            tags |= {"deaf"} if recipe.peft.method not in ("lora", "road") else set()
        return tags | ({"domains"} if self.domains > 1 else set())

    def config(self) -> PeftConfig:
        return deepcopy(_config(self))

    def ids(self, rows: int = 4, length: int = 9) -> Tensor:
        """Histories `(rows, length)` that end in TCL, right padded in the second row."""
        ids = torch.randint(3, 53, (rows, length), generator=torch.Generator().manual_seed(1))
        ids[:, -1] = TCL
        if rows > 1:
            ids[1, 5:] = 0
            ids[1, 4] = TCL
        return ids

    def domain_ids(self, rows: int) -> Tensor | None:
        """All domains, unsorted, and one that is unknown; none where there is one domain, which is then meant."""
        return torch.tensor([2, 0, -1, 1]).repeat(rows)[:rows] if self.domains > 1 else None

    def encoder(self, block: str = "plain", *, causal: bool = True, vocab: int = 53, fused: bool = False) -> NextItNet:
        """The same weights at every call, norms and biases away from their trivial start.

        Not `fused`, so that with and without an adapter sums are made in one order and may be compared to the bit.
        """
        shape = NextItNetConfig(vocab_size=vocab, hidden_size=WIDTH, dilations=(1, 2, 4, 8), block=block, causal=causal)
        encoder = NextItNet(shape).eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                centre = 1.0 if name.endswith("norm.weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
        for each in encoder.blocks:
            each.fused = fused
        return encoder

    def task(self) -> TaskModel:
        """A task model of three classes, its encoder frozen."""
        torch.manual_seed(13)
        model = TaskModel(self.encoder(), ClassificationHead(WIDTH, 3), readout="mean")
        model.freeze_encoder()
        return model.eval()

    def wrap(self, model: nn.Module, *, config: PeftConfig | None = None) -> PeftModel:
        """`model` as `adapt` makes it of an encoder, or with `config` as peft does; the adapter is called `default`."""
        torch.manual_seed(3)
        if config is None:
            wrapped = adapt(model, self.recipe, readout=self.readout)  # type: ignore[arg-type]
            assert isinstance(wrapped, PeftModel)
            return wrapped.eval()
        with quiet_peft():
            return get_peft_model(model, config).eval()  # type: ignore[arg-type]

    def add(self, model: PeftModel, name: str) -> None:
        torch.manual_seed(4)
        with quiet_peft():
            model.add_adapter(name, self.config())

    def hidden(self, model: nn.Module, ids: Tensor, *, domain_ids: Tensor | None = None, names=None) -> Tensor:
        """Hidden states `(B, L, D)`, zero at padding; row r belongs to domain `domain_ids[r]`."""
        domains = self.domain_ids(len(ids)) if domain_ids is None else domain_ids
        mixed = {} if names is None else {"adapter_names": names}
        return model(input_ids=ids, domain_ids=domains, **mixed).last_hidden_state

    def logits(self, model: nn.Module, ids: Tensor) -> Tensor:
        return model(input_ids=ids, domain_ids=self.domain_ids(len(ids))).logits

    def loss(self, hidden: Tensor, *, seed: int = 11) -> Tensor:
        """The distance to hidden states that have nothing to do with these."""
        wanted = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(seed))
        return (hidden.float() - wanted).square().mean()

    def train(self, model: nn.Module, *, seed: int = 11, labels: Tensor | None = None, steps: int = 4) -> None:
        """AdamW with weight decay on everything that trains; domain ids as in `hidden`."""
        ids = self.ids()
        model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=0.05, weight_decay=0.5)
        for _ in range(steps):
            optimiser.zero_grad()
            if labels is None:
                self.loss(self.hidden(model, ids), seed=seed).backward()
            else:
                model(input_ids=ids, labels=labels, domain_ids=self.domain_ids(len(ids))).loss.backward()
            optimiser.step()
        model.eval()

    def read_only(self, block: str = "plain", *, causal: bool = True) -> PeftModel:
        """The model with the trained adapter `default` that all tests share: look, but do not change."""
        return _trained(self, block, causal)

    def trained(self, block: str = "plain", *, causal: bool = True) -> PeftModel:
        """A model with the trained adapter `default`, for the caller alone."""
        return deepcopy(_trained(self, block, causal))

    def two(self) -> PeftModel:
        """A model with the trained adapters `default`, which is active, and `second`."""
        return deepcopy(_two(self))

    def save(self, model: PeftModel, folder: Path) -> None:
        # left to itself, peft saves the whole item table beside an adapter on it
        model.save_pretrained(folder, save_embedding_layers=False)

    def load(
        self, folder: Path, model: nn.Module | None = None, *, low_cpu_mem_usage: bool = False, trains: bool = True
    ) -> PeftModel:
        """`trains`: torch folds a matrix product another way, a last bit apart, where nothing needs a gradient."""
        with quiet_peft():
            return PeftModel.from_pretrained(
                self.encoder() if model is None else model,  # type: ignore[arg-type]
                folder,
                is_trainable=trains,
                low_cpu_mem_usage=low_cpu_mem_usage,
            ).eval()


@functools.cache
def _config(case: Case) -> PeftConfig:
    return case.wrap(case.encoder()).peft_config["default"]


@functools.cache
def _trained(case: Case, block: str, causal: bool) -> PeftModel:
    model = case.wrap(case.encoder(block, causal=causal))
    case.train(model)
    return model


@functools.cache
def _two(case: Case) -> PeftModel:
    model = case.trained()
    case.add(model, "second")
    model.set_adapter("second")
    case.train(model, seed=12, steps=6)
    model.set_adapter("default")
    return model


CASES = [Case(name) for name in RECIPES]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Each adapter in turn."""
    return Case(request.param) if isinstance(request.param, str) else request.param


@pytest.fixture(params=[case for case in CASES if case.ours], ids=lambda case: case.name)
def own(request: pytest.FixtureRequest) -> Case:
    """Each adapter of our own tuners in turn."""
    return request.param


@pytest.fixture
def quiet() -> Callable[[], AbstractContextManager[None]]:
    """`quiet_peft`, for a test that calls peft itself."""
    return quiet_peft


@pytest.fixture
def cases() -> list[Case]:
    """All of them."""
    return CASES
