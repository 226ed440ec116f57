"""The learning rate as a function of the step."""

import math

import pytest
import torch

from peterrec.training.schedule import learning_rate_factor


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_is_a_line_that_ends_at_one(schedule) -> None:
    values = [learning_rate_factor(s, total=100, warmup=4, schedule=schedule) for s in range(5)]
    assert values == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_decay_agrees_with_the_schedulers_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    for step in range(30):
        expected = cosine.get_last_lr()[0]
        assert learning_rate_factor(step + 10, total=40, warmup=10, schedule="cosine") == pytest.approx(expected)
        linear = learning_rate_factor(step + 10, total=40, warmup=10, schedule="linear")
        assert linear == pytest.approx(1 - step / 30)
        assert learning_rate_factor(step + 10, total=40, warmup=10, schedule="constant") == 1
        optimizer.step()
        cosine.step()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 5), (7, 7), (7, 100), (100, 3)])
def test_every_step_has_a_rate_above_zero_and_at_most_one(schedule, total: int, warmup: int) -> None:
    values = [learning_rate_factor(s, total=total, warmup=warmup, schedule=schedule) for s in range(total + 20)]
    assert all(0 < v <= 1 and math.isfinite(v) for v in values)
    assert max(values) == 1
    assert set(values[total - 1 :]) == {values[total - 1]}
