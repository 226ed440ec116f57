"""Finished runs of tasks on an encoder, as if they had been trained: every weight of their own is moved."""

from pathlib import Path

import numpy as np
import torch

from peterrec import catalogue
from peterrec.adaptation import build, build_ranking
from peterrec.catalogue import AdapterRecipe, RankingTask, TaskRecipe
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.loading import encoder_revision, load_encoder, open_encoder
from peterrec.ranking_run import RankingFacts, save_ranking
from peterrec.run_folder import output_folder
from peterrec.run_record import relative_to_run
from peterrec.run_weights import weights_digest
from peterrec.settings import dump
from peterrec.task_run import TaskFacts, save_task


def task_run(
    folder: Path, encoder: Path, *, adapter: str | AdapterRecipe, seed: int = 0, classes=("f", "m", "x"), **changes
) -> Path:
    """A run of a task with classes; `changes` are to its recipe."""
    task = TaskRecipe.model_validate({**dump(catalogue.task("gender")), **changes})
    recipe = catalogue.adapter(adapter) if isinstance(adapter, str) else adapter
    torch.manual_seed(seed)
    model = build(load_encoder(encoder), adapter=recipe, task=task, num_classes=len(classes))
    _move(model)
    facts = TaskFacts(
        task=task,
        adapter=recipe,
        classes=classes,
        prior=(0.2, 0.3, 0.5),
        encoder_revision=encoder_revision(encoder),
        vocabulary_fingerprint=open_encoder(encoder)[1].fingerprint,
    )
    with output_folder(folder, stage="finetune", overwrite=False, resume={}) as run:
        with run.files() as temporary:
            save_task(model, folder=temporary, facts=facts)
        facts = facts.model_copy(update={"weights": weights_digest(folder, facts)})
        run.finish(inputs={"encoder": relative_to_run(encoder, folder)}, model=dump(facts))
    return folder


def ranking_run(folder: Path, encoder: Path, *, items, adapter: str = "none", seed: int = 0, **changes) -> Path:
    """A run of a task that ranks `items`."""
    task = RankingTask.model_validate({"name": "cold", "kind": "ranking", "readout": "mean", **changes})
    recipe = catalogue.adapter(adapter)
    vocabulary = Vocabulary.build(items, counts=np.arange(len(items))[::-1] + 5)
    counts = np.r_[0, 0, 0, np.random.default_rng(seed).integers(0, 9, len(items))]
    torch.manual_seed(seed)
    model = build_ranking(load_encoder(encoder), adapter=recipe, task=task, rows=len(vocabulary), counts=counts)
    _move(model)
    facts = RankingFacts(
        task=task,
        adapter=recipe,
        encoder_revision=encoder_revision(encoder),
        vocabulary_fingerprint=open_encoder(encoder)[1].fingerprint,
        target_fingerprint=vocabulary.fingerprint,
    )
    with output_folder(folder, stage="finetune", overwrite=False, resume={}) as run:
        with run.files() as temporary:
            save_ranking(model, folder=temporary, facts=facts, target_vocabulary=vocabulary)
        facts = facts.model_copy(update={"weights": weights_digest(folder, facts)})
        run.finish(inputs={"encoder": relative_to_run(encoder, folder)}, model=dump(facts))
    return folder


def _move(model) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
