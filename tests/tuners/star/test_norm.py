"""Partitioned normalisation, on layer norms and on batch norms, against the norm of each domain by itself."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from torch import nn

from peterrec.encoders.dilated import TimeMajorLayerNorm
from peterrec.training.state import learning_tensors, restore, snapshot
from peterrec.tuners.star import StarConfig, StarNorm
from peterrec.tuners.star.batch_norm import StarBatchNorm

IDS = torch.tensor([2, 0, -1, 2, 7, 0, 3, 0])  # of four domains, 1 is absent, 3 has one row, two rows are unknown
CONFIG = StarConfig(num_domains=4)


def draw(layer, name="a"):
    for p in layer.peterrec_star_deviation[name].parameters():
        nn.init.normal_(p, std=0.5)
    return layer


def layer_norm(*, affine=True):
    torch.manual_seed(0)
    norm = TimeMajorLayerNorm(6, elementwise_affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return StarNorm(norm, "a", CONFIG)


def batch_norm(*, affine=True, momentum=0.1, dtype=torch.float32):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, affine=affine, momentum=momentum)
    norm.running_mean = torch.randn(6)
    norm.running_var = torch.rand(6) + 0.5
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return StarBatchNorm(norm.to(dtype).requires_grad_(False), "a", CONFIG)


def gain_and_bias(layer, domain):
    norm, own = layer.base_layer, layer.peterrec_star_deviation["a"]
    gain = torch.ones(6) if norm.weight is None else norm.weight
    bias = torch.zeros(6) if norm.bias is None else norm.bias
    if not 0 <= domain < 4:
        return gain, bias
    return gain * (1 + own.weight[domain]), bias + own.bias[domain]


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norms_have_gain_and_bias_a_domain(affine):
    layer, x = layer_norm(affine=affine), torch.randn(8, 5, 6)
    assert torch.equal(layer(x, domain_ids=IDS), layer.base_layer(x)), "at the start"
    draw(layer)
    rows = [F.layer_norm(row, (6,), *gain_and_bias(layer, k)) for row, k in zip(x, IDS.tolist(), strict=True)]
    torch.testing.assert_close(layer(x, domain_ids=IDS), torch.stack(rows), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="4 domains"):
        layer(x)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_in_training_see_the_rows_of_a_domain_only(shape, affine):
    layer = draw(batch_norm(affine=affine)).train()
    frozen, x = copy.deepcopy(layer.base_layer), torch.randn(shape) * 3 + 2
    goal = torch.randn(shape)
    own = layer.peterrec_star_deviation["a"]
    y = layer(x, domain_ids=IDS)
    (y * goal).sum().backward()
    got = [p.grad.clone() for p in own.parameters()]
    own.zero_grad()
    wanted = torch.empty(shape)
    for domain in (-1, 0, 2, 3, 7):
        rows = domain == IDS
        mean, var = frozen.running_mean.clone(), frozen.running_var.clone()
        several = domain in (0, 2)
        wanted[rows] = F.batch_norm(x[rows], mean, var, *gain_and_bias(layer, domain), several, 0.1)
        if domain in (0, 2, 3):
            torch.testing.assert_close(own.running_mean[domain], mean)
            torch.testing.assert_close(own.running_var[domain], var)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)
    (wanted * goal).sum().backward()
    for p, gradient in zip(own.parameters(), got, strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-3, atol=1e-4)
        assert torch.count_nonzero(gradient[1]) == 0
    assert own.batches.tolist() == [1, 0, 1, 0]
    assert torch.equal(own.running_mean[1], frozen.running_mean), "an absent domain stays"
    assert torch.equal(layer.base_layer.running_mean, frozen.running_mean), "the frozen statistics stay"
    assert layer.base_layer.num_batches_tracked == 0


def test_the_gradient_goes_through_the_statistics_of_the_domain():
    layer, x = draw(batch_norm()).train(), torch.randn(8, 6, requires_grad=True)
    goal = torch.randn(8, 6)
    (layer(x, domain_ids=IDS) * goal).sum().backward()
    got, x.grad = x.grad, None
    rows = IDS == 0
    y = F.batch_norm(x[rows], None, None, *gain_and_bias(layer, 0), True)
    (y * goal[rows]).sum().backward()
    torch.testing.assert_close(got[rows], x.grad[rows], rtol=1e-4, atol=1e-5)


def test_batch_norms_in_evaluation():
    layer, x = batch_norm().eval(), torch.randn(8, 6)
    assert torch.equal(layer(x, domain_ids=IDS), layer.base_layer(x)), "exactly, at the start"
    draw(layer).train()
    for _ in range(3):
        layer(torch.randn(8, 6) * 2 + 1, domain_ids=IDS)
    layer.eval()
    y, own = layer(x, domain_ids=IDS), layer.peterrec_star_deviation["a"]
    for row, domain in enumerate(IDS.tolist()):
        known = 0 <= domain < 4
        mean = own.running_mean[domain] if known else layer.base_layer.running_mean
        var = own.running_var[domain] if known else layer.base_layer.running_var
        alone = layer(x[row : row + 1], domain_ids=IDS[row : row + 1])
        torch.testing.assert_close(alone, y[row : row + 1])
        wanted = F.batch_norm(x[row : row + 1], mean, var, *gain_and_bias(layer, domain))
        torch.testing.assert_close(alone, wanted, rtol=1e-4, atol=1e-5)


def test_batch_norms_by_cumulative_average():
    layer = batch_norm(momentum=None).train()
    alone = nn.BatchNorm1d(6, momentum=None)
    for _ in range(3):
        x = torch.randn(8, 6)
        layer(x, domain_ids=IDS)
        alone(x[IDS == 0])
    own = layer.peterrec_star_deviation["a"]
    torch.testing.assert_close(own.running_mean[0], alone.running_mean)
    torch.testing.assert_close(own.running_var[0], alone.running_var)


@pytest.mark.parametrize("kind", [layer_norm, batch_norm])
def test_low_precision(kind):
    layer = kind() if kind is layer_norm else batch_norm(dtype=torch.bfloat16)
    layer.base_layer.bfloat16()
    x = torch.randn(8, 6).bfloat16()
    x = x[:, None] if kind is layer_norm else x
    assert torch.equal(layer.eval()(x, domain_ids=IDS), layer.base_layer(x))
    y = layer.train()(x, domain_ids=IDS)
    assert y.dtype == torch.bfloat16
    assert {p.dtype for p in layer.peterrec_star_deviation.parameters()} == {torch.float32}
    assert layer.peterrec_star_deviation["a"].weight.shape == (4, 6)


@pytest.mark.parametrize("training", [True, False])
def test_several_active_adapters_add_their_differences(training):
    layer, x = draw(batch_norm()).train(training), torch.randn(8, 6)
    layer.update_layer("b", CONFIG)
    draw(layer, "b")
    frozen = copy.deepcopy(layer.base_layer).eval()(x)
    first = layer(x, domain_ids=IDS)
    layer.set_adapter("b")
    second = layer(x, domain_ids=IDS)
    layer.set_adapter(["a", "b"])
    torch.testing.assert_close(layer(x, domain_ids=IDS), first + second - frozen, rtol=1e-3, atol=1e-3)


class Head(nn.Module):
    """A head with a batch norm, as those of later work."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x, domain_ids=None):
        run = isinstance(self.linear, nn.Linear)
        x = self.linear(x) if run else self.linear(x, domain_ids=domain_ids)
        return self.norm(x) if isinstance(self.norm, nn.BatchNorm1d) else self.norm(x, domain_ids=domain_ids)


def run(model, x, ids=None):
    return model.get_base_model()(x, domain_ids=ids)  # the outer forward is one of encoders


def trained(domains=4):
    model = get_peft_model(
        Head().eval(), StarConfig(num_domains=domains, target_modules=["linear"], norms=True, form="full")
    ).train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    torch.manual_seed(1)
    for _ in range(3):
        optimiser.zero_grad()
        run(model, torch.randn(8, 6) + 1, IDS).square().sum().backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("low_memory", [False, True])
def test_running_statistics_travel_with_the_adapter(tmp_path, low_memory):
    model, x = trained(), torch.randn(8, 6)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(Head(), tmp_path, low_cpu_mem_usage=low_memory).eval()
    assert torch.equal(run(again, x, IDS), run(model, x, IDS))
    own = again.base_model.model.norm.peterrec_star_deviation["default"]
    assert own.batches.tolist() == [3, 0, 3, 0]
    assert not torch.equal(own.running_mean[0], torch.zeros(6))


def test_checkpoints_of_training_hold_the_running_statistics():
    model, x = trained(), torch.randn(8, 6)
    names = learning_tensors(model)
    assert {name.rpartition(".")[2] for name in names if ".norm." in name} == {
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "batches",
    }
    kept, y = snapshot(model), run(model, x, IDS)
    run(model.train(), x, IDS)
    assert not torch.equal(run(model.eval(), x, IDS), y)
    restore(model, kept)
    assert torch.equal(run(model, x, IDS), y)


def test_merging_and_exporting_batch_norms():
    model, x = trained(), torch.randn(8, 6)
    for domain in range(4):
        alone = model.export_domain(domain)
        assert isinstance(alone.norm, nn.BatchNorm1d)
        torch.testing.assert_close(alone(x), run(model, x, torch.full((8,), domain)), rtol=1e-4, atol=1e-4)
    single = trained(domains=1)
    y = run(single, x)
    assert not torch.allclose(y, Head().eval()(x))
    torch.testing.assert_close(single.merge_and_unload()(x), y, rtol=1e-4, atol=1e-4)


def test_norms_that_cannot_be_wrapped_or_merged():
    def model(norm):
        head = Head().eval()
        head.norm = norm
        return get_peft_model(head, StarConfig(target_modules=["norm"]))

    with pytest.raises(ValueError, match="running statistics"):
        model(nn.BatchNorm1d(6, track_running_stats=False))
    with pytest.raises(ValueError, match="2 axes"):
        model(nn.LayerNorm((2, 3)))
    without = model(nn.LayerNorm(6, elementwise_affine=False))
    for merge in (without.merge_adapter, without.merge_and_unload):
        with pytest.raises(ValueError, match="no weight to merge"):
            merge()
