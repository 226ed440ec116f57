"""Weights of an adapter that stand for items, for an encoder that has learnt more items since."""

from collections.abc import Mapping

import torch
from torch import Tensor

from peterrec.data.vocabulary import FIRST_ITEM

ITEM_LORA = "lora_embedding_A"  # (r, V): LoRA on the item table
ITEM_WEIGHTS = "readout.item_weights"  # (V,)


def for_more_items(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` of an adapter file, those of items in the shapes of `own`, which has more of them.

    The adapter changes nothing of the embedding of a new item, and gives it the mean weight of the old ones. Other
    tensors are as they were.
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        wanted = own[name].shape if name in own else tensor.shape
        more = wanted[-1] - tensor.shape[-1] if wanted and len(wanted) == tensor.ndim else 0
        if more <= 0 or wanted[:-1] != tensor.shape[:-1]:
            continue
        if ITEM_LORA in name:
            found[name] = torch.cat([tensor, tensor.new_zeros(*tensor.shape[:-1], more)], dim=-1)
        elif name == ITEM_WEIGHTS:
            found[name] = torch.cat([tensor, tensor[FIRST_ITEM:].mean().expand(more)])
    return found
