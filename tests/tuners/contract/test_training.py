"""Gradients under activation checkpointing, compilation and bf16, and copies."""

from copy import deepcopy

import pytest
import torch


def gradients(case, model):
    model.zero_grad()
    model.train()
    loss = case.loss(case.hidden(model, case.ids()))
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


def equal(one, two, **tolerance):
    assert one.keys() == two.keys()
    assert one
    for name, grad in one.items():
        torch.testing.assert_close(two[name], grad, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_activation_checkpointing_changes_no_gradient(case, block):
    plain, checkpointed = case.trained(block), case.trained(block)
    checkpointed.get_base_model().activation_checkpointing_enable()
    assert checkpointed.get_base_model().is_activation_checkpointing
    equal(gradients(case, plain), gradients(case, checkpointed), rtol=0, atol=0)


def test_two_passes_before_a_checkpointed_backward(own):
    # what a tuner keeps of one forward pass must not leak into another's recomputation
    ids = own.ids()
    totals = []
    for checkpointed in (False, True):
        model = own.trained().train()
        if checkpointed:
            model.get_base_model().activation_checkpointing_enable()
        domains = own.domain_ids(4)
        one = own.hidden(model, ids, domain_ids=domains)
        two = own.hidden(model, ids.flip(0), domain_ids=None if domains is None else domains.flip(0))
        (own.loss(one) + own.loss(two, seed=12)).backward()
        totals.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None})
    equal(*totals, rtol=0, atol=0)


def test_a_half_precision_encoder(case):
    ids = case.ids()
    model = case.wrap(case.encoder().to(torch.bfloat16))
    model.train()
    hidden = case.hidden(model, ids)
    assert hidden.dtype == torch.bfloat16
    case.loss(hidden).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in grads)
    assert all(grad is None or grad.isfinite().all() for grad in grads)
    if case.ours:
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    case.train(model)
    assert case.hidden(model, ids).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=["bf16", "fp16", "fp64"])
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_it_starts_as_the_encoder_in_every_precision(own, dtype, block):
    encoder, ids = own.encoder(block).to(dtype), own.ids()
    before = own.hidden(encoder, ids)
    assert torch.equal(own.hidden(own.wrap(encoder), ids), before)


def test_autocast(own):
    model, ids = own.trained(), own.ids()
    wanted = own.hidden(model, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = own.hidden(model, ids)
    own.loss(hidden).backward()
    torch.testing.assert_close(hidden.float(), wanted, rtol=0.1, atol=0.3)
    grads = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert grads
    assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in grads)


def test_it_starts_as_the_encoder_under_autocast(own):
    ids = own.ids()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        base = own.hidden(own.encoder(), ids)
        assert torch.equal(own.hidden(own.wrap(own.encoder()), ids), base)


def test_a_copy_is_its_own(case):
    model, ids = case.read_only(), case.ids()
    before = case.hidden(model, ids)
    copy = deepcopy(model)
    assert torch.equal(case.hidden(copy, ids), before)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in copy.parameters()}
    case.train(copy, seed=12)
    assert torch.equal(case.hidden(model, ids), before)
    assert not torch.equal(case.hidden(copy, ids), before)


def test_two_trainings_are_the_same_bit_for_bit(own):
    ids, models = own.ids(), []
    for _ in range(2):
        model = own.wrap(own.encoder())
        own.train(model)
        models.append(own.hidden(model, ids))
    assert torch.equal(*models)
