"""From an adapter recipe to a task model: which weights of the encoder stay frozen, and which tuner goes around it."""

from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray

from peterrec.adapter_recipe import AdapterRecipe
from peterrec.catalogue import RankingTask, TaskRecipe
from peterrec.data.item_features import ItemFeatures
from peterrec.data.reading import WHOLE
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import Readout
from peterrec.encoders.user_reading import reading_of
from peterrec.errors import SettingsError
from peterrec.heads.classification import ClassificationHead
from peterrec.heads.mixed_input import MixedInput
from peterrec.heads.ranking import RankingHead
from peterrec.impression_model import ImpressionModel, ImpressionNetwork
from peterrec.impression_recipe import ImpressionTask
from peterrec.model import TaskModel
from peterrec.ranking_model import RankingModel
from peterrec.tuner_placement import adapt as adapt

AnyTask = TaskRecipe | RankingTask | ImpressionTask


def build(
    encoder: UserEncoder,
    *,
    adapter: AdapterRecipe,
    task: TaskRecipe,
    num_classes: int,
    class_weights: torch.Tensor | None = None,
) -> TaskModel:
    """A task model on `encoder`, with the adapter's tuner around it and everything else frozen as the adapter says.

    The adapter's readout, where it names one, takes the place of the task's; where it is the encoder's, it starts as
    a copy of what that learned. What the readout does not read is frozen. Users have no domains here. Raises what
    `adapt` and `tune` raise.
    """
    reader = task_reader(encoder, adapter=adapter, task=task)
    convex = adapter.fit == "convex"
    if convex and task.head.hidden:
        raise SettingsError(
            f"adapter {adapter.name}: fit = 'convex' finds a linear head, and task {task.name} has head.hidden = "
            f"{list(task.head.hidden)}. Set head.hidden = [], or take another adapter."
        )
    head = ClassificationHead(
        encoder.config.hidden_size,
        num_classes,
        hidden=task.head.hidden,
        dropout=task.head.dropout,
        common_scale=convex or task.head.fit == "newton",
    )
    model = TaskModel(
        encoder, head, readout=reader, window=task_window(adapter, task=task), class_weights=class_weights
    )
    tune(model, encoder, adapter=adapter)
    model.convex = convex
    return model


def build_ranking(
    encoder: UserEncoder,
    *,
    adapter: AdapterRecipe,
    task: RankingTask,
    rows: int,
    counts: NDArray[np.integer] | None = None,
    features: ItemFeatures | None = None,
) -> RankingModel:
    """As `build`, a model that ranks a catalogue of `rows` rows (special ones included).

    `counts` `(rows,)` are the training events of each item, for a head that is to be trained, and `features` the
    attributes of the items where the task names some. Raises what `build` raises, and SettingsError for an adapter that
    is fitted without steps, and for item weights where target items stand in the histories.
    """
    if adapter.fit == "convex":
        raise SettingsError(
            f"adapter {adapter.name}: fit = 'convex' is for tasks with classes, and task {task.name} ranks items. Set "
            "fit = 'gradient'."
        )
    assert (features is None) == (not task.item_features)
    reader = task_reader(encoder, adapter=adapter, task=task)
    channels, mixed = encoder.config.hidden_size, task.history == "mixed"
    if mixed and reader.item_weights is not None:
        raise SettingsError(
            f"task {task.name}: history = 'mixed' holds items that the encoder does not know, and the readout weighs "
            "the encoder's items alone. Take a readout without item_weights, or history = 'source'."
        )
    head = RankingHead(
        channels,
        rows,
        hidden=task.head.hidden,
        dropout=task.head.dropout,
        features=features,
        counts=counts,
        history=MixedInput(channels, source_rows=encoder.config.vocab_size, target_rows=rows) if mixed else None,
    ).to(encoder.dtype)
    model = RankingModel(encoder, head, readout=reader, window=task_window(adapter, task=task))
    tune(model, encoder, adapter=adapter)
    return model


def build_impressions(
    encoder: UserEncoder, network: ImpressionNetwork, *, adapter: AdapterRecipe, task: ImpressionTask, domains: int
) -> ImpressionModel:
    """As `build`, a model of impressions: `network` on the user vectors of `encoder`.

    `domains` is as for `tune`. Raises what `build` raises, and SettingsError for an adapter that is fitted without
    steps.
    """
    if adapter.fit == "convex":
        raise SettingsError(
            f"adapter {adapter.name}: fit = 'convex' is for tasks with classes, and task {task.name} is on "
            "impressions. Set fit = 'gradient'."
        )
    reader = task_reader(encoder, adapter=adapter, task=task)
    model = ImpressionModel(encoder, network, readout=reader, window=task_window(adapter, task=task))
    tune(model, encoder, adapter=adapter, domains=domains)
    return model


def task_window(adapter: AdapterRecipe, *, task: AnyTask) -> int | None:
    """The positions of a window in which histories are read; None: as many as the encoder takes."""
    return task.window if adapter.window is None else adapter.window


def tune(model: TaskModel, encoder: UserEncoder, *, adapter: AdapterRecipe, domains: int = 1) -> None:
    """Puts the adapter's tuner around the encoder of a fresh model, and freezes what is not to train.

    `domains`: how many the task's data has, 0 or 1 where it tells none. `domains_told_apart(model.encoder)` then says
    whether the tuner keeps weights a domain and wants `domain_ids`. Raises SettingsError for a tuner with another
    number of domains, for a readout that does not fit the encoder, and where the readout reads nothing that the
    adapter trains.
    """
    reader = model.reader
    reading_of(encoder, reader, max_length=WHOLE, window=model.window)  # what does not fit the encoder is refused here
    if adapter.tuner != "full":
        model.freeze_encoder()
        model.encoder = adapt(encoder, adapter, readout=reader.kind, domains=domains)
    encoder.reader.requires_grad_(False)  # the task has a reader of its own
    _freeze_unread(encoder, reader, model=model, adapter=adapter)


def history_length(adapter: AdapterRecipe, task: AnyTask) -> int:
    """How many of the last events of a history are read at most; `WHOLE` for all."""
    length = task.max_length if adapter.max_length is None else adapter.max_length
    return WHOLE if length == "all" else length


def task_reader(encoder: UserEncoder, *, adapter: AdapterRecipe, task: AnyTask) -> Readout:
    """The readout of a task: a copy of the encoder's own where the recipes ask for the same, else a fresh one."""
    recipe = task if adapter.readout is None else adapter
    kind, own = recipe.readout, encoder.reader
    assert kind is not None
    layers, item_weights = recipe.layers or (-1,), bool(recipe.item_weights)
    if kind == "encoder" or own.is_like(kind, layers=layers, item_weights=item_weights):
        reader = deepcopy(own)
    else:
        config = encoder.config
        reader = Readout(
            kind,
            channels=config.hidden_size,
            depth=len(encoder.blocks),
            layers=layers,
            item_weights=item_weights,
            vocab_size=config.vocab_size,
        ).to(encoder.dtype)
    return reader.requires_grad_(task.train_readout if adapter.train_readout is None else adapter.train_readout)


def _freeze_unread(encoder: UserEncoder, reader: Readout, *, model: TaskModel, adapter: AdapterRecipe) -> None:
    """Freezes the blocks above all layers that are read, adapters in them included.

    Raises SettingsError where nothing that the adapter trains would be left.
    """
    trained = any(parameter.requires_grad for parameter in model.encoder.parameters())
    top = max(reader.layers)
    for block in encoder.blocks[top:]:
        block.requires_grad_(False)
    if trained and not any(parameter.requires_grad for parameter in model.encoder.parameters()):
        layers = ", ".join(map(str, reader.layers))
        raise SettingsError(
            f"adapter {adapter.name}: all that it trains stands above the layers {layers}, which the readout reads. "
            "Read a higher layer (layers = [-1] is the top), or take the adapter none."
        )
