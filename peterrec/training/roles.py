"""Which parameters several objectives share: found by what their outputs depend on, not by what modules are called."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from peterrec.encoders.table_shard import TableShard
from peterrec.training.program import BalancedObjectives
from peterrec.training.state import restore, snapshot


def shared_parameters(
    program: BalancedObjectives, parameters: Mapping[str, Tensor], *, looked_up: Mapping[str, Tensor], tables: bool
) -> list[str]:
    """The names of those trainable `parameters` that two objectives or more depend on; embeddings only if `tables`.

    What an objective depends on is where the gradient of its output is not zero while all these parameters have random
    values: patches that start as the identity show, and experts that an objective cannot read (PLE) do not. A
    parameter on which no row of the probe depends counts for the objectives whose graphs it is in. Tables that are
    `looked_up` row by row, and sharded ones, are never shared. The model is left as it was.
    """
    left_out = {id(p) for p in looked_up.values()} | (set() if tables else _embeddings(program.model))
    names = [n for n, p in parameters.items() if id(p) not in left_out and not isinstance(p, TableShard)]
    candidates = [parameters[name] for name in names]
    if not candidates:
        return []
    there = torch.zeros(2, len(program.weights), len(candidates), dtype=torch.bool)  # by value, by graph
    with _random_values(program.model, candidates):
        for training in (True, False):  # towers that are left out in prediction; routers that draw while they train
            program.model.train(training)
            with torch.enable_grad():
                outputs = program.probe(candidates[0].device)
                for number, output in enumerate(outputs):
                    there[:, number] |= _depends(output, candidates)
    depends = torch.where(there[0].any(0), there[0], there[1]).sum(0) > 1
    return [name for name, shared in zip(names, depends.tolist(), strict=True) if shared]


def _depends(output: Tensor, candidates: Sequence[Tensor]) -> Tensor:
    """Whether an output `()` depends on each candidate, by value and by its graph, `(2, N)`."""
    found = torch.autograd.grad(output, candidates, retain_graph=True, allow_unused=True)
    by_value = [gradient is not None and bool((gradient != 0).any()) for gradient in found]
    return torch.tensor([by_value, [gradient is not None for gradient in found]])


@contextmanager
def _random_values(model: nn.Module, candidates: Sequence[Tensor]) -> Iterator[None]:
    """Random values in all `candidates`; afterwards the model and torch's generators are as they were."""
    before, was_training = snapshot(model), model.training
    devices = {p.device for p in candidates if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            with torch.no_grad():
                for parameter in candidates:
                    scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.5
                    drawn = torch.randn(parameter.shape) * scale  # on the CPU: alike on all devices
                    parameter.copy_(drawn.to(parameter.dtype))
            yield
    finally:
        restore(model, before)
        model.train(was_training)


def _embeddings(model: nn.Module) -> set[int]:
    return {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for p in module.parameters(recurse=False)
    }
