"""Recommenders against plain Python: every user's candidates sorted by (score, row)."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec.adaptation import build_ranking
from peterrec.catalogue import AdapterRecipe, RankingTask
from peterrec.data.item_features import item_features
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.new_histories import open_histories
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.vocabulary import PAD, Vocabulary
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.loading import encoder_revision, open_encoder
from peterrec.errors import DivergedError, SettingsError
from peterrec.heads.mixed_input import MixedInput
from peterrec.heads.ranking import RankingHead
from peterrec.ranking_model import RankingModel
from peterrec.ranking_recipe import TargetItems
from peterrec.ranking_run import RankingFacts, save_ranking
from peterrec.recommender import Recommender, load_recommender, ranking_recommender


def vocabulary_of(prefix, counts):
    """Items in row order with these counts, which need not fall (rows may be appended to a vocabulary)."""
    items = pa.array([f"{prefix}{n:03}" for n in range(len(counts))], pa.string())
    return Vocabulary(items, np.asarray(counts, dtype=np.int64))


def sequences_of(folder: Path, histories) -> Sequences:
    with SequenceWriter(folder / "histories") as writer:
        flat = np.concatenate([np.asarray(history, dtype=np.int32) for history in histories])
        names = pa.array([f"u{n}" for n in range(len(histories))])
        writer.write(names, flat, np.array([len(history) for history in histories]))
    return Sequences(folder / "histories")


@pytest.fixture
def histories(tmp_path):
    """23 users with 0 to 12 events of 20 items; every third has none."""
    random = np.random.default_rng(0)
    return sequences_of(
        tmp_path, [random.integers(3, 23, 0 if n % 3 == 1 else 1 + random.integers(12)) for n in range(23)]
    )


@pytest.fixture
def recommender():
    """Scores of whole numbers, so that ties are exact; a catalogue with ties in its counts and a row appended."""
    random = np.random.default_rng(1)
    table = torch.from_numpy(random.integers(-2, 3, (40, 4)).astype(np.float32))
    known, catalogue = vocabulary_of("s", np.arange(20)[::-1]), vocabulary_of("t", [*(9 - np.arange(36) // 5), 100])
    bias = torch.from_numpy(random.integers(-1, 2, 40).astype(np.float32))

    def vectors(histories, rows):
        return torch.tensor([[1.0, -1, n % 3, (histories.lengths[row] + n) % 4] for n, row in enumerate(rows)])

    return Recommender(known, catalogue, vectors, table, bias)


def best(scores, candidates, k):
    chosen = sorted(candidates, key=lambda row: (-scores[row], row))[:k]
    return chosen, [scores[row] for row in chosen]


@pytest.mark.parametrize("k", [1, 5, 37, 60])
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("lists", [{}, {"allowed": np.arange(5, 30), "blocked": np.array([3, 7, 29, 39])}])
def test_the_best_of_all_candidates(recommender, histories, k, seen, lists):
    random = np.random.default_rng(2)
    rows = random.permutation(23)
    had = [random.integers(3, 40, random.integers(9)) for _ in rows]
    given = (np.concatenate(had), np.array([len(part) for part in had])) if seen else None
    found = recommender.recommend(histories, rows=rows, k=k, seen=given, **lists)
    assert found.by_popularity.tolist() == [row % 3 == 1 for row in rows.tolist()]
    vectors = iter(recommender.vectors(histories, rows[~found.by_popularity]))
    counts = np.concatenate([[0, 0, 0], recommender.catalogue.counts])
    possible = set(lists.get("allowed", np.arange(3, 40)).tolist()) - set(lists.get("blocked", np.zeros(0)).tolist())
    for place, popular in enumerate(found.by_popularity):
        scores = counts if popular else (recommender.table @ next(vectors) + recommender.bias).tolist()
        wanted, values = best(scores, possible - (set(had[place].tolist()) if seen else set()), k)
        assert found.counts[place] == len(wanted)
        assert found.items[place].tolist() == wanted + [PAD] * (k - len(wanted))
        assert found.scores[place][: len(wanted)].tolist() == values


def test_one_user_and_none(recommender, histories):
    for row in (0, 1):
        alone = recommender.recommend(histories, rows=np.array([row]), k=4)
        assert (alone.items.shape, alone.by_popularity.tolist()) == ((1, 4), [row == 1])
    assert recommender.recommend(histories, rows=np.array([1]), k=2).items.tolist() == [[39, 3]]
    nobody = recommender.recommend(histories, rows=np.zeros(0, np.int64), k=4)
    assert nobody.items.shape == (0, 4)


def test_scores_that_are_no_numbers_are_refused(recommender, histories):
    recommender.table[20] = torch.nan
    with pytest.raises(DivergedError, match="NaN"):
        recommender.recommend(histories, rows=np.arange(5), k=4)


def ranking_model(readout="last", *, rows=15, mixed=False):
    """Of 20 source items and `rows` of a catalogue; all that starts at zero is drawn anew."""
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=23, hidden_size=8, dilations=(1, 2), max_length=20, dropout=0.5))
    history = MixedInput(8, source_rows=23, target_rows=rows) if mixed else None
    head = RankingHead(8, rows, hidden=(5,), dropout=0.5, history=history)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return RankingModel(encoder, head, readout=readout).train()


def recommender_of(model, known, catalogue, **options):
    given = {"max_length": 20, "device": torch.device("cpu")} | options
    return ranking_recommender(model, known=known, catalogue=catalogue, **given)


@pytest.mark.parametrize(("readout", "max_length"), [("last", 6), ("mean", 6), ("tcl", 20)])
def test_a_ranking_head_scores_its_own_catalogue(histories, readout, max_length):
    model = ranking_model(readout)
    known, catalogue = vocabulary_of("s", np.ones(20)), vocabulary_of("t", np.arange(12))
    recommender = recommender_of(model, known, catalogue, max_length=max_length)
    assert not recommender.next_items
    found = recommender.recommend(histories, rows=np.arange(23), k=3)
    for row in range(23):
        items = histories.items_of(row)[-max_length:].tolist()
        if not items:
            assert found.items[row].tolist() == [14, 13, 12]
            continue
        with torch.no_grad():
            scores = model.head(model.user_vectors(torch.tensor([items + [2] * (readout == "tcl")])))[0, 3:]
        wanted = scores.topk(3)
        assert found.scores[row] == pytest.approx(wanted.values.tolist(), abs=1e-4)
        assert found.items[row].tolist() == (wanted.indices + 3).tolist()


def test_of_one_log_the_items_of_the_catalogue_are_no_history():
    known = Vocabulary(pa.array(["a", "b", "c", "x", "y", "d"]), np.arange(6)[::-1])
    catalogue = Vocabulary(pa.array(["x", "y", "z"]), np.array([5, 4, 1]))
    log = pa.table({"user": ["u"] * 6, "item": ["a", "x", "d", "z", "y", "c"], "time": list(range(100, 106))})
    for one_log, rows in ((True, [3, 8, 5]), (False, [3, 6, 8, 7, 5])):
        recommender = recommender_of(ranking_model(rows=6), known, catalogue, one_log=one_log)
        with open_histories(log, columns=LogColumns(), vocabulary=recommender.known) as found:
            assert found.sequences.items_of(0).tolist() == rows


def test_loading_the_recommender_of_an_encoder(encoder_folder, tmp_path):
    recommender = load_recommender(encoder_folder)
    assert recommender.next_items
    assert recommender.table.shape == (len(recommender.catalogue), 16)
    assert not recommender.table.requires_grad
    with pytest.raises(SettingsError, match="nowhere"):
        load_recommender(tmp_path / "nowhere")


def test_loading_the_recommender_of_a_cold_start_run(encoder_folder, tmp_path):
    encoder, known = open_encoder(encoder_folder)
    catalogue = Vocabulary.build([f"t{n:02}" for n in range(9)], counts=range(9))
    task = RankingTask(name="cold", kind="ranking", readout="mean", max_length=30)
    adapter = AdapterRecipe(name="none", tuner="none")
    counts = np.array([0, 0, 0, 5, 1, 1, 9, 2, 3, 3, 3, 3])
    model = build_ranking(encoder, adapter=adapter, task=task, rows=12, counts=counts)
    torch.nn.init.normal_(model.head.items)
    facts = RankingFacts(
        task=task,
        adapter=adapter,
        encoder_revision=encoder_revision(encoder_folder),
        vocabulary_fingerprint=known.fingerprint,
        target_fingerprint=catalogue.fingerprint,
    )
    (tmp_path / "run").mkdir()
    save_ranking(model, folder=tmp_path / "run", facts=facts, target_vocabulary=catalogue)
    run = {"format_version": 1, "stage": "finetune", "model": facts.model_dump(mode="json"), "inputs": {}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    recommender = load_recommender(tmp_path / "run", encoder=encoder_folder)
    histories = sequences_of(tmp_path, [np.array([3, 9, 4]), np.zeros(0, np.int32)])
    found = recommender.recommend(histories, rows=[0, 1], k=3)
    assert found.items[1].tolist() == [6, 3, 8], "by the events of training, ties by row"
    with torch.no_grad():
        scores = model.eval().head(model.user_vectors(torch.tensor([[3, 9, 4]])))[0]
    assert found.items[0].tolist() == scores.topk(3).indices.tolist()
    assert (recommender.one_log, recommender.mixed) == (False, False)


@pytest.mark.parametrize("genres", [["new", "x|new"], ["new", "x"]])
def test_of_one_log_new_items_are_those_that_its_rule_takes(encoder_folder, tmp_path, genres):
    encoder, known = open_encoder(encoder_folder)
    catalogue = Vocabulary.build(["t0", "t1"], counts=[4, 2])
    rule = {"column": "genre", "value": "new"}
    task = RankingTask(
        name="cold", kind="ranking", readout="mean", target_items=TargetItems(**rule), item_features=("genre",)
    )
    adapter = AdapterRecipe(name="none", tuner="none")
    table = pa.table({"item": ["t0", "t1"], "genre": ["new", "new|x"]})
    features = item_features(table, vocabulary=catalogue, columns=["genre"])
    model = build_ranking(
        encoder, adapter=adapter, task=task, rows=5, counts=np.array([0, 0, 0, 4, 2]), features=features
    )
    facts = RankingFacts(
        task=task,
        adapter=adapter,
        encoder_revision=encoder_revision(encoder_folder),
        vocabulary_fingerprint=known.fingerprint,
        target_fingerprint=catalogue.fingerprint,
        feature_width=features.width,
    )
    (tmp_path / "run").mkdir()
    save_ranking(model, folder=tmp_path / "run", facts=facts, target_vocabulary=catalogue, features=features)
    run = {"format_version": 1, "stage": "finetune", "model": facts.model_dump(mode="json"), "inputs": {}}
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    items = pa.table({"item": ["n0", "n1"], "genre": genres})
    recommender = load_recommender(tmp_path / "run", encoder=encoder_folder, items=items)
    taken = [item for item, genre in zip(["n0", "n1"], genres, strict=True) if "new" in genre]
    assert recommender.catalogue.items.to_pylist() == ["t0", "t1", *taken]
    assert (recommender.new_items, recommender.left_out, len(recommender.table)) == (len(taken), 0, 5 + len(taken))
    with pytest.raises(SettingsError, match="is an encoder: leave it out"):
        load_recommender(encoder_folder, items=items)
