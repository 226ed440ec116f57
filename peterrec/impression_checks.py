"""What of a task on impressions cannot be on given data: labels, spaces, losses and towers that do not fit."""

from collections.abc import Mapping, Sequence

from peterrec.data.impressions.space import parse_space
from peterrec.errors import SettingsError, did_you_mean
from peterrec.heads.compose import Derived, parse_derived
from peterrec.impression_recipe import Head, ImpressionTask
from peterrec.objective_recipe import Measure, Objective


def formulas(heads: Sequence[Head], derived: Mapping[str, str]) -> dict[str, Derived]:
    """What is derived, each of probabilities and of what stands before it."""
    known = [head.name for head in heads if head.output == "probability"]
    found: dict[str, Derived] = {}
    for name, text in derived.items():
        found[name] = parse_derived(text, [*known, *found])
    return found


def check_labels(
    task: ImpressionTask,
    heads: Sequence[Head],
    objectives: Sequence[Objective],
    measures: Sequence[Measure],
    *,
    labels: Mapping[str, bool],
    fields: Sequence[str],
) -> None:
    """Raises SettingsError for labels that are not there, and for losses that do not fit their head or label."""
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


def check_spaces(task: ImpressionTask, counted: Sequence[Objective | Measure], *, labels: Mapping[str, bool]) -> None:
    """Raises SettingsError for a space that speaks of a label which the data do not have."""
    for one in counted:
        for name in () if one.space is None else parse_space(one.space).names:
            if name not in labels:
                raise SettingsError(
                    f"task {task.name}: the space {one.space!r} of {one.of!r} needs the label {name!r}, and the data "
                    f"have none of that name. {did_you_mean(name, labels)}"
                )


def check_reached(
    task: ImpressionTask, heads: Sequence[Head], derived: Mapping[str, str], objectives: Sequence[Objective]
) -> None:
    """Raises SettingsError for a head whose output no loss would train: its predictions would be those at the start."""
    reached = {one.of for one in objectives}
    parts = formulas(heads, derived)
    for name in reversed(parts):
        if name in reached:
            reached.update(parts[name].names)
    for head in reversed(heads):
        if head.name not in reached:
            raise SettingsError(
                f"task {task.name}: no loss reaches the head {head.name!r}. Give it, or what is derived from it, one "
                "of [[objectives]], or leave it out."
            )
        if head.link == "logits":
            reached.update(head.parents)


def check_biases(task: ImpressionTask, heads: Sequence[Head], *, targets: set[str], hidden: set[str]) -> None:
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
