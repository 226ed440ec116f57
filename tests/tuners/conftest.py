"""Every tuner that the contract tests run over, on one small encoder."""

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import (
    BeftConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    RoadConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from torch import Tensor, nn

from peterrec.data.vocabulary import TCL
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.tuners import PatchConfig, StarConfig

CONV = ["conv.linear"]
FEATURES = "FEATURE_EXTRACTION"
TCL_ROW = {"embed_tokens": [TCL]}

# Adding a tuner to the contract is one line here; what it cannot do by nature goes into contract/conftest.py.
# Names of our own begin with patch or star.
TUNERS: dict[str, Callable[[], PeftConfig]] = {
    "patch_serial_conv": lambda: PatchConfig(placement="serial_conv", bottleneck=2),
    "patch_serial_block": lambda: PatchConfig(placement="serial_block", bottleneck=2),
    "patch_parallel_conv": lambda: PatchConfig(placement="parallel_conv", bottleneck=2, activation="gelu"),
    "patch_parallel_unit": lambda: PatchConfig(placement="parallel_unit", bottleneck=2),
    "patch_norms": lambda: PatchConfig(bottleneck=2, train_norms=True),
    "patch_block_norms": lambda: PatchConfig(placement="serial_block", bottleneck=2, train_norms=True),
    "patch_top_tcl": lambda: PatchConfig(bottleneck=2, layers_to_transform=[1], trainable_token_indices=TCL_ROW),
    "star_full": lambda: StarConfig(num_domains=3, form="full"),
    "star_low_rank": lambda: StarConfig(num_domains=3, form="low_rank", rank=2),
    "star_per_channel": lambda: StarConfig(num_domains=3, form="per_channel"),
    "star_norms": lambda: StarConfig(num_domains=3, form="per_channel", norms=True),
    "star_one": lambda: StarConfig(num_domains=1, form="full", norms=True),
    "star_one_low_rank": lambda: StarConfig(num_domains=1, form="low_rank", rank=2),
    "lora": lambda: LoraConfig(r=2, target_modules=CONV, task_type=FEATURES),
    "dora": lambda: LoraConfig(r=2, target_modules=CONV, use_dora=True, task_type=FEATURES),
    "rslora": lambda: LoraConfig(r=4, target_modules=CONV, use_rslora=True, task_type=FEATURES),
    "lora_tcl": lambda: LoraConfig(r=2, target_modules=CONV, trainable_token_indices=TCL_ROW, task_type=FEATURES),
    "lora_items": lambda: LoraConfig(r=2, target_modules=["embed_tokens"], task_type=FEATURES),
    "ia3": lambda: IA3Config(target_modules=CONV, feedforward_modules=[], task_type=FEATURES),
    "ln_norms": lambda: LNTuningConfig(target_modules=["norm"], task_type=FEATURES),
    "ln_block": lambda: LNTuningConfig(target_modules=["blocks.1"], task_type=FEATURES),
    "ln_block_leaves": lambda: LNTuningConfig(target_modules=r"(.*\.)?blocks\.1\..*(linear|norm)", task_type=FEATURES),
    "beft": lambda: BeftConfig(target_modules=CONV, task_type=FEATURES),
    "tokens": lambda: TrainableTokensConfig(token_indices=[TCL], target_modules=["embed_tokens"], task_type=FEATURES),
    "loha": lambda: LoHaConfig(r=2, target_modules=CONV, task_type=FEATURES),
    "oft": lambda: OFTConfig(r=0, oft_block_size=4, target_modules=CONV, task_type=FEATURES),
    "vera": lambda: VeraConfig(r=2, target_modules=CONV, task_type=FEATURES),
    "hra": lambda: HRAConfig(r=2, target_modules=CONV, task_type=FEATURES),
    "miss": lambda: MissConfig(r=2, target_modules=CONV, task_type=FEATURES),
    "road": lambda: RoadConfig(variant="road_1", group_size=4, target_modules=CONV, task_type=FEATURES),
}


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Lets pass what peft says of layers that it tunes by copying them whole, and nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type '.*' encountered, proceed at your own risk")
        yield


@dataclass(frozen=True)
class Case:
    """One tuner on the small encoder: 8 channels, four convolutions."""

    name: str

    @property
    def ours(self) -> bool:
        return self.name.startswith(("patch", "star"))

    @property
    def domains(self) -> int:
        return getattr(self.config(), "num_domains", 0)

    def config(self) -> PeftConfig:
        return TUNERS[self.name]()

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

    def encoder(self, block: str = "plain", *, causal: bool = True, vocab: int = 53) -> NextItNet:
        """The same weights at every call, norms and biases away from their trivial start."""
        shape = NextItNetConfig(vocab_size=vocab, hidden_size=8, dilations=(1, 2, 4, 8), block=block, causal=causal)
        encoder = NextItNet(shape).eval()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                centre = 1.0 if name.endswith("norm.weight") else 0.0
                parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
        return encoder

    def task(self) -> TaskModel:
        """A task model of three classes, its encoder frozen."""
        torch.manual_seed(13)
        model = TaskModel(self.encoder(), ClassificationHead(8, 3), readout="mean")
        model.freeze_encoder()
        return model.eval()

    def wrap(self, model: nn.Module, *, name: str = "first", config: PeftConfig | None = None) -> PeftModel:
        torch.manual_seed(3)
        with quiet_peft():
            return get_peft_model(model, config or self.config(), adapter_name=name).eval()

    def add(self, model: PeftModel, name: str) -> None:
        torch.manual_seed(4)
        with quiet_peft():
            model.add_adapter(name, self.config())

    def hidden(self, model: nn.Module, ids: Tensor, *, domain_ids: Tensor | None = None, names=None) -> Tensor:
        """Hidden states `(B, L, D)`, zero at padding; row r belongs to domain `domain_ids[r]`."""
        domains = self.domain_ids(len(ids)) if domain_ids is None else domain_ids
        if names is None:
            return model(input_ids=ids, domain_ids=domains).last_hidden_state
        return model(input_ids=ids, domain_ids=domains, adapter_names=names).last_hidden_state

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
                loss = self.loss(self.hidden(model, ids), seed=seed)
            else:
                loss = model(input_ids=ids, labels=labels, domain_ids=self.domain_ids(len(ids))).loss
            loss.backward()
            optimiser.step()
        model.eval()

    def read_only(self, block: str = "plain", *, causal: bool = True) -> PeftModel:
        """The model with the trained adapter `first` that all tests share: look, but do not change."""
        return _trained(self, block, causal)

    def trained(self, block: str = "plain", *, causal: bool = True) -> PeftModel:
        """A model with the trained adapter `first`, for the caller alone."""
        return deepcopy(_trained(self, block, causal))

    def two(self) -> PeftModel:
        """A model with the trained adapters `first`, which is active, and `second`."""
        return deepcopy(_two(self))

    def save(self, model: PeftModel, folder: Path) -> None:
        # left to itself, peft saves the whole item table beside an adapter on it
        model.save_pretrained(folder, save_embedding_layers=False)

    def load(
        self,
        folder: Path,
        model: nn.Module | None = None,
        *,
        low_cpu_mem_usage: bool = False,
        trains: bool = True,
    ) -> PeftModel:
        """`trains`: torch folds a matrix product another way, a last bit apart, where nothing needs a gradient."""
        with quiet_peft():
            return PeftModel.from_pretrained(
                self.encoder() if model is None else model,  # type: ignore[arg-type]
                folder / "first",
                adapter_name="first",
                is_trainable=trains,
                low_cpu_mem_usage=low_cpu_mem_usage,
            ).eval()


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
    model.set_adapter("first")
    return model


@pytest.fixture(params=TUNERS)
def case(request: pytest.FixtureRequest) -> Case:
    """Each tuner in turn."""
    return Case(request.param)


@pytest.fixture(params=[name for name in TUNERS if name.startswith(("patch", "star"))])
def own(request: pytest.FixtureRequest) -> Case:
    """Each tuner of our own in turn."""
    return Case(request.param)


@pytest.fixture
def quiet() -> Callable[[], AbstractContextManager[None]]:
    """`quiet_peft`, for a test that calls peft itself."""
    return quiet_peft


@pytest.fixture
def tuners() -> dict[str, Callable[[], PeftConfig]]:
    """The whole table."""
    return TUNERS
