"""Where held-out items stand among all of a catalogue, by models of impressions whose fields are all categorical."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.baselines.item_knn import ItemKNN
from peterrec.data.impressions.field_batch import FieldBatch
from peterrec.data.impressions.impressions import Impressions
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.evaluation.impression_plan import ImpressionPlan
from peterrec.evaluation.study_request import StudyRequest
from peterrec.impression_design import binary_labels, design
from peterrec.impression_model import ImpressionBatch
from peterrec.impression_recipe import ImpressionTask
from peterrec.impression_transfer import ImpressionFit, fit_impressions
from peterrec.metrics.intervals import RankingRows
from peterrec.metrics.ranking import rank_scores, ranking_metrics
from peterrec.metrics.sampled_candidates import sampled_hit_rate
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

AT_ONCE = 2**18  # rows that are scored together
SAMPLED = "hr@10 (99 sampled)"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """Rows of held-out events `(N,)`, and which of their fields holds the item that is to be found; `had` are the
    items, numbered as the field's values, that each row's user has had otherwise: flat, and how many `(N,)`."""

    rows: Ints
    item: str
    had: tuple[Ints, Ints]


def asked(impressions: Impressions, *, label: str, item: str, rows: Ints, users: int | None, seed: int = 0) -> Question:
    """What is asked of the positive `rows` of a label: of `users` drawn ones, or of all.

    Items of a user's other positive rows, in whatever part they stand, are no candidates.
    """
    positive = impressions.labels[label] == 1
    rows = rows[positive[rows]]
    own = np.unique(impressions.user[rows])
    if users is not None and users < len(own):
        own = np.sort(np.random.default_rng((seed, 53)).choice(own, users, replace=False))
        rows = rows[np.isin(impressions.user[rows], own)]
    items = codes(impressions, item)
    known = np.flatnonzero(positive & np.isin(impressions.user, own))
    known = known[np.argsort(impressions.user[known], kind="stable")]
    starts = np.searchsorted(impressions.user[known], impressions.user[rows], side="left")
    stops = np.searchsorted(impressions.user[known], impressions.user[rows], side="right")
    flat = np.concatenate([items[known[start:stop]] for start, stop in zip(starts, stops, strict=True)])
    return Question(rows, item, (flat - 1, stops - starts))


def codes(impressions: Impressions, name: str) -> Ints:
    """The code of a categorical field in each row `(N,)`: 0 where missing."""
    column = impressions.schema.of_kind("categorical").index(name)
    return np.asarray(impressions.categorical[:, column], dtype=np.int64)


def trained(task: ImpressionTask, impressions: Impressions, *, seed: int) -> ImpressionFit:
    """A recipe, by its own settings, on the training rows; early stopping by the validation rows."""
    plan = design(
        task,
        fields=[one.name for one in impressions.schema.fields],
        labels=binary_labels(impressions),
        domains=len(impressions.schema.domains),
    )
    recipe = ImpressionPlan.of(StudyRequest(task="shared_bottom", encoder=None, data=impressions.folder, seeds=[seed]))
    contestant = recipe.contestant()
    settings = recipe.settings_of(
        type(contestant)(contestant.name, contestant.adapter, task=task, with_encoder=False), seed=seed
    )
    fitted, _, _ = fit_impressions(
        plan,
        encoder=None,
        adapter=contestant.adapter,
        settings=settings,
        impressions=impressions,
        split=impressions.split(seed),
        checkpoints=None,
        tracker=Tracker(),
        progress=Progress("auto", title=f"{task.name}, seed {seed}"),
    )
    return fitted


@torch.no_grad()
def ranked(fitted: ImpressionFit, impressions: Impressions, question: Question, *, output: str) -> RankingRows:
    """HR, NDCG and MRR of each held-out event among all items of the catalogue but those that its user had."""
    network = fitted.network.eval()
    device = next(network.parameters()).device
    coding = fitted.codings[0]
    assert coding is not None
    assert not coding.numeric
    assert not coding.multi
    rows = coding.batch(impressions, question.rows).categorical
    column = list(coding.names).index(question.item)
    known = coding.categorical[column]
    catalogue = torch.from_numpy(known.rows(impressions.value_array(question.item))[1:])
    size = len(catalogue)

    def score(part: slice) -> Tensor:
        found: list[Tensor] = []
        own = rows[part]
        for at in range(0, len(own), max(1, AT_ONCE // size)):
            some = own[at : at + max(1, AT_ONCE // size)]
            cells = some.repeat_interleave(size, dim=0)
            cells[:, column] = catalogue.repeat(len(some))
            none = torch.zeros(len(cells), 0)
            batch = FieldBatch(categorical=cells, numeric=none, missing=none.bool()).to(device)
            raw = network.raw(ImpressionBatch([batch], torch.full((len(cells),), -1, device=device)))
            found.append(raw[output].reshape(len(some), size))
        return torch.cat(found)

    return _measured(score, impressions, question, size=size, device=device)


def popular(impressions: Impressions, question: Question, *, label: str, train: Ints) -> RankingRows:
    """The same of each item's number of training rows with the label."""
    items = codes(impressions, question.item)
    size = len(impressions.value_array(question.item))
    counts = np.bincount(items[train[impressions.labels[label][train] == 1]], minlength=size + 1)[1:]
    scores = torch.from_numpy(counts.astype(np.float32))
    return _measured(
        lambda part: scores.expand(part.stop - part.start, -1), impressions, question, size=size, device=scores.device
    )


def neighbours(impressions: Impressions, question: Question, *, labels: Sequence[str], train: Ints) -> RankingRows:
    """The same of item-kNN, by what each user did in training: rows with any of `labels`."""
    items = codes(impressions, question.item)
    size = len(impressions.value_array(question.item))
    done = train[np.any([impressions.labels[label][train] == 1 for label in labels], axis=0)]
    done = done[np.argsort(impressions.user[done], kind="stable")]
    flat = items[done] - 1 + FIRST_ITEM
    lengths = np.bincount(impressions.user[done], minlength=int(impressions.user.max()) + 1)
    model = ItemKNN.fit((flat, lengths), num_items=size, recent=int(lengths.max()))
    stops = np.cumsum(lengths)
    users = impressions.user[question.rows]

    def score(part: slice) -> Tensor:
        own = [flat[stops[user] - lengths[user] : stops[user]] for user in users[part]]
        scores = model.scores((np.concatenate(own), lengths[users[part]]))
        return torch.from_numpy(scores[:, FIRST_ITEM:].astype(np.float32))

    return _measured(score, impressions, question, size=size, device=torch.device("cpu"))


def touched_first(impressions: Impressions, question: Question, *, label: str, train: Ints) -> RankingRows:
    """The same with what the user has done otherwise in training, as putting it into the cart, before the rest."""
    items = codes(impressions, question.item)
    size = len(impressions.value_array(question.item))
    popularity = np.bincount(items[train[impressions.labels[label][train] == 1]], minlength=size + 1)[1:]
    others = [values for name, values in impressions.labels.items() if name != label]
    done = train[np.any([values[train] == 1 for values in others], axis=0)]
    touched = scipy.sparse.csr_array(
        (np.full(len(done), popularity.max() + 1.0), (impressions.user[done], items[done] - 1)),
        shape=(int(impressions.user.max()) + 1, size),
    )
    users = impressions.user[question.rows]

    def score(part: slice) -> Tensor:
        return torch.from_numpy((touched[users[part]].toarray() + popularity).astype(np.float32))

    return _measured(score, impressions, question, size=size, device=torch.device("cpu"))


def _measured(score, impressions: Impressions, question: Question, *, size: int, device: torch.device) -> RankingRows:
    targets = torch.from_numpy(codes(impressions, question.item)[question.rows] - 1).to(device)
    ranks = rank_scores(score, targets, num_rows=size, first_row=0, histories=question.had)
    found: Mapping[str, NDArray] = ranking_metrics(ranks, ks=(10,))
    sampled = sampled_hit_rate(ranks, k=10, negatives=99)
    return RankingRows(impressions.user[question.rows], {**found, SAMPLED: sampled})


def lines(found: Mapping[str, Mapping[str, Mapping[str, float]]], metrics: Sequence[str]) -> list[str]:
    """A Markdown table: a line a model, a column a metric, each with its interval."""
    shown = ["| | " + " | ".join(metrics) + " |", "|---" * (1 + len(metrics)) + "|"]
    for name, of in found.items():
        cells = [f"{of[one]['value']:.4f} [{of[one]['low']:.4f}, {of[one]['high']:.4f}]" for one in metrics]
        shown.append(f"| {name} | " + " | ".join(cells) + " |")
    return shown
