"""The gradients of T objectives on each of P shared tensors, added up over the pieces of a step."""

from collections.abc import Sequence

import torch
from torch import Tensor


class GradientRows:
    """A tensor `(T + 1, *shape)` a shared parameter: a row an objective, and one for what is not balanced (penalties).

    Autograd adds to the rows in place: `open` makes a row the gradient of its parameter. `carriers` have them as their
    own gradients, so that processes sum them as they do others.
    """

    def __init__(self, parameters: Sequence[Tensor], *, objectives: int):
        self.parameters = list(parameters)
        self.objectives = objectives
        self.carriers = [p.detach().new_empty(0) for p in self.parameters]

    def clear(self) -> None:
        """All rows are zero."""
        for at, parameter in enumerate(self.parameters):
            rows = parameter.detach().new_zeros((self.objectives + 1, *parameter.shape))
            self.carriers[at] = torch.empty_like(rows)
            self.carriers[at].grad = rows

    def open(self, number: int) -> None:
        """Backward passes add to row `number` from here on."""
        for parameter, carrier in zip(self.parameters, self.carriers, strict=True):
            assert carrier.grad is not None
            parameter.grad = carrier.grad[number]

    def close(self) -> None:
        """The parameters have no gradients again."""
        for parameter in self.parameters:
            parameter.grad = None

    def flat(self) -> list[Tensor]:
        """The rows of the objectives, `(T, n)` for each tensor of n numbers, in float32 at least."""
        found = []
        for carrier in self.carriers:
            assert carrier.grad is not None
            rows = carrier.grad[:-1].flatten(1)
            found.append(rows.to(torch.promote_types(rows.dtype, torch.float32)))
        return found

    def norms(self) -> Tensor:
        """Of each objective on each tensor, `(P, T)`."""
        return torch.stack([torch.linalg.vector_norm(rows, dim=1) for rows in self.flat()])

    def gramian(self, of: Sequence[int]) -> Tensor:
        """The products of the gradients of the objectives `of` on all shared tensors together, `(n, n)`.

        A gradient that is zero counts as orthogonal to the others and as long as the longest: methods that look for a
        short mix would give it all the weight, and stop. Where numbers are not finite it is the identity, since solvers
        take no others; the update, which is not finite either, then refuses the step.
        """
        found = torch.stack([rows[of] @ rows[of].T for rows in self.flat()]).sum(0)
        one = torch.eye(len(found), dtype=found.dtype, device=found.device)
        squares = found.diagonal()
        longest = torch.where(squares.max() > 0, squares.max(), 1.0)
        found = found + torch.diag(torch.where(squares > 0, 0.0, longest))
        return torch.where(torch.isfinite(found).all(), found, one)

    def combine(self, coefficients: Tensor) -> None:
        """Gives parameters the sums of their rows times `coefficients` `(T,)` or `(P, T)`, and what is not balanced."""
        if coefficients.ndim == 1:
            coefficients = coefficients.expand(len(self.parameters), -1)
        one = coefficients.new_ones(1)
        for parameter, carrier, own in zip(self.parameters, self.carriers, coefficients, strict=True):
            assert carrier.grad is not None
            flat = torch.cat([own, one]).to(parameter.dtype) @ carrier.grad.flatten(1)
            parameter.grad = flat.view(parameter.shape)
            carrier.grad = None
