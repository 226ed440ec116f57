"""InfoNCE between two views: the formula, and that it falls where there is something to find."""

import numpy as np
import pytest
import torch

from peterrec.objectives.contrastive import Projection, contrastive_loss


def by_hand(first, second, temperature):
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    losses = []
    for one, other in ((first, second), (second, first)):
        for user, vector in enumerate(one):
            scores = np.array([vector @ each / temperature for each in other])
            losses.append(np.log(np.exp(scores).sum()) - scores[user])
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_the_formula(temperature):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(9, 5)) * 3, rng.normal(size=(9, 5))
    found = contrastive_loss(torch.from_numpy(first), torch.from_numpy(second), temperature=temperature)
    assert found.item() == pytest.approx(by_hand(first, second, temperature))


def test_autocast_does_not_round_the_scores():
    rng = np.random.default_rng(1)
    first = torch.from_numpy(rng.normal(size=(64, 16))).float()
    second = first + 0.1 * torch.from_numpy(rng.normal(size=(64, 16))).float()
    wanted = contrastive_loss(first, second, temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(first, second, temperature=0.05)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_alike_or_alone():
    vectors = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert contrastive_loss(vectors[:1], vectors[1:2], temperature=0.1).item() == 0
    same = torch.ones(8, 4)
    assert contrastive_loss(same, same, temperature=0.1).item() == pytest.approx(np.log(8))


def held_out(*, planted: bool) -> float:
    """The loss on new users, after training, where users' views share a taste or do not."""
    generator = torch.Generator().manual_seed(0)

    def users(number):
        taste = torch.randn(number, 6, generator=generator)
        views = [taste if planted else torch.randn(number, 6, generator=generator) for _ in range(2)]
        return [torch.cat([view, torch.randn(number, 20, generator=generator)], dim=1) for view in views]

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(26, 16), Projection(16))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        contrastive_loss(*(model(view) for view in users(64)), temperature=0.2).backward()
        optimiser.step()
    with torch.no_grad():
        return contrastive_loss(*(model(view) for view in users(64)), temperature=0.2).item()


def test_it_falls_on_what_views_share_and_not_on_noise():
    assert held_out(planted=True) < 0.5 * np.log(64)
    assert held_out(planted=False) > 0.98 * np.log(64)
