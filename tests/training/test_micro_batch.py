"""A batch in pieces: the same losses, gradients and weights as in one, and pieces that fit a processor's cache."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.training.finetuning import ClassificationProgram, FinetuningSettings, LabelledUsers
from peterrec.training.loop import train
from peterrec.training.micro_batch import CACHE_BYTES, micro_batch
from peterrec.training.pretraining import ObjectiveSettings, PretrainingProgram, PretrainingSettings
from peterrec.training.program import Program
from peterrec.training.progress import Progress
from peterrec.training.settings import TrainingSettings
from peterrec.training.tracking import Tracker

CPU = torch.device("cpu")
USERS, ITEMS, LENGTH = 60, 30, 24
SHARED = {"epochs": 2, "warmup": 3, "learning_rate": 0.02, "device": "cpu", "precision": "fp32"}
CUTS = [(1, 0), (1, 40), (1, 1), (2, 40), (3, 100), (70, 0)]  # processes, positions of a piece


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    random = np.random.default_rng(0)
    found = {}
    for name in ("train", "validation"):
        lengths = random.integers(2, 40, USERS)
        folder = tmp_path_factory.mktemp("parts") / name
        with SequenceWriter(folder, targets=name == "validation") as writer:
            flat = random.integers(3, 3 + ITEMS, lengths.sum()).astype(np.int32)
            users = pa.array([f"u{i}" for i in range(USERS)])
            if name == "train":
                writer.write(users, flat, lengths)
            else:
                writer.write(users, flat, lengths, random.integers(3, 3 + ITEMS, USERS).astype(np.int32))
        found[name] = Sequences(folder)
    return found


def encoder() -> NextItNet:
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=3 + ITEMS, hidden_size=8, dilations=(1, 2), max_length=LENGTH, dropout=0.0, initializer_range=0.5
    )
    return NextItNet(config).double()


def pretraining(parts, **changes) -> PretrainingProgram:
    return PretrainingProgram(
        encoder(),
        train=parts["train"],
        validation=parts["validation"],
        objective=ObjectiveSettings(tcl_rate=0.4),
        settings=PretrainingSettings.model_validate({"positions": 400, **SHARED, **changes}),
    )


def finetuning(parts, *, weights: bool = True, **changes) -> ClassificationProgram:
    class_weights = torch.tensor([0.2, 1.0, 4.0], dtype=torch.float64) if weights else None
    labels = np.arange(USERS) % 3
    learn, watch = np.arange(0, USERS, 2), np.arange(1, USERS, 2)
    return ClassificationProgram(
        TaskModel(encoder(), ClassificationHead(8, 3).double(), readout="mean", class_weights=class_weights),
        histories=parts["train"],
        train=LabelledUsers(learn, labels[learn]),
        validation=LabelledUsers(watch, labels[watch]),
        metric="accuracy",
        max_length=LENGTH,
        settings=FinetuningSettings.model_validate({"users": 13, **SHARED, **changes}),
    )


def summed(program: Program, step, *, parts: int) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss and gradients of a step as the loop adds them up, and how many pieces there were."""
    program.model.train().zero_grad()
    total, weights, count = 0.0, 0.0, 0
    for part in range(parts):
        for piece in program.pieces(step, part=part, parts=parts):
            mean, own = program.loss(piece, CPU)
            (mean * own / program.weight(step)).backward()
            total += mean.item() * own / program.weight(step)
            weights, count = weights + own, count + 1
    assert weights == pytest.approx(program.weight(step))
    gradients = {n: p.grad.clone() for n, p in program.model.named_parameters() if p.grad is not None}
    return total, gradients, count


@pytest.mark.parametrize(("processes", "positions"), CUTS[1:])
@pytest.mark.parametrize("stage", [pretraining, finetuning])
def test_loss_and_gradients_do_not_depend_on_the_cut(stage, processes, positions, parts) -> None:
    whole, pieces = stage(parts, micro_batch=10**9), stage(parts, micro_batch=positions)
    counts = []
    for step in whole.steps(1)[:3]:
        loss, gradients, one = summed(whole, step, parts=1)
        found, found_gradients, count = summed(pieces, step, parts=processes)
        assert one == 1
        counts.append(count)
        assert found == pytest.approx(loss, rel=1e-12)
        assert found_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(found_gradients[name], gradient, atol=1e-12, rtol=1e-9, msg=name)
    assert max(counts) > 1


def test_targets_are_counted_before_they_are_computed(parts) -> None:
    program = pretraining(parts, micro_batch=50)
    for step in program.steps(2):
        found = sum(program.loss(piece, CPU)[1] for piece in program.pieces(step, part=0, parts=1))
        assert found == program.num_targets(step) == program.weight(step)


def test_class_weights_make_the_mean_a_weighted_one(parts) -> None:
    weighted, plain = finetuning(parts), finetuning(parts, weights=False)
    step = weighted.steps(1)[0]
    labels = weighted._train.labels[step]
    assert weighted.weight(step) == pytest.approx(np.array([0.2, 1.0, 4.0])[labels].sum())
    assert plain.weight(step) == plain.num_targets(step) == len(step)
    assert summed(weighted, step, parts=1)[0] != pytest.approx(summed(plain, step, parts=1)[0])


@pytest.mark.parametrize("stage", [pretraining, finetuning])
def test_a_training_in_pieces_ends_as_one_without(stage, parts) -> None:
    runs = []
    for positions in (10**9, 100):
        program = stage(parts, micro_batch=positions)
        result = train(program, program._settings, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))
        runs.append((result, program.model.state_dict()))
    (one, weights), (other, other_weights) = runs
    for ours, theirs in zip(one.history, other.history, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6)  # added up in single precision
        assert theirs["validation"] == pytest.approx(ours["validation"], rel=1e-9)
    for name, tensor in weights.items():
        torch.testing.assert_close(other_weights[name], tensor, atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize("positions", [30, 100])
def test_no_piece_is_larger_than_asked(positions, parts) -> None:
    program = pretraining(parts, micro_batch=positions)
    for step in program.steps(1):
        for piece in program.pieces(step, part=1, parts=2):
            lengths = piece.stop - piece.start - 1 + (piece.cuts > 0)
            assert len(lengths) == 1 or len(lengths) * lengths.max() <= positions


def test_a_piece_fills_the_cache_and_no_more() -> None:
    settings = TrainingSettings()
    for width in (8, 64, 128):
        model = NextItNet(NextItNetConfig(vocab_size=9, hidden_size=width, dilations=(1, 1)))
        found = micro_batch(model, settings)
        assert found == CACHE_BYTES // (4 * width)
        assert micro_batch(model.double(), settings) == found // 2
        assert micro_batch(model, TrainingSettings(micro_batch=77)) == 77


def test_batch_norms_and_devices_without_such_a_cache_get_whole_batches() -> None:
    model = NextItNet(NextItNetConfig(vocab_size=9, hidden_size=8, dilations=(1, 1)))
    assert micro_batch(model.to("meta"), TrainingSettings()) is None
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert micro_batch(normed, TrainingSettings(micro_batch=7)) is None
