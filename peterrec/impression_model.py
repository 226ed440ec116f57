"""A model of impressions: fields, domain and, with an encoder, user and item vectors; experts, heads, probabilities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from peterrec.data.impressions.field_batch import FieldBatch
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import Readout
from peterrec.features.embeddings import FieldEmbeddings
from peterrec.features.head_inputs import HeadInputs
from peterrec.features.row_inputs import DomainInput, VectorInput
from peterrec.features.term_input import TermInput
from peterrec.features.terms import Terms
from peterrec.heads.bias_tower import BiasTower
from peterrec.heads.compose import Derived, LogProbability, compose
from peterrec.heads.impression_heads import ImpressionHeads
from peterrec.heads.starting_logits import starting_logits
from peterrec.heads.two_towers import TwoTowers, VectorTower
from peterrec.model import TaskModel
from peterrec.objective_recipe import Objective
from peterrec.objectives.impression_losses import in_label_units
from peterrec.routing.body import Body

if TYPE_CHECKING:
    from peft import PeftModel

Output = LogProbability | Tensor


@dataclass(frozen=True)
class ImpressionBatch:
    """B impressions: the `fields` of the network, then of each bias tower that has its own (None: those of the
    network), and `domain_ids` `(B,)`, -1 where unknown.

    With an encoder also `users` `(B, D)` and `known` `(B,)`, whether there was anything to read of a user, and the
    vectors of the target items `items` `(B, D)`, zero for an item that the encoder does not know.
    """

    fields: Sequence[FieldBatch | None]
    domain_ids: Tensor
    users: Tensor | None = None
    known: Tensor | None = None
    items: Tensor | None = None

    def __len__(self) -> int:
        return len(self.domain_ids)


class ImpressionNetwork(nn.Module):
    """All of the model but the encoder: `embeddings` of fields, other inputs, `norm`, `body`, `heads`, `terms` and
    `biases`.

    Heads that read no `body` have products or are constants, to which `terms` are added. `branches` says for each head,
    in order, which layer of the body it reads and which branch of that layer, None where it reads none; `reads` which
    fields. `biases` are towers, each added to the heads of its place in `bias_heads`. `values` are the heads that
    predict a value, `logarithms` those among them that learn log(1 + label), `odds` those that predict e^logit.
    `matches` and `correlation`, on the same embeddings, are of training alone: nothing that is predicted reads them.
    `penalty_weight` is that of the squared lengths of the embeddings of a row.
    """

    def __init__(
        self,
        *,
        embeddings: FieldEmbeddings | None,
        domain: DomainInput | None,
        vectors: VectorInput | None,
        norm: nn.Module | None,
        body: Body | None,
        heads: ImpressionHeads,
        terms: Terms | None = None,
        reads: HeadInputs,
        branches: Sequence[tuple[int, int] | None],
        names: Sequence[str],
        biases: Sequence[BiasTower],
        bias_heads: Sequence[Sequence[str]],
        derived: Mapping[str, Derived],
        values: Sequence[str],
        logarithms: Sequence[str] = (),
        matches: Mapping[str, TwoTowers] | None = None,
        correlation: VectorTower | None = None,
        odds: Sequence[str] = (),
        penalty_weight: float = 0.0,
    ):
        super().__init__()
        self.embeddings = embeddings
        self.domain = domain
        self.vectors = vectors
        self.norm = norm
        self.body = body
        self.heads = heads
        self.terms = terms
        self.biases = nn.ModuleList(biases)
        self._reads = reads
        self._branches = tuple(branches)
        self._names = tuple(names)
        self._bias_heads = tuple(tuple(one) for one in bias_heads)
        self._derived = dict(derived)
        self._values = tuple(values)
        # of the labels of values, in the units in which they are learned, on the training rows
        self.value_mean: Tensor
        self.value_sd: Tensor
        self.register_buffer("value_mean", torch.zeros(len(self._values)))
        self.register_buffer("value_sd", torch.ones(len(self._values)))
        self._logarithms = frozenset(logarithms)
        self.matches = nn.ModuleList((matches or {}).values())
        self._match_names = tuple(matches or {})
        self.correlation = correlation
        self._odds = frozenset(odds)
        self._penalty_weight = penalty_weight
        self._squares: Tensor | None = None  # of the latest batch in training, for `penalty`

    def start_at_rates(self, objectives: Sequence[Objective], rates: Sequence[float]) -> None:
        """Has the probabilities start at the shares of positives `rates`, one an objective, of the training rows."""
        known = [(one, rate) for one, rate in zip(objectives, rates, strict=True) if one.of not in self._match_names]
        of, shares = [one for one, _ in known], [rate for _, rate in known]
        heads = self.heads.recipes
        self.heads.start_at(starting_logits(heads, derived=self._derived, objectives=of, rates=shares))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what is predicted: heads, then what is derived of them."""
        return (*self._names, *self._derived)

    @property
    def values(self) -> tuple[str, ...]:
        """Heads that predict a value and not a probability."""
        return self._values

    @property
    def odds(self) -> frozenset[str]:
        """Heads that predict the odds of their label."""
        return self._odds

    def scale_value(self, name: str, *, mean: float, sd: float) -> None:
        """Has the head's output 0 and 1 mean `mean` and `mean + sd`: those of what it learns, on the training rows."""
        number = self._values.index(name)
        self.value_mean[number] = mean
        self.value_sd[number] = sd

    def inputs(self, batch: ImpressionBatch) -> Tensor:
        """What the body reads `(B, D)`, or `(B, M, D)` where heads have fields of their own."""
        embedded = self._embedded(batch)
        assert embedded is not None
        return self._inputs(batch, embedded, self._domain(batch))

    def _embedded(self, batch: ImpressionBatch) -> Tensor | None:
        """The vectors of the fields `(B, F, dim)`, for body, products and terms; None where nothing reads them."""
        fields = batch.fields[0]
        assert fields is not None
        return None if self.embeddings is None else self.embeddings(fields)

    def _domain(self, batch: ImpressionBatch) -> Tensor | None:
        return None if self.domain is None else self.domain(batch.domain_ids)

    def _inputs(self, batch: ImpressionBatch, embedded: Tensor, domain: Tensor | None) -> Tensor:
        parts = [] if domain is None else [domain]
        if self.vectors is not None:
            assert batch.users is not None
            assert batch.known is not None
            assert batch.items is not None
            parts.append(self.vectors(batch.users, batch.known, batch.items))
        x = self._reads.inputs(embedded, parts)
        return x if self.norm is None else self.norm(x, domain_ids=batch.domain_ids)

    def _term_input(self, batch: ImpressionBatch, embedded: Tensor | None, domain: Tensor | None) -> TermInput:
        fields = batch.fields[0]
        assert fields is not None
        squares = None
        if self.terms is not None and self.terms.shares:
            assert self.embeddings is not None
            assert embedded is not None
            squares = self.embeddings.squares(fields, embedded)
        return TermInput(
            fields,
            batch.domain_ids,
            embedded=embedded,
            squares=squares,
            domain=domain,
            users=batch.users,
            known=batch.known,
            items=batch.items,
            there=None if batch.items is None else (batch.items != 0).any(dim=1),
        )

    def raw(self, batch: ImpressionBatch) -> dict[str, Tensor]:
        """The output of each head `(B,)`, with terms and bias towers: a logit, or a value in units that it learns; in
        training also the logit of each of the matches."""
        embedded, domain = self._embedded(batch), self._domain(batch)
        if self.training and self._penalty_weight and embedded is not None:
            self._squares = embedded.square().sum() / max(len(batch), 1)
        layers = []
        if self.body is not None:
            assert embedded is not None
            given = self.body(self._inputs(batch, embedded, domain), domain_ids=batch.domain_ids)
            layers = [branches.unbind(1) for branches in given]
        nothing = batch.domain_ids.new_empty(len(batch), 0, dtype=torch.float32)
        read = [nothing if one is None else layers[one[0]][one[1]] for one in self._branches]
        products = None if embedded is None else self._reads.factors(embedded)
        raw = self.heads(read, domain_ids=batch.domain_ids, products=products)
        if self.terms is not None:
            raw = self.terms(self._term_input(batch, embedded, domain), raw)
        for number, (tower, wanted) in enumerate(zip(self.biases, self._bias_heads, strict=True)):
            fields = batch.fields[1 + number]
            if fields is None:
                fields = batch.fields[0]
            added = cast(BiasTower, tower)(fields, domain_ids=batch.domain_ids)
            for name in wanted:
                raw[name] = raw[name] + added
        for number, name in enumerate(self._values):
            raw[name] = raw[name] * self.value_sd[number] + self.value_mean[number]
        if self.training:
            raw |= {name: match(embedded) for name, match in zip(self._match_names, self.matches, strict=True)}
        return raw

    def forward(self, batch: ImpressionBatch) -> dict[str, Output]:
        """Log probabilities and values of every output `(B,)`; in training also of the matches."""
        raw = self.raw(batch)
        logits = {name: value for name, value in raw.items() if name not in self._values}
        found: dict[str, Output] = dict(compose(logits, self._derived))
        names = (*self.outputs, *(self._match_names if self.training else ()))
        return {name: found[name] if name in found else raw[name] for name in names}

    def predicted(self, batch: ImpressionBatch) -> dict[str, Tensor]:
        """Probabilities, odds, and values in the units of their labels, of every output `(B,)` in float64."""
        found: dict[str, Tensor] = {}
        for name, output in self(batch).items():
            if isinstance(output, LogProbability):
                log_p = output.log_p.double()
                found[name] = (log_p - output.log_not_p.double() if name in self._odds else log_p).exp()
            else:
                value = output.double()
                found[name] = in_label_units("log_mse", value) if name in self._logarithms else value
        return found

    def penalty(self) -> Tensor:
        """What the recipe adds to the loss, `()`: of the body, and of the embeddings of the batch computed last."""
        total = self.value_mean.new_zeros(()) if self.body is None else self.body.penalty()
        squares, self._squares = self._squares, None
        return total if squares is None else total + self._penalty_weight * squares


class ImpressionModel(TaskModel):
    """An impression network on the user vectors of an encoder, which is frozen or has adapters inside."""

    head: ImpressionNetwork

    def __init__(
        self,
        encoder: "UserEncoder | PeftModel",
        head: ImpressionNetwork,
        *,
        readout: str | Readout,
        window: int | None = None,
    ):
        super().__init__(encoder, head, readout=readout, window=window)

    def item_vectors(self, item_rows: Tensor) -> Tensor:
        """Rows of the encoder's vocabulary `(B,)` to item vectors `(B, D)`, zero for row 0."""
        vectors = self.base_encoder.embed_tokens(item_rows.unsqueeze(0))[0]  # tables take histories
        return torch.where((item_rows > 0).unsqueeze(1), vectors, 0.0)
