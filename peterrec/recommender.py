"""Recommenders: who scores a catalogue for histories, by what was learned, or, without a history, by popularity."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.item_rule import ItemRule
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import FIRST_ITEM, PAD, Vocabulary
from peterrec.encoders.loading import open_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.inference import encode, next_item_states
from peterrec.metrics.ranking import Histories
from peterrec.objectives.settings import POSITION_LEVEL
from peterrec.ranking_model import RankingModel
from peterrec.ranking_run import RankingFacts, add_items, load_ranking
from peterrec.run_record import read_run
from peterrec.top_k import top_items

Vectors = Callable[[Sequences, NDArray[np.int64]], Tensor]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Recommended:
    """The best k of N users: `items` rows of the catalogue, best first, PAD where there are no more, and `scores`.

    Both `(N, k)`. `by_popularity` `(N,)` says for whom nothing was known, so that items come in order of popularity;
    their scores are the items' counts.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float64]
    by_popularity: NDArray[np.bool_]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many items each user has `(N,)`."""
        return (self.items != PAD).sum(axis=1)


@dataclass(frozen=True)
class Recommender:
    """Scores the `catalogue` (W rows) for histories in rows of the vocabulary `known`.

    `vectors` makes `(n, D)` of so many histories; their products with `table` `(W, D)`, plus `bias` `(W,)` if there
    is one, are the scores. The counts of the catalogue are the popularity order. `one_log`: the items of both
    vocabularies stand in one log. `mixed`: histories may hold items of both, as `open_mixed_histories` has them.
    `new_items` of the catalogue are scored by their attributes alone; `left_out` had none that tells anything.
    """

    known: Vocabulary
    catalogue: Vocabulary
    vectors: Vectors
    table: Tensor
    bias: Tensor | None = None
    one_log: bool = False
    mixed: bool = False
    new_items: int = 0
    left_out: int = 0

    @property
    def next_items(self) -> bool:
        """Whether the items of the histories are those that are recommended."""
        return self.known is self.catalogue

    @cached_property
    def _popularity(self) -> Tensor:
        counts = np.concatenate([np.zeros(FIRST_ITEM), self.catalogue.counts])
        return torch.from_numpy(counts).unsqueeze(1)

    def recommend(
        self,
        histories: Sequences,
        *,
        rows: Rows | list[int],
        k: int,
        seen: Histories | None = None,
        allowed: Rows | None = None,
        blocked: Rows | None = None,
    ) -> Recommended:
        """The best k items for the users `rows` `(N,)` of `histories`, by exact scores of the whole catalogue.

        Users without an event get the items that occurred most often. `seen` (flat rows of the catalogue, and the
        number of each user's) are no candidates for that user; with `allowed` only those rows are, and none of
        `blocked`. Of equal scores the lower row comes first. Raises SettingsError for k < 1, DivergedError for
        scores that are not numbers.
        """
        rows = np.asarray(rows, dtype=np.int64)
        items = np.full((len(rows), k), PAD, dtype=np.int64)
        scores = np.full((len(rows), k), -np.inf)
        told = histories.lengths[rows] > 0
        lists = {"k": k, "allowed": allowed, "blocked": blocked}
        if told.any():
            vectors = self.vectors(histories, rows[told])
            found = top_items(vectors, self.table, bias=self.bias, excluded=_of(seen, told), **lists)
            items[told], scores[told] = (part.cpu().numpy() for part in found)
        if not told.all():
            excluded = _of(seen, ~told)
            alike = excluded is None or not len(excluded[0])  # then one list serves them all
            like = torch.ones(1 if alike else int((~told).sum()), 1, dtype=torch.float64)
            found = top_items(like, self._popularity, excluded=None if alike else excluded, **lists)
            items[~told], scores[~told] = (part.numpy() for part in found)
        return Recommended(items, scores, ~told)


def _of(seen: Histories | None, users: NDArray[np.bool_]) -> Histories | None:
    """What some of the users have seen."""
    if seen is None or users.all():
        return seen
    flat, numbers = seen
    return flat[np.repeat(users, numbers)], numbers[users]


def ranking_recommender(
    model: RankingModel,
    *,
    known: Vocabulary,
    catalogue: Vocabulary,
    max_length: int,
    device: torch.device,
    one_log: bool = False,
) -> Recommender:
    """The recommender of a task that ranks `catalogue`, from histories in rows of `known`, or mixed ones.

    Of `one_log` items of the catalogue are no part of the histories, even where `known` holds them: in training they
    were none.
    """
    if one_log:
        known = _without(known, catalogue)
    model.to(device).eval()
    reading = model.reading(max_length)

    def vectors(histories: Sequences, rows: Rows) -> Tensor:
        return encode(queries, histories, rows=rows, reading=reading, device=device)

    def queries(input_ids: Tensor, *, places: Tensor | None = None, positions: int | None = None) -> Tensor:
        return model.queries(input_ids, places=places, positions=positions).float()

    head = model.head
    with torch.no_grad():
        table, bias = head.score_table(), head.bias
    return Recommender(known, catalogue, vectors, table.detach(), bias, one_log=one_log, mixed=head.history is not None)


def _without(vocabulary: Vocabulary, others: Vocabulary) -> Vocabulary:
    """The same rows, those of items of `others` without an id, so that no event finds them."""
    known = pc.call_function("is_in", [vocabulary.items], pc.SetLookupOptions(value_set=others.items))
    items = pc.call_function("if_else", [known, pa.scalar(None, pa.string()), vocabulary.items])
    return Vocabulary(items, vocabulary.counts)


def load_recommender(
    folder: Path,
    *,
    encoder: Path | None = None,
    continued: bool = False,
    items: pa.Table | None = None,
    device: torch.device | str = "cpu",
) -> Recommender:
    """The recommender of an encoder of `peterrec pretrain` (next items, by its own table), or of a cold-start run.

    `encoder` and `continued` are as for `load_ranking`. `items`, a table with ids in `item`, may hold new items of
    the target domain, which a cold-start run with `item_features` scores by their attributes. Raises SettingsError
    where there is no such run, or one that recommends nothing or knows no attributes, RefusedError for a damaged one,
    DataError for a table that lacks a column.
    """
    folder = Path(folder)
    run = read_run(folder)
    if run.get("stage") == "pretrain":
        if encoder is not None:
            raise SettingsError(f"{folder} is an encoder itself: leave --encoder out.")
        if items is not None:
            raise SettingsError(
                f"--items is for cold-start runs with item_features; {folder} is an encoder: leave it out."
            )
        return _next_items(folder, run, device=torch.device(device))
    if run.get("stage") == "finetune":
        model = run.get("model")
        task = model.get("task") if isinstance(model, dict) else None
        if isinstance(task, dict) and task.get("kind") == "ranking":
            loaded = load_ranking(folder, encoder=encoder, continued=continued)
            before, left_out = loaded.target_vocabulary.num_items, 0
            if items is not None:
                loaded, left_out = add_items(loaded, _of_target(items, loaded.facts))
            recommender = ranking_recommender(
                loaded.model,
                known=loaded.source_vocabulary,
                catalogue=loaded.target_vocabulary,
                max_length=loaded.facts.max_length,
                device=torch.device(device),
                one_log=loaded.facts.one_log,
            )
            return replace(recommender, new_items=loaded.target_vocabulary.num_items - before, left_out=left_out)
        raise SettingsError(
            f"{folder} is a task with classes, which recommends nothing: `peterrec predict --model {folder}` gives its "
            "classes; --model wants a run of `peterrec pretrain`, or one of a task that ranks items."
        )
    raise SettingsError(
        f"{folder} is the output of `peterrec {run.get('stage')}`; --model wants one of pretrain or finetune."
    )


def _of_target(items: pa.Table, facts: RankingFacts) -> pa.Table:
    """Those of the target domain, which a rule tells where there was one log."""
    rule = facts.task.target_items
    return items if rule is None else ItemRule(rule.column, rule.value).matches(items, or_all=True)


def _next_items(folder: Path, run: dict[str, Any], *, device: torch.device) -> Recommender:
    settings = run.get("settings")
    objective = settings.get("objective") if isinstance(settings, dict) else None
    if not isinstance(objective, dict):
        raise RefusedError(f"{folder / 'run.json'}: damaged (it names no objective); make the run again.")
    if not any(objective.get(name) for name in POSITION_LEVEL):
        learned = ", ".join(name for name in ("contrast", "bag") if objective.get(name)) or "nothing"
        raise SettingsError(
            f"{folder} has learned from whole histories alone ({learned}) and no next items, so its table scores none: "
            "pretrain with objective.next_item above 0 (objective.masked_item for a two-sided encoder)."
        )
    encoder, vocabulary = open_encoder(folder)
    encoder.to(device)  # type: ignore[arg-type]  # transformers' signature hides torch's

    def vectors(histories: Sequences, rows: Rows) -> Tensor:
        return next_item_states(encoder, histories, rows=rows, max_length=encoder.config.max_length, device=device)

    return Recommender(vocabulary, vocabulary, vectors, encoder.score_table().detach())
