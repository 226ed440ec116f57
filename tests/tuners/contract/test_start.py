"""An adapter starts as the frozen encoder, and training changes it and nothing else."""

import pytest
import torch

from peterrec.encoders.time_major import DilatedConv

BLOCKS = ["plain", "bottleneck"]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_it_starts_as_the_frozen_encoder(case, block, mode):
    encoder, ids = case.encoder(block, fused=True), case.ids()
    before = case.hidden(encoder, ids)
    gathered = hidden_from_gathered_taps(case, encoder, ids)
    model = case.wrap(encoder).train(mode == "train")
    assert before.abs().sum() > 0
    now = case.hidden(model, ids)
    if case.ours:
        # a tuner on a convolution's linear map wants its taps in one matrix, and so they are summed in another order
        assert torch.equal(now, before) or torch.equal(now, gathered)
    torch.testing.assert_close(now, before, rtol=0, atol=1e-5)


def hidden_from_gathered_taps(case, encoder, ids):
    """What the bare encoder gives where something hangs on each linear map of a convolution."""
    hooks = [m.linear.register_forward_hook(lambda *_: None) for m in encoder.modules() if isinstance(m, DilatedConv)]
    hidden = case.hidden(encoder, ids)
    for hook in hooks:
        hook.remove()
    return hidden


@pytest.mark.parametrize("block", BLOCKS)
def test_training_changes_the_adapter_and_no_byte_of_the_encoder(case, block):
    encoder, ids = case.encoder(block), case.ids()
    frozen = {name: (p, p.detach().clone()) for name, p in encoder.named_parameters()}
    model = case.wrap(encoder)
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert not {id(p) for p, _ in frozen.values()} & {id(p) for p in model.parameters() if p.requires_grad}
    start = case.hidden(model, ids).detach().clone()
    case.train(model)
    held = {id(p) for p in model.parameters()}
    for name, (parameter, before) in frozen.items():
        assert id(parameter) in held, f"{name} is no longer in the model"
        assert parameter.detach().numpy().tobytes() == before.numpy().tobytes(), name
    now = dict(model.named_parameters())
    unchanged = [name for name, before in trained.items() if torch.equal(now[name], before)]
    assert not unchanged
    assert (case.hidden(model, ids) - start).abs().max() > 1e-3


def test_what_trains_is_a_small_part(case):
    model = case.wrap(case.encoder(vocab=5003))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    table = model.get_input_embeddings().weight.numel()
    assert 0 < trained < table * case.largest_share


def test_a_second_adapter_does_not_train_until_it_is_set(case):
    model = case.trained()
    case.add(model, "second")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert not [name for name in trained if "second" in name]
    model.set_adapter("second")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert not [name for name in trained if "default" in name]


def test_a_domain_has_no_gradient_from_another(case):
    if case.domains < 2:
        pytest.skip("has no domains")
    model = case.wrap(case.encoder())
    ids, only = case.ids(), torch.zeros(4, dtype=torch.long)
    model.train()
    case.loss(case.hidden(model, ids, domain_ids=only)).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert any(grad[0].abs().sum() > 0 for grad in grads)
    assert all(grad.shape[0] == case.domains and grad[1:].abs().sum() == 0 for grad in grads)
