"""The sampled softmax in pretraining: what a step draws, how it is cut, which gradients it leaves."""

import numpy as np
import pytest
import torch

from peterrec.data.prepared import open_prepared
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.errors import SettingsError
from peterrec.training.pretraining import ObjectiveSettings, PretrainingProgram, PretrainingSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(prepared_folder):
    return open_prepared(prepared_folder)


def program(prepared, *, sampler="log_uniform", softmax="sampled", tie=True, **training):
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=len(prepared.vocabulary), hidden_size=8, dilations=(1, 2), max_length=20, tie_output=tie, dropout=0.0
    )
    return PretrainingProgram(
        NextItNet(config),
        train=prepared.sequences("train"),
        validation=prepared.sequences("validation"),
        objective=ObjectiveSettings(softmax=softmax, sampler=sampler, negatives=20, negative_sets=3),
        settings=PretrainingSettings(positions=1500, device="cpu", **training),
    )


def of_step(made, number=0, parts=1):
    """Loss and gradients of a step, added up over processes and pieces as the loop does."""
    step = made.steps(1)[number]
    made.model.zero_grad()
    total, targets, pieces = 0.0, 0, 0
    for part in range(parts):
        for piece in made.pieces(step, part=part, parts=parts):
            mean, own = made.loss(piece, CPU)
            (mean * (own / made.weight(step))).backward()
            total += mean.item() * own / made.weight(step)
            targets += own
            pieces += 1
    assert targets == made.num_targets(step)
    return total, {name: p.grad.to_dense().clone() for name, p in made.model.named_parameters()}, pieces


@pytest.mark.parametrize("sampler", ["log_uniform", "popularity", "in_batch"])
def test_a_step_is_the_same_however_it_is_cut(prepared, sampler):
    whole = of_step(program(prepared, sampler=sampler))
    assert whole[2] == 1
    for parts, micro_batch in ((1, 150), (3, 0), (2, 80)):
        cut = of_step(program(prepared, sampler=sampler, micro_batch=micro_batch), parts=parts)
        assert cut[2] > parts if micro_batch else cut[2] == parts
        assert cut[0] == pytest.approx(whole[0], rel=1e-5)
        for name, gradient in cut[1].items():
            torch.testing.assert_close(gradient, whole[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_negatives_change_from_step_to_step_and_epoch_to_epoch_and_only_so(prepared):
    made, again = program(prepared), program(prepared)

    def rows(made, epoch, number):
        pieces = made.pieces(made.steps(epoch)[number], part=0, parts=1)
        return tuple(tuple(drawn.rows.tolist()) for drawn in pieces[0].negatives.sets)

    assert rows(made, 1, 0) == rows(again, 1, 0)
    steps = [(epoch, number) for epoch in (1, 2) for number in range(len(made.steps(epoch)))]
    assert len({rows(made, *step) for step in steps}) == len(steps) > 30
    other = program(prepared, seed=1)
    assert rows(other, 1, 0) != rows(made, 1, 0)


@pytest.mark.parametrize("tie", [True, False])
def test_row_sparse_gradients_equal_dense_ones_and_touch_what_was_looked_up(prepared, tie):
    dense, sparse = program(prepared, tie=tie), program(prepared, tie=tie, table_update="lazy_adam")
    assert not dense.model.sparse_rows
    assert sparse.model.sparse_rows
    wanted, found = of_step(dense), of_step(sparse)
    assert found[0] == wanted[0]
    for name, gradient in found[1].items():
        torch.testing.assert_close(gradient, wanted[1][name], msg=name)
    table = sparse.model.embed_tokens.weight if tie else sparse.model.output.weight
    assert table.grad.is_sparse
    (piece,) = sparse.pieces(sparse.steps(1)[0], part=0, parts=1)
    batch = sparse.batch(piece)
    allowed = set(batch.targets.tolist()).union(*(share.negatives.rows.tolist() for share in batch.shares))
    if tie:
        allowed |= set(batch.inputs.flatten().tolist())
    assert set(table.grad.coalesce().indices()[0].tolist()) <= allowed


def test_static_shapes_leave_the_step_as_it_is_in_few_lengths_of_negatives(prepared):
    made = program(prepared, static_shapes=True)
    lengths = set()
    for step in made.steps(1):
        for piece in made.pieces(step, part=0, parts=1):
            lengths |= {len(drawn.rows) for drawn in piece.negatives.sets}
    assert len(lengths) <= 2
    loss, gradients, _ = of_step(made)
    assert np.isfinite(loss)
    assert not gradients["embed_tokens.weight"][0].any(), "what fills up is no item"


def test_the_choice_and_its_reason_are_told(prepared):
    exact = program(prepared, softmax="auto")
    assert not exact.sampled
    assert exact.pieces(exact.steps(1)[0], part=0, parts=1)[0].negatives is None
    softmax, update = exact.plan()
    assert "exact" in softmax
    assert "dense" in update
    softmax, update = program(prepared, table_update="rowwise_adagrad").plan()
    assert "20 negatives" in softmax
    assert "Adagrad" in update
    with pytest.raises(SettingsError, match="an exact softmax touches all"):
        program(prepared, softmax="exact", table_update="lazy_adam")
