"""Tasks that a server answers: loading each kind from its run on the shared encoder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn

from peterrec.data.new_mixed import joined_vocabulary
from peterrec.encoders.base import UserEncoder
from peterrec.errors import SettingsError
from peterrec.impression_run import LoadedImpressions, load_impressions
from peterrec.model import TaskModel
from peterrec.ranking_model import MixedEncoder
from peterrec.ranking_run import LoadedRanking, load_ranking
from peterrec.recommender import Recommender, ranking_recommender
from peterrec.run_record import read_run
from peterrec.run_weights import ModelFacts, kind_of
from peterrec.serving.engine import Engine, Route
from peterrec.serving.item_lookup import ItemLookup
from peterrec.serving.shared_encoder import SharedEncoder, tensor_bytes
from peterrec.task_run import LoadedTask, load_task

Kind = Literal["classification", "ranking", "impressions"]


@dataclass(frozen=True, eq=False)
class ServedTask:
    """A task by its name on the server, and the run that it came from.

    `own` are the modules that nobody shares. `route` leads to its user vectors (none for impressions, which read
    histories in their own way). `adapter` says whether it has an adapter inside the encoder, `whole` whether an
    encoder of its own.
    """

    name: str
    folder: Path
    facts: ModelFacts
    kind: Kind
    own: tuple[nn.Module, ...]
    route: Route | None
    adapter: bool = False
    whole: bool = False
    bytes: int = 0


@dataclass(frozen=True, eq=False)
class ServedClasses(ServedTask):
    """A task with classes."""

    head: nn.Module = field(kw_only=True)
    classes: tuple[str, ...] = field(kw_only=True)
    prior: tuple[float, ...] = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class ServedRanking(ServedTask):
    """A task that ranks a catalogue: `recommender` with the queries of `head`; both sides look up ids."""

    head: nn.Module = field(kw_only=True)
    recommender: Recommender = field(kw_only=True)
    known: ItemLookup = field(kw_only=True)
    catalogue: ItemLookup = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class ServedImpressions(ServedTask):
    """A task on impressions."""

    loaded: LoadedImpressions = field(kw_only=True)
    optional: frozenset[str] = field(kw_only=True)
    domains: Mapping[str, int] = field(kw_only=True)


def load(name: str, folder: Path, *, shared: SharedEncoder, continued: bool = False) -> ServedTask:
    """The task that `peterrec finetune` left in `folder`, on the encoder of a server.

    Raises what `load_task` raises: SettingsError where there is no such run, RefusedError where it was trained on
    another encoder or vocabulary, or is damaged.
    """
    folder = Path(folder)
    run = read_run(folder, stage="finetune")
    told = run.get("model")
    told = told if isinstance(told, dict) else {}
    adapter = told.get("adapter")
    tuner = adapter.get("tuner") if isinstance(adapter, dict) else None
    # an encoder that was trained as a whole is another one: nothing may be written into the shared tensors
    encoder = shared.folder if tuner == "full" else shared.twin()
    kind = kind_of(run)
    if kind == "ranking":
        return _ranking(name, folder, load_ranking(folder, encoder=encoder, continued=continued), shared)
    if kind == "impressions":
        with_encoder = bool(told.get("encoder_revision"))
        loaded = load_impressions(folder, encoder=encoder if with_encoder else None, continued=continued)
        return _impressions(name, folder, loaded, shared)
    return _classes(name, folder, load_task(folder, encoder=encoder, continued=continued), shared)


def _settled(model: TaskModel, facts: ModelFacts, shared: SharedEncoder) -> tuple[bool, bool]:
    """Moves a model to the server's device, frozen; whether it has an adapter inside, or an encoder of its own."""
    model.to(shared.device).eval().requires_grad_(False)
    whole = facts.adapter.tuner == "full"
    adapter = not isinstance(model.encoder, UserEncoder)
    if not adapter and not whole:
        model.encoder = shared.encoder  # the twin holds the same tensors; one set of modules will do
    return adapter, whole


def _engine(model: TaskModel, shared: SharedEncoder, *, adapter: bool, whole: bool) -> tuple[Engine, str | None]:
    if not adapter:
        return (Engine(model.base_encoder, model.base_encoder) if whole else shared.engine), None
    names = tuple(model.encoder.peft_config)  # type: ignore[union-attr]
    return Engine(model.encoder, model.base_encoder, names), names[0]


def _classes(name: str, folder: Path, loaded: LoadedTask, shared: SharedEncoder) -> ServedTask:
    model, facts = loaded.model, loaded.facts
    adapter, whole = _settled(model, facts, shared)
    engine, inside = _engine(model, shared, adapter=adapter, whole=whole)
    return ServedClasses(
        name,
        folder,
        facts,
        "classification",
        (model.head, model.reader),
        Route(engine, model.reader, model.reading(facts.max_length), inside),
        adapter,
        whole,
        tensor_bytes(model, beside=shared.encoder),
        head=model.head,
        classes=facts.classes,
        prior=facts.prior,
    )


def _ranking(name: str, folder: Path, loaded: LoadedRanking, shared: SharedEncoder) -> ServedTask:
    model, facts = loaded.model, loaded.facts
    adapter, whole = _settled(model, facts, shared)
    recommender = ranking_recommender(
        model,
        known=loaded.source_vocabulary,
        catalogue=loaded.target_vocabulary,
        max_length=facts.max_length,
        device=shared.device,
        one_log=facts.one_log,
    )
    engine, inside = _engine(model, shared, adapter=adapter, whole=whole)
    history = model.head.history
    if history is not None:  # items of its own go into the encoder: no pass of another task would do
        mixed = MixedEncoder(model.encoder, model.base_encoder, history)
        engine, inside = Engine(mixed, mixed), None
    read = recommender.known
    if recommender.mixed and recommender.one_log:  # one history holds the items of both
        read = joined_vocabulary(read, recommender.catalogue)
    return ServedRanking(
        name,
        folder,
        facts,
        "ranking",
        (model.head, model.reader),
        Route(engine, model.reader, model.reading(facts.max_length), inside),
        adapter,
        whole,
        tensor_bytes(model, beside=shared.encoder),
        head=model.head,
        recommender=recommender,
        known=shared.lookup if read is shared.vocabulary else ItemLookup(read),
        catalogue=ItemLookup(recommender.catalogue),
    )


def _impressions(name: str, folder: Path, loaded: LoadedImpressions, shared: SharedEncoder) -> ServedTask:
    fitted, facts = loaded.fitted, loaded.facts
    adapter = whole = False
    if fitted.model is not None:
        adapter, whole = _settled(fitted.model, facts, shared)
    fitted.whole.to(shared.device).eval().requires_grad_(False)
    optional = {name for bias in facts.task.biases if bias.train_only for name in bias.fields}
    optional |= {one.name for one in loaded.schema.fields if one.name not in fitted.plan.all_fields}
    return ServedImpressions(
        name,
        folder,
        facts,
        "impressions",
        (fitted.network,),
        None,
        adapter,
        whole,
        tensor_bytes(fitted.whole, beside=shared.encoder),
        loaded=loaded,
        optional=frozenset(optional),
        domains={one: number for number, one in enumerate(loaded.schema.domains)},
    )


def refuse_kind(task: ServedTask, *, wanted: Kind) -> SettingsError:
    """What to say where a task of another kind was named."""
    how = {"classification": "predict", "ranking": "recommend", "impressions": "impressions"}
    return SettingsError(
        f"The task {task.name!r} is of the kind {task.kind}, and {wanted} was asked for: ask for {how[task.kind]}."
    )
