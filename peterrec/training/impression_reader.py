"""Rows of impressions as a model reads them, and what it predicts for them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.impressions import Impressions
from peterrec.data.upload import upload
from peterrec.impression_model import ImpressionBatch, ImpressionModel, ImpressionNetwork
from peterrec.inference import POSITIONS
from peterrec.training.impression_vectors import ImpressionVectors

Ints = NDArray[np.int64]
AT_ONCE = 2**13  # rows that are predicted together


class ImpressionReader:
    """Batches of `impressions` for a network, coded by `codings`: of its own fields, then of each bias tower (None: the
    network's); with an encoder, `model` and the `vectors` of its users."""

    def __init__(
        self,
        network: ImpressionNetwork,
        impressions: Impressions,
        *,
        codings: Sequence[FieldCoding | None],
        model: ImpressionModel | None = None,
        vectors: ImpressionVectors | None = None,
    ):
        assert (model is None) == (vectors is None)
        self.network = network
        self.impressions = impressions
        self.model = model
        self.vectors = vectors
        self._codings = tuple(codings)

    def batch(self, rows: Ints, device: torch.device, *, positions: int | None = None) -> ImpressionBatch:
        """The rows `(B,)` on `device`; users are read at most `positions` positions at a time."""
        impressions = self.impressions
        fields = [None if one is None else one.batch(impressions, rows).to(device) for one in self._codings]
        domains = upload(torch.from_numpy(np.asarray(impressions.domain[rows], dtype=np.int64)), device)
        if self.model is None or self.vectors is None:
            return ImpressionBatch(fields, domains)
        assert impressions.item_row is not None
        users, known = self.vectors.of(rows, device, positions=positions)
        items = upload(torch.from_numpy(np.asarray(impressions.item_row[rows], dtype=np.int64)), device)
        return ImpressionBatch(fields, domains, users=users, known=known, items=self.model.item_vectors(items))

    def field_vectors(self, rows: Ints, device: torch.device) -> Tensor:
        """The vectors `(B, F, dim)` of the network's fields in the rows `(B,)`."""
        coding = self._codings[0]
        assert coding is not None
        assert self.network.embeddings is not None
        return self.network.embeddings(coding.batch(self.impressions, rows).to(device))

    @torch.no_grad()
    def predict(
        self, rows: Ints, device: torch.device, *, advance: Callable[[int], object] | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """What is predicted for the rows `(B,)`, in their order: probabilities, or values, of each output `(B,)`.

        `advance` is told the number of rows done.
        """
        whole = self.network if self.model is None else self.model
        was_training = whole.training
        whole.eval()
        found = {name: np.empty(len(rows)) for name in self.network.outputs}
        try:
            # users together, so that their windows are encoded once
            order = np.arange(len(rows)) if self.vectors is None else self.vectors.by_user(rows)
            for at in range(0, len(rows), AT_ONCE):
                some = order[at : at + AT_ONCE]
                batch = self.batch(rows[some], device, positions=POSITIONS.get(device.type, 2**18))
                for name, value in self.network.predicted(batch).items():
                    found[name][some] = value.cpu().numpy()
                if advance is not None:
                    advance(len(some))
        finally:
            whole.train(was_training)
        return found
