"""What a task on impressions comes to on given data: its heads and objectives, which fields are read where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peterrec.data.impressions.field_batch import FieldSizes
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import SettingsError, did_you_mean
from peterrec.features.embeddings import FieldEmbeddings
from peterrec.features.head_inputs import HeadInputs
from peterrec.features.row_inputs import DomainInput, VectorInput
from peterrec.features.terms import Terms
from peterrec.head_layout import body_of, branches_of, check_fields
from peterrec.heads.bias_tower import BiasTower
from peterrec.heads.default_heads import default_heads
from peterrec.heads.impression_heads import ImpressionHeads
from peterrec.impression_checks import check_biases, check_labels, check_reached, check_spaces, formulas
from peterrec.impression_model import ImpressionNetwork
from peterrec.impression_recipe import Head, ImpressionTask
from peterrec.match_layout import check_matches, correlation_of, matches_of
from peterrec.objective_recipe import Measure, Objective
from peterrec.tuners.star import PartitionedNorm, add_star


@dataclass(frozen=True)
class Design:
    """A task on given data: what it predicts, learns and measures, and what it reads.

    `fields` are those of the network, `bias_fields` those of each bias tower, None where they are the network's.
    """

    task: ImpressionTask
    heads: tuple[Head, ...]
    derived: dict[str, str]
    objectives: tuple[Objective, ...]
    measures: tuple[Measure, ...]
    fields: tuple[str, ...]
    bias_fields: tuple[tuple[str, ...] | None, ...]
    domains: int

    @property
    def all_fields(self) -> tuple[str, ...]:
        """All fields that are read anywhere."""
        return tuple(dict.fromkeys((*self.fields, *(name for own in self.bias_fields if own for name in own))))

    @property
    def values(self) -> tuple[str, ...]:
        """Heads that predict a value."""
        return tuple(head.name for head in self.heads if head.output == "value")

    @property
    def scores(self) -> tuple[str, ...]:
        """Heads that predict a score, of which the order alone counts."""
        return tuple(head.name for head in self.heads if head.output == "score")

    @property
    def odds(self) -> tuple[str, ...]:
        """Heads that predict odds."""
        return tuple(head.name for head in self.heads if head.output == "odds")

    def is_value(self, measure: Measure) -> bool:
        """Whether a value is measured: one that is predicted, or odds as the expectation of what positives weigh."""
        return measure.of in self.values or measure.weight_by is not None


def design(task: ImpressionTask, *, fields: Sequence[str], labels: Mapping[str, bool], domains: int) -> Design:
    """What `task` comes to on data with these fields, labels (name to whether it is 0 or 1) and number of domains.

    A numeric field that is learned or measured is not read. Raises SettingsError for names that the data do not have,
    for domains where they have none, for losses that do not fit their head or label, for heads that no loss reaches,
    for bias towers that read what they must not, and where no field would be left to read.
    """
    if task.heads:
        heads, derived, objectives = task.heads, dict(task.derived), task.objectives
        beside = {match.name for match in task.matches}  # learned, and not predicted
        measures = task.measures or _measures_of(heads, [one for one in objectives if one.of not in beside])
    else:
        heads, derived, objectives, measures = default_heads(labels)
    check_labels(task, heads, objectives, measures, labels=labels, fields=fields)
    check_spaces(task, (*objectives, *measures), labels=labels)
    check_reached(task, heads, derived, objectives)
    body_of(task, heads, channels=1)  # refuses what does not fit
    if task.domains is not None and not domains:
        raise SettingsError(
            f"task {task.name}: its weights are a domain's (domains), and the data have none. Prepare the impressions "
            "with --domain COLUMN, or take a task without domains."
        )
    hidden = {field for bias in task.biases if bias.train_only for field in bias.fields}
    learned = {name for one in (*objectives, *measures) for name in (one.label, one.weight_by) if name is not None}
    targets = learned.difference(labels)
    for key, named in (
        ("features.without", task.features.without),
        *(("biases.fields", bias.fields) for bias in task.biases),
        *(("terms.fields", term.fields) for term in task.terms),
        *(("terms.crosses", cross) for term in task.terms for cross in term.crosses),
    ):
        for name in named:
            if name not in fields:
                raise SettingsError(
                    f"task {task.name}: {key} names {name!r}, no field of the data. {did_you_mean(name, fields)}"
                )
    check_biases(task, heads, targets=targets, hidden=hidden)
    lists = {one.group for one in objectives} - {"user"}  # a list's name says nothing of rows of other lists
    read = tuple(name for name in fields if name not in {*task.features.without, *hidden, *targets, *lists})
    check_fields(task, heads, fields=read)
    check_matches(task, fields=read, labels=labels)
    if not read:
        raise SettingsError(
            f"task {task.name}: no field of the data is left to read. Prepare the impressions with --field COLUMN, or "
            "take some out of features.without."
        )
    if task.features.penalty and not _embeds(task, heads):
        raise SettingsError(
            f"task {task.name}: features.penalty is on embeddings, and nothing of the recipe reads any (terms but fm "
            "have weights of their own). Leave it out, or add a [[body]], a product or an fm term."
        )
    return Design(
        task=task,
        heads=tuple(heads),
        derived=dict(derived),
        objectives=tuple(objectives),
        measures=tuple(measures),
        fields=read,
        bias_fields=tuple(bias.fields or None for bias in task.biases),
        domains=domains,
    )


def binary_labels(impressions: Impressions) -> dict[str, bool]:
    """The labels of the data, and whether each is 0 or 1 wherever it is known."""
    return {
        name: bool(np.isin(values[np.isfinite(values)], (0, 1)).all()) for name, values in impressions.labels.items()
    }


def build_network(
    plan: Design, *, sizes: FieldSizes, bias_sizes: Sequence[FieldSizes | None], channels: int | None
) -> ImpressionNetwork:
    """The network of a design, with fresh weights; `channels` are those of the encoder's vectors, None without one.

    `sizes` are the tables that its fields need, `bias_sizes` those of the bias towers with fields of their own.
    """
    task, dim = plan.task, plan.task.features.dim
    shared = _embeds(task, plan.heads)
    embeddings = FieldEmbeddings(sizes, dim) if shared else None
    norm_by_domain = task.domains is not None and task.domains.norm
    # a norm by domain would take a vector that all rows of a domain share for a constant: nothing of it is left in
    # training, and in evaluation whatever the running mean has not yet followed, times 1 / √ε
    domains = 0 if norm_by_domain else plan.domains
    domain = DomainInput(domains, dim=dim) if domains and shared else None
    vectors = None if channels is None or not task.body else VectorInput(channels, width=task.features.vectors)
    reads = HeadInputs.of(plan.heads, sizes.names)
    width = reads.width(sizes.names) * dim
    width += (dim if domain is not None else 0) + (0 if vectors is None else vectors.channels)
    norm = PartitionedNorm(width, num_domains=plan.domains) if norm_by_domain else None
    names = [head.name for head in plan.heads]
    body = body_of(task, plan.heads, channels=width)
    branches = branches_of(body, plan.heads)
    widths = [None if one is None or body is None else body.widths[one[0]] for one in branches]
    heads = ImpressionHeads(plan.heads, tower=task.tower, widths=widths, dim=dim)
    terms = None
    if task.terms:
        terms = Terms(task.terms, sizes=sizes, dim=dim, domains=domains, vectors=channels, heads=names)
    derived = formulas(plan.heads, plan.derived)
    if task.domains is not None:
        for part in (heads,) if body is None else (body, heads):
            add_star(part, num_domains=plan.domains, form=task.domains.star, rank=task.domains.rank)
    biases = []
    for bias, own in zip(task.biases, bias_sizes, strict=True):
        shown = sizes if own is None else own
        biases.append(BiasTower(bias, shown, embeddings=FieldEmbeddings(shown, dim), dim=dim, domains=plan.domains))
    return ImpressionNetwork(
        embeddings=embeddings,
        domain=domain,
        vectors=vectors,
        norm=norm,
        body=body,
        heads=heads,
        terms=terms,
        reads=reads,
        branches=branches,
        names=names,
        biases=biases,
        bias_heads=[names if bias.heads is None else bias.heads for bias in task.biases],
        derived=derived,
        values=(*plan.values, *plan.scores),
        logarithms=[one.of for one in plan.objectives if one.loss == "log_mse"],
        matches=matches_of(task, sizes.names),
        correlation=correlation_of(task, sizes.names),
        odds=plan.odds,
        penalty_weight=task.features.penalty,
    )


def _embeds(task: ImpressionTask, heads: Sequence[Head]) -> bool:
    """Whether anything reads embeddings of fields that all share; terms but `fm` have weights of their own."""
    multiplied = any(head.product for head in heads) or any(term.kind == "fm" for term in task.terms)
    return bool(task.body or task.matches or task.correlation) or multiplied


def _measures_of(heads: Sequence[Head], objectives: Sequence[Objective]) -> tuple[Measure, ...]:
    """What is learned; odds also as what they expect of the weights of positives."""
    odds = {head.name for head in heads if head.output == "odds"}
    return tuple(
        Measure(of=one.of, label=one.label, space=one.space, weight_by=one.weight_by if one.of in odds else None)
        for one in objectives
    )
