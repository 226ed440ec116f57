"""A step never waits for the device: it runs on `meta` tensors, which have no values, so that reading one raises."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.grec import GRec
from peterrec.encoders.grec_config import GRecConfig
from peterrec.encoders.readout import Readout
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.training import view_encoding
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers
from peterrec.training.optimizer import NotFiniteError, Updater
from peterrec.training.pretraining import ObjectiveSettings, PretrainingProgram, PretrainingSettings
from peterrec.tuners import PatchConfig

CPU = torch.device("cpu")
META = torch.device("meta")
USERS, ITEMS = 30, 40


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    random = np.random.default_rng(0)
    lengths = random.integers(2, 20, USERS)
    folder = tmp_path_factory.mktemp("part") / "histories"
    with SequenceWriter(folder, targets=True) as writer:
        flat = random.integers(3, 3 + ITEMS, lengths.sum()).astype(np.int32)
        targets = random.integers(3, 3 + ITEMS, USERS).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(USERS)]), flat, lengths, targets)
    return Sequences(folder)


class PlainAdamW(torch.optim.AdamW):
    """AdamW where no fused kernel stands for it: it knows no flag, which is the fused one's (tested below)."""

    def __init__(self, groups, *, fused, **options):
        super().__init__(groups, foreach=True, **options)

    def step(self, closure=None):
        assert self.found_inf.device == META
        del self.found_inf
        return super().step(closure)


@pytest.fixture
def meta(monkeypatch):
    """`meta` stands in for CUDA: autocast and fused AdamW, which do not know it, are told so."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": device != "meta" and enabled(device))
    monkeypatch.setattr(torch.optim, "AdamW", PlainAdamW)


def encoder(**changes):
    shape = {"vocab_size": 3 + ITEMS, "hidden_size": 8, "dilations": (1, 2, 1, 4), "dropout": 0.2, "max_length": 12}
    return NextItNet(NextItNetConfig(**shape | changes)).train()


def updater_of(model, *, settings, deferred, device=CPU):
    """An updater that, deferred, does on `device` what it does on CUDA."""
    accelerator = SimpleNamespace(device=device, backward=lambda loss: loss.backward())
    updater = Updater(model, settings=settings, accelerator=accelerator)
    if deferred:
        updater._deferred = True
        updater._bad_step = torch.full((), -1, device=device, dtype=torch.int64)
    return updater


def make_steps(program, *, settings, steps=2):
    """What the loop does of a step, on a device of which nothing can be read; what has learnt then has a state."""
    model = program.model.to(META).train()
    updater = updater_of(model, settings=settings, device=META, deferred=True)
    pieces = 0
    for number, step in enumerate(program.steps(1)[:steps]):
        loss, weight = torch.zeros((), device=META), program.weight(step)
        assert program.num_targets(step) > 0
        for piece in program.pieces(step, part=0, parts=1):
            mean, own = program.loss(piece, META)
            assert mean.device == META
            assert mean.dtype == torch.float32
            updater.add(mean * (own / weight))
            loss += (mean * (own / weight)).detach()
            pieces += 1
        updater.update(loss, step=number, rate=1e-3)
    assert pieces
    return updater


def pretraining(histories, encoder, *, objective=None, **changes):
    settings = PretrainingSettings(positions=60, device="cpu", **changes)
    program = PretrainingProgram(
        encoder,
        train=histories,
        validation=histories,
        objective=ObjectiveSettings(tcl_rate=0.5, **objective or {}),
        settings=settings,
    )
    return program, settings


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.usefixtures("meta")
def test_a_step_of_pretraining(histories, static, block, causal, fused):
    model = encoder(block=block, causal=causal)
    for each in model.blocks:
        each.fused = fused
    objective = None if causal else {"next_item": 0.0, "masked_item": 1.0}
    program, settings = pretraining(histories, model, objective=objective, static_shapes=static, micro_batch=30)
    updater = make_steps(program, settings=settings)
    assert set(updater.parameters) == {path.rpartition("/")[0] for path in updater.state()}  # all got gradients


@pytest.mark.parametrize("update", ["dense", "lazy_adam", "rowwise_adagrad"])
@pytest.mark.parametrize("sampler", ["log_uniform", "popularity", "in_batch"])
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.usefixtures("meta")
def test_a_step_of_pretraining_with_a_sampled_softmax(histories, update, sampler, static):
    objective = {"softmax": "sampled", "sampler": sampler, "negatives": 8}
    program, settings = pretraining(
        histories, encoder(tie_output=False), objective=objective, table_update=update, static_shapes=static
    )
    updater = make_steps(program, settings=settings)
    assert bool(updater.tables) == (update != "dense")


@pytest.mark.parametrize("table", ["own", "tied"])
@pytest.mark.parametrize("softmax", ["exact", "sampled"])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.usefixtures("meta")
def test_a_step_of_several_objectives(histories, table, softmax, again, monkeypatch):
    monkeypatch.setattr(view_encoding, "KEPT_BYTES", {"cpu": 0 if again else 2**30})
    objective = {"contrast": 1.0, "bag": 1.0, "bag_table": table, "softmax": softmax, "negatives": 8, "group_users": 6}
    program, settings = pretraining(histories, encoder(), objective=objective | {"next_steps": 2, "user_passes": 9.0})
    updater = make_steps(program, settings=settings)
    assert set(updater.parameters) == {path.rpartition("/")[0] for path in updater.state()}
    assert program.take_losses().device == META


@pytest.mark.usefixtures("meta")
def test_a_step_of_gap_filling(histories):
    shape = {"vocab_size": 3 + ITEMS, "hidden_size": 8, "max_length": 12}
    model = GRec(GRecConfig(encoder_dilations=(1, 2), decoder_dilations=(1, 2), **shape)).train()
    program, settings = pretraining(histories, model, objective={"next_item": 0.0, "gap_filling": 1.0})
    updater = make_steps(program, settings=settings)
    assert set(updater.parameters) == {path.rpartition("/")[0] for path in updater.state()}


@pytest.mark.parametrize("readout", ["last", "mean", "tcl"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("meta")
def test_a_step_of_fine_tuning(histories, readout, weighted):
    make_fine_tuning_steps(histories, encoder(), readout=readout, weighted=weighted)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("readout", ["attention", "first_last", "mean"])
@pytest.mark.usefixtures("meta")
def test_a_step_of_fine_tuning_a_readout(histories, readout, window):
    base = encoder()
    reader = Readout(
        readout,
        channels=8,
        depth=len(base.blocks),
        layers=(0, -1),
        item_weights=readout == "attention",
        vocab_size=3 + ITEMS,
    )
    make_fine_tuning_steps(histories, base, readout=reader, window=window)


@pytest.mark.parametrize(
    "tuner",
    [
        PatchConfig(bottleneck=2, dropout=0.2),
        PatchConfig(bottleneck=2, placement="parallel_conv"),
        LoraConfig(r=2, target_modules=r".*conv\.linear", lora_dropout=0.2),
    ],
    ids=["serial", "parallel", "lora"],
)
@pytest.mark.usefixtures("meta")
def test_a_step_of_fine_tuning_an_adapter(histories, tuner):
    make_fine_tuning_steps(histories, encoder(), tuner=tuner)


def make_fine_tuning_steps(histories, base, *, readout="last", window=None, weighted=False, tuner=None):
    labels = np.arange(USERS) % 3
    learn, watch = np.arange(0, USERS, 2), np.arange(1, USERS, 2)
    settings = FinetuningSettings(users=8, cache_mb=0, device="cpu")
    weights = torch.tensor([1.0, 2.0, 3.0]) if weighted else None
    model = TaskModel(base, ClassificationHead(8, 3), readout=readout, window=window, class_weights=weights)
    if tuner is not None:
        model.freeze_encoder()
        model.encoder = get_peft_model(base, tuner)
    program = ClassificationProgram(
        model,
        histories=histories,
        train=LabelledUsers(learn, labels[learn]),
        validation=LabelledUsers(watch, labels[watch]),
        metric="accuracy",
        max_length=12,
        settings=settings,
    )
    for step in program.steps(1):
        program.weight(step)  # class weights are read once, before the training
    make_steps(program, settings=settings)


READING = {"item", "_local_scalar_dense", "is_nonzero", "equal"}
COUNTING = {
    "nonzero",
    "masked_select",
    "unique_consecutive",
    "_unique",
    "_unique2",
    "unique_dim",
    "_coalesce",
    "bincount",
}


class NoWaiting(TorchDispatchMode):
    """Raises at what would wait for a device: reading a value, or a size that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        assert name not in READING | COUNTING, f"{name} would wait for the device"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            kinds = [index.dtype for index in args[1] if index is not None]
            assert torch.bool not in kinds, f"{name} with a mask would wait for the device"
        return func(*args, **kwargs or {})


def test_the_guard_itself_sees_what_waits():
    values = torch.arange(4.0)
    for wait in (
        values[0].item,
        lambda: bool(values.sum() > 0),
        lambda: values[values > 1],
        lambda: values.nonzero(),
        lambda: torch.unique(values),
    ):
        with pytest.raises(AssertionError, match="would wait"), NoWaiting():
            wait()


def test_a_deferred_update_reads_nothing_and_equals_one_that_does():
    settings = PretrainingSettings(
        clip=0, device="cpu"
    )  # on the CPU, clipping may look whether there is anything to do
    models, losses = [], []
    for is_deferred in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        updater = updater_of(model, settings=settings, deferred=is_deferred)
        for step in range(5):
            loss = model(torch.full((3, 4), float(step))).square().mean()
            updater.add(loss)
            with NoWaiting() if is_deferred else nullcontext():
                updater.update(loss.detach(), step=step, rate=0.01)
            losses.append(loss.detach())
        updater.check()
        models.append(model)
    for ours, wanted in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, wanted)
    assert losses[-1] != losses[0]


def test_after_a_bad_step_nothing_moves_until_the_check_names_it():
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    updater = updater_of(model, settings=PretrainingSettings(device="cpu"), deferred=True)
    before = {}
    for step in range(4):
        loss = model(torch.ones(2, 4)).mean() * (float("nan") if step == 2 else 1.0)
        if step == 2:
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            before |= {name: value.clone() for name, value in updater.state().items()}
        updater.add(loss)
        updater.update(loss.detach(), step=step, rate=0.01)
    after = dict(model.named_parameters()) | updater.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(NotFiniteError) as problem:
        updater.check()
    assert problem.value.step == 2
