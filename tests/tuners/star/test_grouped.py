"""Products of groups of rows, against one product a row, in both ways of computing them."""

import pytest
import torch
import torch.nn.functional as F

from peterrec.tuners.star.grouped import grouped_linear, grouped_outer

COUNTS = torch.tensor([3, 0, 1, 6])
GROUP = torch.repeat_interleave(torch.arange(4), COUNTS)


@pytest.mark.parametrize("own", [True, False], ids=["torch", "split"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("width", [(8, 16), (5, 3)])
def test_each_row_by_the_matrix_of_its_group(own, dtype, width, monkeypatch):
    if not own:
        monkeypatch.delattr(F, "grouped_mm", raising=False)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10, width[0], generator=generator).to(dtype)
    weights = torch.randn(4, width[1], width[0], generator=generator).to(dtype)
    near = {"rtol": 0.05, "atol": 0.1} if dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    y = grouped_linear(rows, weights, COUNTS)
    wanted = torch.stack([weights[k] @ row for row, k in zip(rows, GROUP, strict=True)])
    torch.testing.assert_close(y, wanted, **near)
    outer = torch.stack([y[k == GROUP].T @ rows[k == GROUP] for k in range(4)])
    torch.testing.assert_close(grouped_outer(y, rows, COUNTS), outer, **near)
    assert torch.count_nonzero(outer[1]) == 0


@pytest.mark.parametrize("width", [(8, 4), (5, 3)])
def test_the_operators_are_what_torch_wants_of_one(width):
    rows = torch.randn(10, width[0], requires_grad=True)
    weights = torch.randn(4, width[1], width[0], requires_grad=True)
    torch.library.opcheck(grouped_linear, (rows, weights, COUNTS))
    torch.library.opcheck(grouped_outer, (torch.randn(10, 4), torch.randn(10, 5), COUNTS))


def test_gradients():
    rows = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: grouped_linear(x, w, COUNTS), (rows, weights))
    y = grouped_linear(rows.float(), weights.float(), COUNTS).sum()
    y.backward()  # an expanded gradient
    torch.testing.assert_close(rows.grad[0].float(), weights[0].sum(0).float())
