"""What a task on impressions comes to on given data: its heads and objectives, which fields are read where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peterrec.data.impressions.field_batch import FieldSizes
from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.space import parse_space
from peterrec.errors import SettingsError, did_you_mean
from peterrec.features.embeddings import FieldEmbeddings
from peterrec.features.head_inputs import HeadInputs
from peterrec.features.terms import Terms
from peterrec.head_layout import body_of, branches_of, check_fields
from peterrec.heads.bias_tower import BiasTower
from peterrec.heads.compose import Derived, parse_derived
from peterrec.heads.default_heads import default_heads
from peterrec.heads.impression_heads import ImpressionHeads
from peterrec.impression_model import DomainInput, ImpressionNetwork, VectorInput
from peterrec.impression_recipe import Head, ImpressionTask, Measure, Objective
from peterrec.match_layout import check_matches, correlation_of, matches_of
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
    _check_labels(task, heads, objectives, measures, labels=labels, fields=fields)
    _check_spaces(task, (*objectives, *measures), labels=labels)
    _check_reached(task, heads, derived, objectives)
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
    _check_biases(task, heads, targets=targets, hidden=hidden)
    lists = {one.group for one in objectives} - {"user"}  # a list's name says nothing of rows of other lists
    read = tuple(name for name in fields if name not in {*task.features.without, *hidden, *targets, *lists})
    check_fields(task, heads, fields=read)
    check_matches(task, fields=read, labels=labels)
    if not read:
        raise SettingsError(
            f"task {task.name}: no field of the data is left to read. Prepare the impressions with --field COLUMN, or "
            "take some out of features.without."
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


def _check_spaces(task: ImpressionTask, counted: Sequence[Objective | Measure], *, labels: Mapping[str, bool]) -> None:
    for one in counted:
        for name in () if one.space is None else parse_space(one.space).names:
            if name not in labels:
                raise SettingsError(
                    f"task {task.name}: the space {one.space!r} of {one.of!r} needs the label {name!r}, and the data "
                    f"have none of that name. {did_you_mean(name, labels)}"
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
    multiplied = any(head.product for head in plan.heads) or any(term.kind == "fm" for term in task.terms)
    shared = bool(task.body or task.matches or task.correlation) or multiplied
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
    derived = _formulas(plan.heads, plan.derived)
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
    )


def _measures_of(heads: Sequence[Head], objectives: Sequence[Objective]) -> tuple[Measure, ...]:
    """What is learned; odds also as what they expect of the weights of positives."""
    odds = {head.name for head in heads if head.output == "odds"}
    return tuple(
        Measure(of=one.of, label=one.label, space=one.space, weight_by=one.weight_by if one.of in odds else None)
        for one in objectives
    )


def _formulas(heads: Sequence[Head], derived: Mapping[str, str]) -> dict[str, Derived]:
    """What is derived, each of probabilities and of what stands before it."""
    known = [head.name for head in heads if head.output == "probability"]
    found: dict[str, Derived] = {}
    for name, text in derived.items():
        found[name] = parse_derived(text, [*known, *found])
    return found


def _check_labels(
    task: ImpressionTask,
    heads: Sequence[Head],
    objectives: Sequence[Objective],
    measures: Sequence[Measure],
    *,
    labels: Mapping[str, bool],
    fields: Sequence[str],
) -> None:
    values = {head.name for head in heads if head.output == "value"}
    for one in (*objectives, *measures):
        if one.weight_by is not None and one.weight_by not in (*labels, *fields):
            raise SettingsError(
                f"task {task.name}: {one.of!r} has weight_by = {one.weight_by!r}, neither a label nor a field of the "
                f"data. {did_you_mean(one.weight_by, (*labels, *fields))}"
            )
        if one.label not in labels and one.label in fields and one.of not in values:
            raise SettingsError(
                f"task {task.name}: {one.of!r} is a probability, and {one.label!r} is a field of the data, which only "
                "a head with output = 'value' learns. Prepare it as a label, with --label, or set the head's output."
            )
        if one.label not in labels and one.label not in fields:
            raise SettingsError(
                f"task {task.name}: it learns the label {one.label!r}, which the data do not have; they have "
                f"{', '.join(labels)}. Prepare the impressions with --label {one.label}=COLUMN."
            )
        if one.of not in values and not labels.get(one.label, False):
            raise SettingsError(
                f"task {task.name}: {one.of!r} is a probability, and the label {one.label!r} is not 0 or 1. Set its "
                "head's output = 'value', or prepare the label with a condition, such as --label like=rating>=4."
            )
    scores = {head.name for head in heads if head.output == "score"}
    for one in objectives:
        if (one.of in scores) != (one.group is not None):
            kind = "a score: take bpr or listwise" if one.of in scores else "no score: set its head's output = 'score'"
            raise SettingsError(f"task {task.name}: {one.of!r} has the loss {one.loss}, but it is {kind}.")
        if one.of not in scores and (one.of in values) != (one.loss != "bce"):
            kind = "a value: take mse or log_mse" if one.of in values else "a probability: take bce"
            raise SettingsError(f"task {task.name}: {one.of!r} has the loss {one.loss}, but it is {kind}.")
    for value in values:
        if len({one.loss for one in objectives if one.of == value}) > 1:
            raise SettingsError(
                f"task {task.name}: {value!r} has the losses mse and log_mse, of a number and of its logarithm: it "
                "cannot be both. Take one of them, or two heads."
            )


def _check_reached(
    task: ImpressionTask, heads: Sequence[Head], derived: Mapping[str, str], objectives: Sequence[Objective]
) -> None:
    """Raises SettingsError for a head whose output no loss would train: its predictions would be those at the start."""
    reached = {one.of for one in objectives}
    formulas = _formulas(heads, derived)
    for name in reversed(formulas):
        if name in reached:
            reached.update(formulas[name].names)
    for head in reversed(heads):
        if head.name not in reached:
            raise SettingsError(
                f"task {task.name}: no loss reaches the head {head.name!r}. Give it, or what is derived from it, one "
                "of [[objectives]], or leave it out."
            )
        if head.link == "logits":
            reached.update(head.parents)


def _check_biases(task: ImpressionTask, heads: Sequence[Head], *, targets: set[str], hidden: set[str]) -> None:
    """`targets` are the fields that are learned or measured, `hidden` those that are read in training alone."""
    known = [head.name for head in heads]
    for bias in task.biases:
        for name in bias.fields:
            if name in targets:
                raise SettingsError(
                    f"task {task.name}: biases.fields names {name!r}, which the task learns or measures: leave it out."
                )
            if name in hidden and not bias.train_only:
                raise SettingsError(
                    f"task {task.name}: one of the biases reads {name!r} in training alone (train_only), another one "
                    "always: leave it out of one of them."
                )
        if unknown := [name for name in bias.heads or () if name not in known]:
            raise SettingsError(f"task {task.name}: biases name the head {unknown[0]!r}; there are {', '.join(known)}.")
