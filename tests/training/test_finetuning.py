"""What is computed once in fine-tuning changes nothing: the same losses, gradients, weights and figures as without."""

import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.training import finetuning
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers, predict
from peterrec.training.loop import train
from peterrec.training.progress import Progress
from peterrec.training.standing_states import StandingStates
from peterrec.training.tracking import Tracker
from peterrec.tuners import PatchConfig

CPU = torch.device("cpu")
USERS, ITEMS, LENGTH = 40, 30, 24


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    random = np.random.default_rng(0)
    lengths = random.integers(0, 40, USERS)
    lengths[:3] = 0, 1, 39
    folder = tmp_path_factory.mktemp("part") / "histories"
    with SequenceWriter(folder) as writer:
        flat = random.integers(3, 3 + ITEMS, lengths.sum()).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(USERS)]), flat, lengths)
    return Sequences(folder)


def make(tuner: str, *, readout: str, causal: bool = True, dropout: float = 0.3) -> TaskModel:
    """Four blocks; the tuner sits in the top two (`head`: nowhere, `full`: everything trains)."""
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=3 + ITEMS,
        hidden_size=8,
        dilations=(1, 2, 1, 2, 1, 1, 1, 2),
        causal=causal,
        dropout=dropout,
        initializer_range=0.5,
    )
    encoder = NextItNet(config).double()
    model = TaskModel(encoder, ClassificationHead(8, 3).double(), readout=readout)
    if tuner == "full":
        return model
    model.freeze_encoder()
    top = [2, 3]
    if tuner == "patch":
        model.encoder = get_peft_model(encoder, PatchConfig(bottleneck=2, dropout=0.2, layers_to_transform=top))
    elif tuner == "lora":
        wrapped = [f"blocks.{block}.unit{unit}.conv.linear" for block in top for unit in (1, 2)]
        model.encoder = get_peft_model(encoder, LoraConfig(r=2, target_modules=wrapped, lora_dropout=0.2))
    elif tuner == "blocks_by_peft":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unsupported layer type")  # peft copies the blocks whole
            model.encoder = get_peft_model(encoder, LNTuningConfig(target_modules=["blocks.2", "blocks.3"]))
    elif tuner == "blocks":
        for block in top:
            encoder.blocks[block].requires_grad_(True)
    return model.double()


def program(model: TaskModel, histories: Sequences, *, note=None, **changes) -> ClassificationProgram:
    labels = np.arange(USERS) % 3
    learn, watch = np.arange(0, USERS, 2), np.arange(1, USERS, 2)
    return ClassificationProgram(
        model,
        histories=histories,
        train=LabelledUsers(learn, labels[learn]),
        validation=LabelledUsers(watch, labels[watch]),
        metric="accuracy",
        max_length=LENGTH,
        settings=FinetuningSettings.model_validate(
            {
                "users": 6,
                "epochs": 3,
                "warmup": 2,
                "learning_rate": 0.02,
                "device": "cpu",
                "precision": "fp32",
                **changes,
            }
        ),
        note=note,
    )


def trained(model: TaskModel, histories: Sequences, **changes):
    made = program(model, histories, **changes)
    result = train(made, made._settings, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))
    state = dict(model.state_dict())
    figures = [(record["loss"], record["validation"]) for record in result.history]
    return state, figures, predict(model, histories, max_length=LENGTH, device=CPU)


def assert_equal_runs(one, other):
    for name, tensor in one[0].items():
        torch.testing.assert_close(other[0][name], tensor, atol=1e-9, rtol=0, msg=name)
    for (loss, found), (wanted_loss, wanted) in zip(one[1], other[1], strict=True):
        assert loss == pytest.approx(wanted_loss, abs=1e-9)
        assert found == pytest.approx(wanted, abs=1e-9)
    np.testing.assert_allclose(one[2], other[2], atol=1e-9)


@pytest.mark.parametrize("readout", ["mean", "last", "tcl"])
@pytest.mark.parametrize("tuner", ["patch", "lora", "blocks_by_peft", "blocks"])
def test_training_on_states_computed_once_ends_the_same(tuner, readout, histories):
    notes = []
    kept = trained(make(tuner, readout=readout), histories, note=notes.append)
    again = trained(make(tuner, readout=readout), histories, note=notes.append, cache_mb=0)
    assert "2 of 4 blocks" in notes[0]
    assert "computed once" in notes[0]
    assert "2 of 4 blocks" in notes[1]
    assert "cache_mb = 0" in notes[1]
    assert_equal_runs(kept, again)
    start = make(tuner, readout=readout).state_dict()
    moved = [name for name, tensor in kept[0].items() if not torch.equal(tensor, start[name])]
    assert moved
    assert not any(f"blocks.{block}." in name for name in moved for block in (0, 1))


def test_a_two_sided_encoder_keeps_whole_histories(histories):
    for readout in ("mean", "last"):
        kept = trained(make("patch", readout=readout, causal=False), histories)
        again = trained(make("patch", readout=readout, causal=False), histories, cache_mb=0)
        assert_equal_runs(kept, again)


@pytest.mark.parametrize("readout", ["mean", "last", "tcl"])
def test_training_on_user_vectors_computed_once_ends_the_same(readout, histories, monkeypatch):
    notes = []
    kept = trained(make("head", readout=readout), histories, note=notes.append)
    assert notes == ["Nothing in the encoder trains: user vectors are computed once."]
    again = make("head", readout=readout)
    made = program(again, histories)
    made.keeps_vectors = False
    monkeypatch.setitem(globals(), "program", lambda *_, **__: made)
    assert_equal_runs(kept, trained(again, histories))


@pytest.mark.parametrize("readout", ["mean", "last"])
def test_loss_and_gradients_of_a_step_are_the_uncached_ones(readout, histories):
    gradients = []
    for cache in (64, 0):
        model = make("patch", readout=readout)
        for name, p in model.named_parameters():
            if p.requires_grad:
                torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(len(name)))
        made = program(model.eval(), histories, cache_mb=cache)
        loss, users = made.loss(made.steps(1)[1], CPU)
        loss.backward()
        assert users == 6
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None} | {"loss": loss})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-12, rtol=1e-10, msg=name)


def test_the_blocks_that_stand_run_once_a_user(histories, monkeypatch):
    monkeypatch.setattr(finetuning, "POSITIONS", {"cpu": 10**6})
    model = make("patch", readout="mean")
    made = program(model, histories)
    base = model.base_encoder
    rows = [0] * 4
    for number, block in enumerate(base.blocks):
        block.register_forward_hook(lambda _, args, out, n=number: rows.__setitem__(n, rows[n] + len(out)))
    train(made, made._settings, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))
    assert rows[:2] == [USERS] * 2, "training and validation users, once"
    assert rows[2:] == [3 * USERS] * 2, "in every epoch"


def test_full_fine_tuning_and_dropout_below_keep_nothing(histories):
    notes = []
    made = program(make("full", readout="mean"), histories, note=notes.append)
    assert not made.keeps_states
    assert not made.keeps_vectors
    assert "lowest block" in notes[0]
    encoder = NextItNet(NextItNetConfig(vocab_size=3 + ITEMS, hidden_size=8, dilations=(1, 2, 1, 2), dropout=0.3))
    model = TaskModel(encoder, ClassificationHead(8, 3), readout="mean")
    encoder.requires_grad_(False)  # but not made quiet: its dropout is on in training
    encoder.blocks[1].requires_grad_(True)
    assert model.standing_blocks == 0


@pytest.mark.parametrize("readout", ["mean", "last", "tcl"])
def test_the_cap_counts_the_positions_that_are_kept(readout, histories):
    model = make("patch", readout=readout)
    made = program(model, histories)
    reach = 1 + 2 * (1 + 1 + 1 + 2)
    lengths = np.minimum(histories.lengths, LENGTH) + (readout == "tcl")
    if readout != "mean":
        lengths = np.minimum(lengths, reach)
    assert made.states_bytes == lengths.sum() * 8 * 8
    kept = StandingStates(model, histories, rows=np.arange(USERS), max_length=LENGTH, blocks=2, device=CPU)
    assert kept._flat.numel() * 8 == made.states_bytes
    assert kept.lengths.tolist() == lengths.tolist()
