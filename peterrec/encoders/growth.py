"""An encoder with rows for more items: the old ones keep theirs, all else stays to the bit."""

from collections.abc import Mapping
from copy import deepcopy

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.encoders.base import UserEncoder

OF_ITEMS = ("embed_tokens.weight", "decoder.embed_tokens.weight", "output.weight", "reader.item_weights")
DOUBT = 1.0  # surroundings that the mean over all items counts for


def grow(encoder: UserEncoder, *, vocab_size: int, fingerprint: str, revision: str, around: csr_array) -> UserEncoder:
    """A copy of `encoder` with `vocab_size` rows (V'), in training mode; `revision` is that of the original.

    In each table a new item starts in the direction of the mean of the known items around it, which `around`
    `(V' - V, V)` counts, the mean over all items counting as one more, and with the length that rows have on average;
    one with nothing around it at the mean over all, as does a learned weight of a readout. Measured on the embedded
    world this is ahead of rows drawn anew, above all after few steps. The configuration names the original as an
    ancestor whose weights are preserved.
    """
    old = encoder.config
    assert vocab_size >= old.vocab_size
    assert around.shape == (vocab_size - old.vocab_size, old.vocab_size)
    config = deepcopy(old)
    config.vocab_size, config.vocabulary_fingerprint = vocab_size, fingerprint
    config.ancestors = (*old.ancestors, revision)
    config.preserved = (*old.preserved, revision)
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
        grown = type(encoder)(config)
        grown.to(encoder.dtype)  # type: ignore[arg-type]  # transformers' signature hides torch's
    state = encoder.state_dict()
    with torch.no_grad():
        for name, tensor in grown.state_dict().items():
            own = state[name].to(tensor.device)
            if tensor.shape == own.shape:
                tensor.copy_(own)
                continue
            assert name in OF_ITEMS, f"{name} has rows that are not of items"
            tensor[: len(own)] = own
            tensor[len(own) :] = _new_rows(own, around)
    return grown.train()


def item_tensors(encoder: UserEncoder) -> dict[str, nn.Parameter]:
    """The parameters whose first dimension is the rows of the vocabulary: tables, and item weights of the readout."""
    return {name: parameter for name, parameter in encoder.named_parameters() if name in OF_ITEMS}


def train_new_rows_alone(encoder: UserEncoder, *, known: int) -> None:
    """Freezes all of `encoder` but the rows from `known` on; without weight decay the others keep their bits."""
    tensors = item_tensors(encoder)
    encoder.requires_grad_(False)

    def forget_known(parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        if not gradient.is_sparse:
            gradient[:known].zero_()
            return
        # a row-sparse gradient may name a row several times, and its order is part of the sum's bits
        rows, values = gradient._indices(), gradient._values()
        new = (rows[0] >= known).to(values.dtype).unsqueeze(1)
        parameter.grad = torch.sparse_coo_tensor(
            rows, values * new, gradient.shape, check_invariants=False, is_coalesced=gradient.is_coalesced()
        )

    for parameter in tensors.values():
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(forget_known)


def stands_in(old: Mapping[str, Tensor], encoder: UserEncoder) -> bool:
    """Whether the weights `old` are those of `encoder` to the bit, its rows for further items aside."""
    state = {name: tensor.to(encoder.device) for name, tensor in old.items()}
    found = encoder.state_dict()
    return state.keys() == found.keys() and all(
        torch.equal(tensor, found[name][: len(tensor)] if tensor.ndim else found[name])
        for name, tensor in state.items()
    )


def _new_rows(own: Tensor, around: csr_array) -> Tensor:
    """Rows `(N, …)` behind those of a table `(V, …)`."""
    table = own.double().cpu()
    mean = table[FIRST_ITEM:].mean(dim=0)
    number = torch.from_numpy(np.asarray(around @ np.ones(len(own))))
    if own.ndim == 1:
        return mean.expand(len(number)).to(own)
    sums = torch.from_numpy(np.asarray(around @ table.numpy()))
    means = (sums + DOUBT * mean) / (number + DOUBT).unsqueeze(1)
    # a mean of several rows is shorter than they are, and would never be recommended
    length = table[FIRST_ITEM:].norm(dim=1).mean()
    long = torch.nn.functional.normalize(means, dim=1) * length
    return torch.where((number > 0).unsqueeze(1), long, means).to(own)
