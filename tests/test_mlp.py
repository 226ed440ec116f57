"""Linear maps with ReLU and dropout, and what they are told of domains."""

import numpy as np
import torch

from peterrec.mlp import MLP, RowLinear


def test_it_is_maps_and_relus():
    torch.manual_seed(0)
    mlp, x = MLP(5, (4, 3), dropout=0.3).eval(), torch.randn(6, 5)
    state = {name: value.numpy() for name, value in mlp.state_dict().items()}
    wanted = x.numpy()
    for level in range(2):
        wanted = np.maximum(wanted @ state[f"linears.{level}.weight"].T + state[f"linears.{level}.bias"], 0)
    np.testing.assert_allclose(mlp(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert mlp.channels == 3
    assert mlp(torch.randn(6, 2, 5)).shape == (6, 2, 3)


def test_without_layers_it_is_the_identity():
    mlp, x = MLP(5, (), dropout=0.9), torch.randn(3, 5)
    assert mlp.channels == 5
    assert torch.equal(mlp(x), x)
    assert not list(mlp.parameters())


def test_dropout_follows_every_relu_in_training_alone():
    mlp = MLP(3, (500, 1), dropout=0.75)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.fill_(1.0)
    torch.manual_seed(0)
    outputs = mlp(torch.zeros(2000, 3)).squeeze(1)
    dropped = outputs == 0
    assert 0.7 < dropped.float().mean() < 0.8  # of the last layer
    kept = outputs[~dropped] / 4 - 1
    assert (kept % 4 == 0).all()  # each hidden unit is dropped, or counts four times
    assert abs(kept.mean() - 500) < 5
    assert kept.std() > 10
    assert (mlp.eval()(torch.zeros(2, 3)) == 501).all()


def test_a_layer_in_its_place_gets_the_domains():
    class ByDomain(RowLinear):
        def forward(self, input, domain_ids=None):
            return super().forward(input) * domain_ids.unsqueeze(-1)

    mlp, x = MLP(5, (4, 3)), torch.randn(6, 5)
    domains = torch.tensor([0, 1, 0, 1, 1, 0])
    assert torch.equal(mlp(x, domain_ids=domains), mlp(x))
    mlp.linears[1] = ByDomain(4, 3)
    outputs = mlp(x, domains)
    assert (outputs[domains == 0] == 0).all()
    assert (outputs[domains == 1] > 0).any()
