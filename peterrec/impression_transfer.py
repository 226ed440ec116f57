"""One contestant on impressions, on one split: code the fields, build it, train it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peterrec.adaptation import build_impressions, history_length
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.data.attribute import Split
from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.impressions import Impressions
from peterrec.encoders.base import UserEncoder
from peterrec.impression_design import Design, build_network
from peterrec.impression_model import ImpressionModel, ImpressionNetwork
from peterrec.training.impression_reader import ImpressionReader
from peterrec.training.impression_step import ImpressionSettings
from peterrec.training.impression_vectors import ImpressionVectors
from peterrec.training.impressions import ImpressionProgram
from peterrec.training.loop import train
from peterrec.training.memory import PeakMemory
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.transfer import Trained
from peterrec.tuners.star import domains_told_apart

Ints = NDArray[np.int64]
Codings = tuple[FieldCoding | None, ...]


@dataclass(frozen=True)
class ImpressionFit:
    """A network with the `coding` of all its fields, and what each part reads of it; `model` is it on its encoder."""

    plan: Design
    coding: FieldCoding
    codings: Codings
    network: ImpressionNetwork
    model: ImpressionModel | None
    adapter: AdapterRecipe

    @property
    def whole(self) -> nn.Module:
        """All that there is: encoder and network, or the network."""
        return self.network if self.model is None else self.model

    def rows(
        self,
        impressions: Impressions,
        *,
        kept: Ints,
        cache_mb: int,
        earlier: dict[str, Tensor] | None = None,
        key: str | None = None,
    ) -> ImpressionReader:
        """`impressions` as this model reads them; the rows `kept` are those that will be asked for."""
        vectors = None
        if self.model is not None:
            vectors = ImpressionVectors(
                self.model,
                impressions,
                kept=kept,
                max_length=history_length(self.adapter, self.plan.task),
                domains=domains_told_apart(self.model.encoder) > 1,
                cache_mb=cache_mb,
                earlier=earlier,
                key=key,
            )
        return ImpressionReader(self.network, impressions, codings=self.codings, model=self.model, vectors=vectors)


def fit_codings(plan: Design, impressions: Impressions, rows: Ints) -> FieldCoding:
    """How all fields that a design reads are coded, by what the training `rows` hold."""
    return FieldCoding.fit(impressions, rows, fields=plan.all_fields, minimum=plan.task.features.minimum)


def codings_of(plan: Design, coding: FieldCoding) -> Codings:
    """What each part reads of `coding`: the network, then each bias tower (None: what the network reads)."""
    return tuple(None if fields is None else coding.select(fields) for fields in (plan.fields, *plan.bias_fields))


def build(plan: Design, coding: FieldCoding, *, encoder: UserEncoder | None, adapter: AdapterRecipe) -> ImpressionFit:
    """A model with fresh weights of its own. Raises SettingsError for an adapter that does not fit the encoder."""
    codings = codings_of(plan, coding)
    first, *others = codings
    assert first is not None
    network = build_network(
        plan,
        sizes=first.sizes,
        bias_sizes=[None if one is None else one.sizes for one in others],
        channels=None if encoder is None else encoder.config.hidden_size,
    )
    model = None
    if encoder is not None:
        model = build_impressions(encoder, network, adapter=adapter, task=plan.task, domains=plan.domains)
    return ImpressionFit(plan, coding, codings, network, model, adapter)


def fitted_of(model: nn.Module, plan: Design, coding: FieldCoding, adapter: AdapterRecipe) -> ImpressionFit:
    """The parts of a whole model, as `ImpressionFit.whole` gives it."""
    network = model.head if isinstance(model, ImpressionModel) else model
    assert isinstance(network, ImpressionNetwork)
    on = model if isinstance(model, ImpressionModel) else None
    return ImpressionFit(plan, coding, codings_of(plan, coding), network, on, adapter)


def fit_impressions(
    plan: Design,
    *,
    encoder: UserEncoder | None,
    adapter: AdapterRecipe,
    settings: ImpressionSettings,
    impressions: Impressions,
    split: Split,
    checkpoints: Path | None,
    tracker: Tracker,
    progress: Progress,
    earlier: dict[str, Tensor] | None = None,
    key: str | None = None,
) -> tuple[ImpressionFit, ImpressionReader, Trained]:
    """Trains on the training rows of a split, early stopping by its validation rows; the model stays on its device.

    `settings.seed` draws the weights and the batches. Vectors of a frozen encoder are shared between contestants in
    `earlier`, by `key`.
    """
    memory = PeakMemory()
    coding = fit_codings(plan, impressions, split.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        fitted = build(plan, coding, encoder=encoder, adapter=adapter)
    data = fitted.rows(
        impressions,
        kept=all_rows(split),
        cache_mb=settings.cache_mb,
        earlier=earlier,
        key=key,
    )
    program = ImpressionProgram(
        data,
        objectives=plan.objectives,
        measures=plan.measures,
        train=split.train,
        validation=split.validation,
        metric=plan.task.metric,
        row_weights=plan.task.row_weights,
        settings=settings,
        correlation=plan.task.correlation,
        balancer=plan.task.balancer,
        balancing=plan.task.balancing,
        note=progress.note,
    )
    result = train(program, settings, checkpoints=checkpoints, tracker=tracker, progress=progress)
    peak = memory.read(next(fitted.whole.parameters()).device)
    return fitted, data, Trained.of(fitted.whole, result, peak_memory_bytes=peak)


def all_rows(split: Split) -> Ints:
    """All rows of a split, rising."""
    return np.unique(np.concatenate([split.train, split.validation, split.test]))
