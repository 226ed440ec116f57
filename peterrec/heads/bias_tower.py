"""A small tower on a few fields, whose logit is added to those of heads."""

import torch
from torch import Tensor, nn

from peterrec.data.impressions.field_batch import MISSING, FieldBatch, FieldSizes
from peterrec.errors import SettingsError
from peterrec.heads.tower_head import TowerHead
from peterrec.impression_recipe import Bias

STD = 0.05  # of the domains' vectors at start


class BiasTower(nn.Module):
    """Fields, and which domain a row is of, to one logit a row: `(B,)`.

    `embeddings`, a module of its own, maps the tower's fields, of these `sizes`, to `(B, F, dim)`. With
    `recipe.domain` it reads a vector for each of the K `domains` as well; that of an unknown domain is zero.

    `train_only` (the shallow tower for position of Zhao et al., RecSys 2019) counts from what it says of a row
    whose fields are missing. So it is exactly 0 in evaluation, where they are, and the rows that `dropout` hides in
    training learn what is then predicted: without this the missing fields' own logit would be left out of the
    probabilities. Without `train_only` it is always on (the auxiliary network of STAR, Sheng et al., CIKM 2021).

    Raises SettingsError if there is nothing to read, or no domain where it should read them.
    """

    def __init__(self, recipe: Bias, sizes: FieldSizes, *, embeddings: nn.Module, dim: int, domains: int):
        super().__init__()
        if not len(sizes) and not recipe.domain:
            raise SettingsError("biases: a bias has nothing to read: name its fields, or set domain = true.")
        if recipe.domain and not domains:
            raise SettingsError(
                "biases: domain = true, and the data have no domains. Prepare them with --domain COLUMN, or leave it "
                "out."
            )
        self.sizes, self.train_only, self.dropout = sizes, recipe.train_only, recipe.dropout
        self.embeddings = embeddings
        self.domains = nn.Embedding(domains, dim) if recipe.domain else None
        if self.domains is not None:
            with torch.no_grad():
                self.domains.weight.normal_(std=STD)
        width = (len(sizes) + recipe.domain) * dim
        self.tower = TowerHead(width, hidden=recipe.hidden, bias=not recipe.train_only)

    def forward(self, fields: FieldBatch, domain_ids: Tensor | None = None) -> Tensor:
        """Its own fields, with a domain each `(B,)` or none, to logits `(B,)`, in float32 at least."""
        if self.train_only and not self.training:
            return torch.zeros(len(fields), device=fields.categorical.device)
        x = self.embeddings(fields)
        missing = None
        if self.training and (self.train_only or self.dropout):
            missing = self.embeddings(self._missing(fields.categorical.device))
        if missing is not None and self.dropout:
            hidden = torch.rand(x.shape[:2], device=x.device) < self.dropout
            x = torch.where(hidden.unsqueeze(-1), missing, x)
        found = self._logit(x, domain_ids)
        if missing is not None and self.train_only:
            rows = 1 if domain_ids is None else len(fields)
            found = found - self._logit(missing.expand(rows, -1, -1), domain_ids)
        return found

    def _logit(self, x: Tensor, domain_ids: Tensor | None) -> Tensor:
        """Embedded fields `(B, F, dim)` to `(B,)`."""
        if self.domains is not None:
            x = torch.cat([x, self._domain(len(x), domain_ids).unsqueeze(1)], dim=1)
        return self.tower(x.flatten(1), domain_ids)

    def _domain(self, rows: int, domain_ids: Tensor | None) -> Tensor:
        """A vector a row `(B, dim)`; zero where the domain is not among the K."""
        assert self.domains is not None
        table = self.domains.weight
        if domain_ids is None:
            return table.new_zeros(rows, table.shape[1])
        known = (domain_ids >= 0) & (domain_ids < len(table))
        vectors = self.domains(torch.where(known, domain_ids, 0))
        return torch.where(known.unsqueeze(1), vectors, 0.0)

    def _missing(self, device: torch.device) -> FieldBatch:
        """One row in which every field is missing."""
        none = torch.zeros(0, dtype=torch.int64, device=device)
        start = torch.zeros(1, dtype=torch.int64, device=device)
        return FieldBatch(
            categorical=torch.full((1, len(self.sizes.categorical)), MISSING, device=device),
            numeric=torch.zeros(1, self.sizes.numeric, device=device),
            missing=torch.ones(1, self.sizes.numeric, dtype=torch.bool, device=device),
            multi=tuple((none, start) for _ in self.sizes.multi),
        )
