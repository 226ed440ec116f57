"""The item table's deviations and the head as one regression on labelled users: adapters with `fit = "convex"`."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.sequences import Sequences
from peterrec.encoders.readout import SUMS
from peterrec.errors import SettingsError
from peterrec.heads.classification import ClassificationHead, HeadScale
from peterrec.model import TaskModel

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def check_convex(model: TaskModel) -> None:
    """Raises SettingsError where the logits of a model are not linear in its item table, or its LoRA is too thin."""
    head, reader = model.head, model.reader
    assert isinstance(head, ClassificationHead)
    assert isinstance(head.norm, HeadScale)
    if reader.kind not in SUMS or reader.layers != (0,):
        raise SettingsError(
            "An adapter with fit = 'convex' needs user vectors that are sums of item embeddings: an encoder of kind "
            f"pooled, or layers = [0], read by {' or '.join(SUMS)}; this model reads {reader.kind} of {reader.layers}."
        )
    classes, rank = head.output.out_features, thin_matrices(model)[0].shape[1]
    if rank < classes:
        raise SettingsError(
            f"The adapter's rank is {rank}, but the task has {classes} classes: set options.r (and lora_alpha) to "
            f"{classes} or more."
        )


def thin_matrices(model: TaskModel) -> tuple[Tensor, Tensor]:
    """The two matrices `(V, R)` and `(R, D)` whose product is added to the item table, as views."""
    table = model.base_encoder.embed_tokens
    (name,) = table.active_adapters  # type: ignore[union-attr]
    left, right = table.lora_embedding_A[name], table.lora_embedding_B[name]  # type: ignore[union-attr, index]
    assert table.scaling[name] == 1  # type: ignore[union-attr, index]
    return left.detach().t(), right.detach().t()


def item_bags(
    histories: Sequences, rows: NDArray[np.int64], *, kind: str, max_length: int, vocab_size: int
) -> "csr_array":
    """How much of each item's row is in the vectors of the histories `rows` `(N,)`, as the readout `kind` has it."""
    from scipy.sparse import csr_array

    lengths = histories.lengths[rows]
    flat, counts = histories.gather(rows, np.maximum(lengths - max_length, 0), lengths)
    power = {"mean": -1.0, "sqrtn": -0.5}[kind]
    weights = np.repeat(np.maximum(counts, 1).astype(np.float64) ** power, counts)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    found = csr_array((weights, flat.astype(np.int64), bounds), shape=(len(rows), vocab_size))
    found.sum_duplicates()
    return found


def item_scales(histories: Sequences, *, vocab_size: int) -> NDArray[np.float64]:
    """Prior standard deviations `(V,)`: the inverse document frequency of TF-IDF, from all histories, labelled or not.

    A rare item that is there says more of a user than a common one.
    """
    every = np.arange(len(histories))
    flat, _ = histories.gather(every, np.zeros_like(every), histories.lengths)
    counts = np.minimum(np.bincount(flat, minlength=vocab_size), len(histories))
    return np.log((1 + len(histories)) / (1 + counts)) + 1
