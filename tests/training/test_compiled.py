"""Compiled steps: the losses and gradients of eager ones, one graph for all shapes, and none for a validation."""

import pytest
import torch
from torch._dynamo.utils import counters

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.training.compiled import Compiled, eager
from peterrec.training.pretraining import PretrainingSettings
from peterrec.training.settings import TrainingSettings

# torch's own: in inductor, and behind a graph break, where it hides the warning unless warnings are errors
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPES = [(6, 8), (9, 5), (3, 15), (2, 31), (16, 3), (5, 5), (8, 7)]
ITEMS = 40


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def encoder(block="plain", *, dilations=(1, 2), dtype=torch.float64):
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=3 + ITEMS, hidden_size=8, dilations=dilations, block=block, initializer_range=0.3
    )
    return NextItNet(config).to(dtype).train()


def traced(model, *, settings=None, backend="eager"):
    """Compiled as in training, but that what is traced runs as it is: seconds instead of minutes."""
    compile_with = type(model).compile
    model.compile = lambda **options: compile_with(model, backend=backend, **options | {"mode": None})
    return Compiled(model, device=CPU, settings=settings or PretrainingSettings(compile=True))


def ids(users, length, *, seed=0):
    """Item rows, the last user empty and another one short: what batches of few shapes hold."""
    rows = torch.randint(3, 3 + ITEMS, (users, length), generator=torch.Generator().manual_seed(seed))
    rows[-1] = 0
    rows[0, length // 2 :] = 0
    return rows


def outputs_and_gradients(model, rows):
    model.zero_grad()
    hidden = model(rows).last_hidden_state
    hidden.square().sum().backward()
    return [hidden.detach(), *(p.grad.to_dense().clone() for p in model.parameters())]


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_one_graph_serves_the_shapes_of_an_epoch(block):
    model = encoder(block)
    wanted = [outputs_and_gradients(model, ids(*shape)) for shape in SHAPES]
    compiled = traced(model)
    for shape, expected in zip(SHAPES, wanted, strict=True):
        compiled.begin_step()
        torch.testing.assert_close(outputs_and_gradients(model, ids(*shape)), expected, rtol=1e-8, atol=1e-8)
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def test_rows_with_sparse_gradients_are_looked_up_outside_the_graphs():
    model = encoder()
    wanted = outputs_and_gradients(model, ids(6, 8))
    model.sparse_rows = True
    called = []

    def graph(module, inputs):
        called.extend(str(node.target) for node in module.graph.nodes)
        return module.forward

    traced(model, backend=graph)
    torch.testing.assert_close(outputs_and_gradients(model, ids(6, 8)), wanted, rtol=1e-8, atol=1e-8)
    assert model.embed_tokens.weight.grad.is_sparse
    assert any("linear" in name for name in called)
    assert not [name for name in called if "embedding" in name]
    made = []
    for shape in SHAPES:
        outputs_and_gradients(model, ids(*shape))
        made.append(counters["stats"]["unique_graphs"])
    assert made[1:] == [made[1]] * (len(SHAPES) - 1)


def test_a_validation_makes_no_graph_and_the_model_is_given_back():
    model = encoder()
    compiled = traced(model)
    with eager(), torch.no_grad():
        model.eval()
        expected = model(ids(4, 6)).last_hidden_state
    assert counters["stats"]["unique_graphs"] == 0
    model.train()
    outputs_and_gradients(model, ids(4, 6))
    made = counters["stats"]["unique_graphs"]
    assert made > 0
    compiled.undo()
    assert model._compiled_call_impl is None
    torch.testing.assert_close(model(ids(4, 6)).last_hidden_state, expected)
    assert counters["stats"]["unique_graphs"] == made


@pytest.mark.parametrize(
    ("device", "settings", "graphs"),
    [
        (CUDA, PretrainingSettings(compile=True), True),
        (CUDA, PretrainingSettings(compile=True, static_shapes=False), False),
        (CUDA, PretrainingSettings(compile=True, micro_batch=1000), False),
        (CUDA, TrainingSettings(compile=True), False),
        (CPU, PretrainingSettings(compile=True), False),
    ],
)
def test_cuda_graphs_where_batches_are_whole_and_come_in_few_shapes(device, settings, graphs):
    asked = []
    model = encoder()
    model.compile = lambda **options: asked.append(options)
    assert Compiled(model, device=device, settings=settings).graphs == graphs
    assert asked == [{"dynamic": True, "mode": "reduce-overhead" if graphs else None}]


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
def test_compiled_code_has_the_same_gradients(sparse):
    model = encoder(dtype=torch.float32)
    model.sparse_rows = sparse
    wanted = [outputs_and_gradients(model, ids(*shape)) for shape in SHAPES]
    Compiled(model, device=CPU, settings=PretrainingSettings(compile=True))
    for shape, expected in zip(SHAPES, wanted, strict=True):
        torch.testing.assert_close(outputs_and_gradients(model, ids(*shape)), expected, rtol=1e-3, atol=1e-3)
    assert model.embed_tokens.weight.grad.is_sparse == sparse
    assert counters["stats"]["unique_graphs"] <= (8 if sparse else 2)  # around the lookup there are more, and smaller
