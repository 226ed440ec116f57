"""Who takes part in a comparison: adapters by name, and the controls that a user may ask for."""

from collections.abc import Collection, Sequence

from peterrec.catalogue import adapter, names
from peterrec.errors import SettingsError, did_you_mean
from peterrec.transfer import Contestant

ALL = "all"
BESIDE = ("none", "full")  # what stands beside a task's own adapter when none are named
# What a user may ask: is it the pretraining (scratch), or just the architecture (random)?
CONTROLS = {
    "scratch": "the same network trained from random weights",
    "random": "the first adapter that freezes the encoder, on one of random weights",
}
BASELINES = ("bag_of_items", "lsa", "majority")
ORACLE = "oracle"
RESERVED = (*BASELINES, ORACLE)  # names of a classification's other rows
Field = list[tuple[Contestant, str]]  # contestants with their roles


def named(adapters: Sequence[str] | None, *, own: str) -> list[str]:
    """The adapters as named, with every other one of the catalogue in the place of `all`.

    For None the task's `own` adapter, the head alone, and full fine-tuning.
    """
    if adapters is None:
        return list(dict.fromkeys((own, *BESIDE)))
    others = [name for name in names("adapters") if name not in adapters]
    return [each for name in adapters for each in (others if name == ALL else [name])]


def contestants(adapters: Sequence[str], controls: Sequence[str], *, reserved: Collection[str] = RESERVED) -> Field:
    """The contestants with their roles; raises SettingsError for an unknown name, or one that is `reserved`."""
    if not adapters:
        raise SettingsError("--adapters names none; give at least one, such as serial.")
    chosen = [adapter(name) for name in adapters]
    found = [
        (Contestant(recipe.name, recipe, source=source), "model")
        for recipe, source in zip(chosen, adapters, strict=True)
    ]
    for name in controls:
        if name not in CONTROLS:
            raise SettingsError(f"There is no control {name!r}. {did_you_mean(name, CONTROLS)}")
        if name == "scratch":
            # full fine-tuning is slow because its weights are worth keeping; from scratch the task's own rate holds
            recipe = adapter("full").model_copy(update={"learning_rate": None})
            found.append((Contestant(name, recipe, pretrained=False), "control"))
        else:
            freezing = next((recipe for recipe in chosen if recipe.tuner != "full"), None)
            if freezing is None:
                raise SettingsError(
                    "The control random needs an adapter that freezes the encoder, and --adapters names none; add one, "
                    "such as none, or leave random out of --controls."
                )
            found.append((Contestant(f"random+{freezing.name}", freezing, pretrained=False), "control"))
    names = [one.name for one, _ in found]
    for name in names:
        if names.count(name) > 1 or name in reserved:
            taken = "twice" if names.count(name) > 1 else "by a baseline"
            raise SettingsError(f"The name {name!r} would be taken {taken} in the table; rename that adapter's file.")
    return found
