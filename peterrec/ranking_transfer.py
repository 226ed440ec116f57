"""One contestant that ranks a target catalogue, on one split: build it and train it."""

from pathlib import Path

import torch

from peterrec.adaptation import build_ranking, history_length
from peterrec.catalogue import RankingTask
from peterrec.data.attribute import Split
from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import Examples, choose_events
from peterrec.data.item_features import ItemFeatures
from peterrec.data.target_events import target_counts
from peterrec.ranking_model import RankingModel
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.loop import train
from peterrec.training.memory import PeakMemory
from peterrec.training.progress import Progress
from peterrec.training.ranking import RankingProgram
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, Trained, starting_encoder


def fit_ranking(
    contestant: Contestant,
    *,
    encoder_folder: Path,
    task: RankingTask,
    settings: FinetuningSettings,
    pairs: PairedLogs,
    split: Split,
    features: ItemFeatures | None,
    checkpoints: Path | None,
    tracker: Tracker,
    progress: Progress,
) -> tuple[RankingModel, Trained]:
    """Trains a contestant on the target events of the split's training users; the model stays on its device.

    As `transfer.fit`; early stopping looks at the validation users' events that the task predicts. The head's counts
    are the training users' target events.
    """
    memory = PeakMemory()
    encoder = starting_encoder(contestant, encoder_folder, seed=settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build_ranking(
            encoder,
            adapter=contestant.adapter,
            task=task,
            rows=len(pairs.target_vocabulary),
            counts=target_counts(pairs, split.train),
            features=features,
        )
    program = RankingProgram(
        model,
        pairs=pairs,
        task=task,
        train=split.train,
        validation=Examples(
            choose_events(pairs, split.validation, which=task.predict, fewest_source=task.fewest_source)
        ),
        max_length=history_length(contestant.adapter, task),
        settings=settings,
        note=progress.note,
    )
    result = train(program, settings, checkpoints=checkpoints, tracker=tracker, progress=progress)
    peak = memory.read(next(model.parameters()).device)
    return model, Trained.of(model, result, peak_memory_bytes=peak)
