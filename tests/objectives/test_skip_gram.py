"""The skip-gram loss, pair by pair."""

import math

import numpy as np
import torch

from peterrec.objectives.skip_gram import skip_gram


def test_each_pair_in_a_loop():
    rng = np.random.default_rng(0)
    centre, context, negatives = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), rng.normal(size=(6, 3, 4))
    found = skip_gram(*(torch.from_numpy(one) for one in (centre, context, negatives)))
    for n in range(6):
        expected = -math.log(1 / (1 + math.exp(-float(centre[n] @ context[n]))))
        for q in range(3):
            expected -= math.log(1 / (1 + math.exp(float(centre[n] @ negatives[n, q]))))
        assert abs(found[n].item() - expected) < 1e-12


def test_it_is_finite_far_out_and_in_float32_for_half_precision():
    far = torch.full((2, 4), 40.0, dtype=torch.bfloat16, requires_grad=True)
    found = skip_gram(far, -far, far.unsqueeze(1))
    assert found.dtype == torch.float32
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(far.grad).all()
