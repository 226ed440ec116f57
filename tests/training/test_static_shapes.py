"""Pretraining with batches of few shapes: the same windows, losses and gradients as with free ones."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.shapes import RUNGS
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.training.pretraining import ObjectiveSettings, PretrainingProgram, PretrainingSettings
from peterrec.training.step import Step

CPU = torch.device("cpu")
USERS, ITEMS, LENGTH = 300, 40, 30
MASKED = {"next_item": 0.0, "masked_item": 1.0}


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(2.5, 1.0, USERS), 0, 90).astype(np.int64)
    folder = tmp_path_factory.mktemp("part") / "histories"
    with SequenceWriter(folder, targets=True) as writer:
        flat = random.integers(3, 3 + ITEMS, lengths.sum()).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(USERS)]), flat, lengths, np.full(USERS, 3, dtype=np.int32))
    return Sequences(folder)


def program(histories, *, tcl_rate=0.1, block="plain", causal=True, objective=None, **changes):
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=3 + ITEMS,
        hidden_size=8,
        dilations=(1, 2, 1, 4),
        block=block,
        causal=causal,
        max_length=LENGTH,
        initializer_range=0.3,
    )
    return PretrainingProgram(
        NextItNet(config).double(),
        train=histories,
        validation=histories,
        objective=ObjectiveSettings(tcl_rate=tcl_rate, **{} if causal else MASKED, **objective or {}),
        settings=PretrainingSettings(device="cpu", positions=200, **changes),
    )


def loss_and_gradients(program, step, *, parts=1):
    """As the loop adds them up over the pieces of all processes."""
    program.model.zero_grad()
    total, weight = 0.0, program.weight(step)
    for part in range(parts):
        for piece in program.pieces(step, part=part, parts=parts):
            mean, own = program.loss(piece, CPU)
            (mean * (own / weight)).backward()
            total += mean.item() * own / weight
    return total, {name: p.grad.clone() for name, p in program.model.named_parameters()}


def pairs(steps):
    return sorted(
        (int(row), event)
        for step in steps
        for row, start, stop in zip(step.row, step.start, step.stop, strict=True)
        for event in range(start, stop - 1)
    )


def test_an_epoch_has_few_shapes_and_every_pair_once(histories):
    free, static = program(histories), program(histories, static_shapes=True)
    shapes = set()
    for epoch in (1, 2):
        steps = static.steps(epoch)
        assert pairs(steps) == pairs(free.steps(epoch))
        for step in steps:
            for piece in static.pieces(step, part=0, parts=1):
                batch = static.batch(piece)
                shapes.add((tuple(batch.inputs.shape), len(batch.targets)))
    positions = {shape for shape, _ in shapes}
    assert 1 < len(positions) <= RUNGS
    assert (
        len({tuple(free.batch(p).inputs.shape) for s in free.steps(1) for p in free.pieces(s, part=0, parts=1)}) > RUNGS
    )
    assert len(shapes) == len(positions)  # the number of targets is a matter of the shape


def test_compiling_asks_for_few_shapes_unless_told_otherwise():
    assert PretrainingSettings(compile=True).few_shapes
    assert PretrainingSettings(static_shapes=True).few_shapes
    assert not PretrainingSettings().few_shapes
    assert not PretrainingSettings(compile=True, static_shapes=False).few_shapes


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tcl_rate", [0.0, 0.5])
def test_loss_and_gradients_are_those_of_free_shapes(histories, block, causal, tcl_rate):
    options = {"block": block, "causal": causal, "tcl_rate": tcl_rate}
    static, free = program(histories, static_shapes=True, **options), program(histories, **options)
    steps = static.steps(1)
    unfilled = [step for step in steps if len(step.row) < step.shape.users]
    assert len(unfilled) == 1
    for step in [*steps[:3], *unfilled]:
        same = Step(step.epoch, step.number, step.row, step.start, step.stop)
        assert static.num_targets(step) == free.num_targets(same)
        loss, gradients = loss_and_gradients(static, step)
        wanted, wanted_gradients = loss_and_gradients(free, same)
        assert loss == pytest.approx(wanted, rel=1e-10)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("micro_batch", [0, 40])
def test_processes_and_pieces_do_not_change_a_step(histories, parts, micro_batch):
    whole, cut = program(histories, static_shapes=True), program(histories, static_shapes=True, micro_batch=micro_batch)
    steps = whole.steps(1)
    shapes = set()
    for step in [*steps[:2], next(step for step in steps if len(step.row) < step.shape.users)]:
        loss, gradients = loss_and_gradients(cut, step, parts=parts)
        wanted, wanted_gradients = loss_and_gradients(whole, step)
        assert loss == pytest.approx(wanted, rel=1e-10)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, wanted_gradients[name], rtol=1e-8, atol=1e-11)
        pieces = [piece for part in range(parts) for piece in cut.pieces(step, part=part, parts=parts)]
        assert sum(len(piece.row) for piece in pieces) == len(step.row)
        shapes |= {(step.shape, tuple(cut.batch(piece).inputs.shape)) for piece in pieces}
    assert len(shapes) == len({shape for shape, _ in shapes})  # one for all pieces of a shape


def test_windows_that_epoch_0_does_not_cut_are_trained_too(tmp_path):
    """Of one long history each epoch cuts other windows: those of epoch 0 are none of them the longest there may be."""
    lengths = np.array([LENGTH + 4] + [9] * 60)
    with SequenceWriter(tmp_path / "histories", targets=True) as writer:
        flat = np.random.default_rng(0).integers(3, 3 + ITEMS, lengths.sum()).astype(np.int32)
        names = pa.array([f"u{i}" for i in range(len(lengths))])
        writer.write(names, flat, lengths, np.full(len(lengths), 3, dtype=np.int32))
    short_at_first = 0
    for seed in range(12):
        made = program(Sequences(tmp_path / "histories"), tcl_rate=0.0, static_shapes=True, seed=seed)
        short_at_first += made._windows.windows(0).lengths.max() <= LENGTH
        found = [sum(made.num_targets(step) for step in made.steps(epoch)) for epoch in range(20)]
        assert found == [int((lengths - 1).sum())] * 20
    assert short_at_first  # or the case does not come up
