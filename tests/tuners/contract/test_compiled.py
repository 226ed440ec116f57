"""A few adapters under `torch.compile`: the gradients of a step, and what a user changes afterwards."""

import pytest
import torch

# torch's own, at a graph break and in inductor
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]
CASES = ["serial.toml", "parallel_unit.toml", "patch_norms", "star_full_3", "star_low_rank_3", "lora.toml"]


@pytest.fixture
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(case, model, ids):
    model.zero_grad()
    hidden = case.hidden(model, ids)
    case.loss(hidden).backward()
    return hidden.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def check(case, backend, fullgraph):
    model, ids = case.two().train(), case.ids()
    compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
    wanted, wanted_grads = step(case, model, ids)
    hidden, grads = step(case, compiled, ids)
    torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-5)
    assert wanted_grads
    for name, grad in wanted_grads.items():
        torch.testing.assert_close(grads[f"_orig_mod.{name}"], grad, rtol=1e-4, atol=1e-5)
    model.set_adapter("second")
    torch.testing.assert_close(case.hidden(compiled, ids), case.hidden(model, ids), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(case.hidden(compiled, ids), wanted, atol=1e-3)
    if case.domains > 1:
        other = case.domain_ids(4).flip(0)
        torch.testing.assert_close(
            case.hidden(compiled, ids, domain_ids=other),
            case.hidden(model, ids, domain_ids=other),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("case", ["serial.toml", "star_norms_3"], indirect=True)
@pytest.mark.usefixtures("fresh")
def test_a_traced_step_has_the_same_gradients(case):
    check(case, "eager", fullgraph=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, indirect=True)
@pytest.mark.usefixtures("fresh")
def test_a_compiled_step_has_the_same_gradients(case):
    check(case, "inductor", fullgraph=True)
