"""What all tuner layers share: active adapters in turn, rows of a mixed batch, domains, memory order."""

import pytest
import torch
from torch import nn

from peterrec.encoders.dilated import TimeMajorLinear
from peterrec.tuners.layer import TunerLayer


class Shift(TunerLayer):
    """Adds a number an adapter, its domain's number, and a tenth of the input."""

    adapter_layer_names = ("shift",)

    def __init__(self, base_layer, shifts):
        super().__init__(base_layer, next(iter(shifts)))
        self.shift = nn.ParameterDict({name: torch.tensor(float(value)) for name, value in shifts.items()})

    def update_layer(self, adapter_name, config):
        self.shift[adapter_name] = torch.zeros(())

    def holds(self, adapter_name):
        return adapter_name in self.shift

    def adapt(self, adapter_name, x, y, domain_ids):
        y = y * 2 + self.shift[adapter_name] + x.mean() * 0
        return y if domain_ids is None else y + domain_ids.view(-1, *[1] * (y.dim() - 1))


@pytest.fixture
def layer():
    return Shift(TimeMajorLinear(3, 3), {"one": 1, "ten": 10})


def test_active_adapters_in_turn(layer):
    x = torch.randn(2, 4, 3)
    y = layer.base_layer(x)
    torch.testing.assert_close(layer(x), y * 2 + 1)
    layer.set_adapter(["one", "ten"])
    torch.testing.assert_close(layer(x), (y * 2 + 1) * 2 + 10)
    layer.set_adapter(["ten", "other", "one"])
    torch.testing.assert_close(layer(x), (y * 2 + 10) * 2 + 1)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer(x, adapter_names=["one", "ten"]), y)


@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 3), (5, 5, 3)], ids=str)
@pytest.mark.parametrize("names", [["ten", "one", "__base__", "ten", "gone"], ["one"] * 5, ["__base__"] * 5], ids=str)
def test_each_row_has_its_own_adapter_and_domain(layer, names, shape):
    if len(shape) == 2:
        layer.base_layer = Plain(3, 3)
    x = torch.randn(shape)
    domains = torch.tensor([3, 0, 4, -1, 2])
    y = layer(x, adapter_names=names, domain_ids=domains)
    base = layer.base_layer(x)
    for row, name in enumerate(names):
        wanted = base[row]
        if name in layer.shift:
            wanted = wanted * 2 + layer.shift[name] + domains[row]
        torch.testing.assert_close(y[row], wanted)


class Plain(nn.Linear):
    def forward(self, input, domain_ids=None):
        return super().forward(input)


@pytest.mark.parametrize("names", [["one"], ["one"] * 3])
def test_a_name_for_each_row_is_asked_for(layer, names):
    with pytest.raises(ValueError, match=rf"adapter_names holds {len(names)} names, but the batch has 2 rows"):
        layer(torch.randn(2, 4, 3), adapter_names=names)


def test_a_mixed_batch_stays_time_major(layer):
    x = torch.randn(4, 2, 3).transpose(0, 1)
    seen = []
    plain = layer.adapt
    layer.adapt = lambda name, x, y, domains: seen.append((x, y)) or plain(name, x, y, domains)
    out = layer(x, adapter_names=["one", "ten"])
    for tensor in (out, *(part for pair in seen for part in pair)):
        assert tensor.transpose(0, 1).is_contiguous()
