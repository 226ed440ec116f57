"""The folder of a task that ranks items: its adapter and head, its catalogue, and loading them again."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.adaptation import build_ranking, history_length
from peterrec.atomic import atomic_file
from peterrec.catalogue import RankingTask
from peterrec.data.item_features import ItemFeatures, Name, item_features
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.errors import RefusedError, SettingsError
from peterrec.ranking_model import RankingModel
from peterrec.run_record import read_run
from peterrec.run_weights import FoundEncoder, ModelFacts, fill_weights, find_encoder, read_own_weights, save_weights
from peterrec.settings import validate

CATALOGUE, FEATURES = "target_vocabulary.parquet", "item_features.parquet"


class RankingFacts(ModelFacts):
    """What run.json says of a ranking model: enough to build it, and to know its encoder and its catalogue."""

    task: RankingTask
    target_fingerprint: str
    feature_width: int = 0  # the most attribute values that an item has

    @property
    def max_length(self) -> int:
        """How many of the last events of a history the task reads at most."""
        return history_length(self.adapter, self.task)

    @property
    def one_log(self) -> bool:
        """Whether source and target domain were parts of one log."""
        return self.task.target_items is not None


@dataclass(frozen=True)
class LoadedRanking:
    """A ranking model in evaluation mode with the facts and the vocabularies that belong to it.

    The counts of `target_vocabulary` are the events of the training users, in whatever order its rows stand; `names`
    are the attribute values that items may have.
    """

    model: RankingModel
    facts: RankingFacts
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    encoder_folder: Path
    names: tuple[Name, ...] = ()


def save_ranking(
    model: RankingModel,
    *,
    folder: Path,
    facts: RankingFacts,
    target_vocabulary: Vocabulary,
    features: ItemFeatures | None = None,
    base_model: str = "",
) -> None:
    """Writes the weights that the task has of its own, and beside them its catalogue and the names of attributes.

    `base_model` is as for `save_task`; `weights_digest` gives the digest that the facts want.
    """
    assert facts.target_fingerprint == target_vocabulary.fingerprint
    assert facts.feature_width == (0 if features is None else features.width)
    save_weights(model, folder=folder, facts=facts, base_model=base_model)
    target_vocabulary.save(folder / CATALOGUE)
    if features is not None:
        columns, values = zip(*features.names, strict=True)
        table = pa.table({"column": pa.array(columns, pa.string()), "value": pa.array(values, pa.string())})
        with atomic_file(folder / FEATURES) as path:
            pq.write_table(table, path, compression="zstd")


def load_ranking(folder: Path, *, encoder: Path | FoundEncoder | None = None, continued: bool = False) -> LoadedRanking:
    """Loads what `peterrec finetune` wrote of a task that ranks items; `encoder` and `continued` as for `load_task`.

    Raises SettingsError where the run or its encoder is not there, RefusedError where encoder, vocabulary or catalogue
    are not those that the model was trained with, or a file is damaged.
    """
    folder = Path(folder)
    run = read_run(folder, stage="finetune")
    facts = validate(RankingFacts, run.get("model", {}), origin=str(folder / "run.json"))
    found = find_encoder(folder, facts, run=run, encoder=encoder, continued=continued)
    tensors = read_own_weights(folder, facts)
    catalogue = Vocabulary.load(folder / CATALOGUE)
    if catalogue.fingerprint != facts.target_fingerprint:
        raise RefusedError(
            f"{folder / CATALOGUE} is not the catalogue that the model was trained on, so its scores would be those "
            "of other items. Put the right file back, or fine-tune again."
        )
    names = _names(folder / FEATURES) if facts.task.item_features else ()
    shape = (len(catalogue), facts.feature_width)
    blank = ItemFeatures(names, np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)) if names else None
    model = build_ranking(found.encoder, adapter=facts.adapter, task=facts.task, rows=len(catalogue), features=blank)
    fill_weights(model, tensors, folder=folder, facts=facts, given=found.given)
    return LoadedRanking(
        model=model.eval(),
        facts=facts,
        source_vocabulary=found.vocabulary,
        target_vocabulary=Vocabulary(catalogue.items, model.head.counts.numpy()[FIRST_ITEM:]),
        encoder_folder=found.folder,
        names=names,
    )


def add_items(loaded: LoadedRanking, items: pa.Table) -> tuple[LoadedRanking, int]:
    """Puts the new ones of `items`, a table with ids in `item`, into the catalogue of a model that knows attributes.

    A new item is scored by its attributes, and by the mean of what the others' popularity gives them; the others'
    scores stay. The head of the model is changed in place. Returns the model with its longer catalogue, and how many
    new items have no attribute that the model knows: they are left out, for nothing says where they belong.

    Raises SettingsError for a model without `item_features`, DataError where the table has no such columns.
    """
    columns, catalogue = loaded.facts.task.item_features, loaded.target_vocabulary
    if not columns:
        raise SettingsError(
            f"the model of task {loaded.facts.task.name} scores items by themselves alone, so it knows nothing of new "
            "ones: leave --items out, or fine-tune again with item_features set in the task."
        )
    ids = items["item"].cast(pa.string()).unique()
    ids = ids.filter(pa.array(catalogue.rows(ids) < 0))
    everything = Vocabulary(ids, np.zeros(len(ids), dtype=np.int64))
    told = item_features(items, vocabulary=everything, columns=columns, names=loaded.names)
    kept = told.weights[FIRST_ITEM:].sum(axis=1) > 0
    rows = FIRST_ITEM + np.flatnonzero(kept)
    loaded.model.head.grow(ItemFeatures(told.names, told.values[rows], told.weights[rows]))
    longer = Vocabulary(
        pa.concat_arrays([catalogue.items, ids.filter(pa.array(kept))]),
        loaded.model.head.counts.cpu().numpy()[FIRST_ITEM:],
    )
    return replace(loaded, target_vocabulary=longer), len(ids) - len(rows)


def _names(path: Path) -> tuple[Name, ...]:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        return tuple(zip(table["column"].to_pylist(), table["value"].to_pylist(), strict=True))
    except (OSError, KeyError, pa.ArrowException) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise RefusedError(f"{path}: cannot be read ({reason}); put it back, or fine-tune again.") from None
