"""Evaluation of the next item: blocks, samples, what is skipped, and the oracle."""

import dataclasses

import numpy as np
import pytest
import torch

from peterrec.data.prepared import open_prepared
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.evaluation import next_item
from peterrec.evaluation.next_item import evaluate_next_item
from peterrec.evaluation.world import world_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def prepared(prepared_folder):
    return open_prepared(prepared_folder)


@pytest.fixture(scope="module")
def encoder(prepared):
    torch.manual_seed(0)
    config = NextItNetConfig(vocab_size=len(prepared.vocabulary), hidden_size=8, dilations=(1, 2), max_length=20)
    return NextItNet(config).eval()


@pytest.fixture(scope="module")
def whole(prepared, encoder):
    return evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={"seconds": 7.0})


def figures(found):
    return {result["name"]: result["metrics"] for result in found["results"]}


def test_roles_seconds_and_gains(whole):
    assert {r["name"]: r["role"] for r in whole["results"]} == {
        "encoder": "model",
        "markov": "baseline",
        "item_knn": "baseline",
        "popularity": "baseline",
        "oracle": "ceiling",
    }
    seconds = {r["name"]: r.get("seconds") for r in whole["results"]}
    assert seconds["encoder"] == 7.0
    assert seconds["oracle"] is None
    assert "seconds are training or fitting time" in whole["protocol"]
    assert "sample" not in whole["protocol"]
    assert {gain["over"] for gain in whole["gains"]} == set(seconds) - {"encoder"}


def test_seconds_are_those_of_the_fit_alone(prepared, encoder, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(next_item.time, "perf_counter", lambda: now[0])
    fit, scores = next_item.PopularityRanker, next_item.PopularityRanker.scores

    def fitted(counts):
        now[0] += 3
        return fit(counts)

    def scored(self, histories):
        now[0] += 100
        return scores(self, histories)

    monkeypatch.setattr(next_item, "PopularityRanker", fitted)
    monkeypatch.setattr(fit, "scores", scored)
    found = evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={}, test_users=50)
    assert next(r for r in found["results"] if r["name"] == "popularity")["seconds"] == 3


def test_blocks_of_any_size_give_the_same_figures(prepared, encoder, whole, monkeypatch):
    monkeypatch.setattr(next_item, "BLOCK_USERS", 70)
    monkeypatch.setattr(next_item, "BLOCK_EVENTS", 500)
    again = evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={})
    assert figures(again) == figures(whole)


def test_blocks_cover_the_users_in_order_and_are_bounded(prepared, monkeypatch):
    monkeypatch.setattr(next_item, "BLOCK_USERS", 30)
    monkeypatch.setattr(next_item, "BLOCK_EVENTS", 400)
    test = prepared.sequences("test")
    users = np.arange(3, len(test), 2)
    blocks = list(next_item._blocks(test, users))
    assert np.array_equal(np.concatenate(blocks), users)
    assert max(map(len, blocks)) <= 30
    assert max(int(test.lengths[block].sum()) for block in blocks) <= 400
    monkeypatch.setattr(next_item, "BLOCK_EVENTS", 1)
    assert len(list(next_item._blocks(test, users))) == len(users), "a user too long for a block has one alone"


def test_every_user_is_encoded_once(prepared, encoder):
    seen = []
    hook = encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(args[0] if args else kwargs["input_ids"])), with_kwargs=True
    )
    evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={})
    hook.remove()
    assert sum(seen) == len(prepared.sequences("test"))


def test_popularity_is_that_of_the_training_part(prepared, whole):
    train, test = prepared.sequences("train"), prepared.sequences("test")
    counts = np.zeros(len(prepared.vocabulary))
    for row in range(len(train)):
        np.add.at(counts, train.items_of(row), 1)
    hits = []
    for row, target in enumerate(test.targets):
        candidates = np.setdiff1d(np.arange(3, len(counts)), np.setdiff1d(test.items_of(row), [target]))
        above = (counts[candidates] > counts[target]).sum()
        equal = (counts[candidates] == counts[target]).sum()
        hits.append(np.clip(10 - above, 0, equal) / equal)
    assert figures(whole)["popularity"]["hr@10"]["value"] == pytest.approx(np.mean(hits))


def test_a_sample_of_the_users_is_told(prepared, encoder, whole):
    found = evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={}, test_users=50)
    again = evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={}, test_users=50)
    assert found["protocol"] == again["protocol"]
    assert figures(found) == figures(again)
    assert f"50 users, a seeded sample of the {len(prepared.sequences('test')):,}" in found["protocol"]
    assert figures(found)["popularity"] != figures(whole)["popularity"]


@pytest.mark.parametrize("limit", ["COUNTED_ITEMS", "COUNTED_EVENTS"])
def test_large_logs_skip_the_counts_of_pairs(prepared, encoder, limit, monkeypatch):
    monkeypatch.setattr(next_item, limit, 90)
    found = evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={}, test_users=50)
    assert list(figures(found)) == ["encoder", "popularity", "oracle"]
    assert "markov and item_knn: skipped" in found["protocol"]


def test_what_was_left_out_is_counted(prepared, encoder):
    summary = {**prepared.summary, "parts": {k: dict(v) for k, v in prepared.summary["parts"].items()}}
    summary["parts"]["test"] |= {"unseen_targets": 1234, "without_history": 17, "unseen_events": 9}
    altered = dataclasses.replace(prepared, summary=summary)
    told = evaluate_next_item(altered, encoder=encoder, device=CPU, model_facts={}, test_users=50)["protocol"]
    assert "1,234 targets that training never saw" in told
    assert "17 users without any known item" in told
    assert "without 9 events" in told


def test_the_oracle_ranks_by_the_true_probabilities(prepared, whole):
    world = world_of(prepared)
    test = prepared.sequences("test")
    rows = np.arange(len(test))
    histories = [prepared.vocabulary.ids(test.items_of(row)) for row in rows]
    probabilities = world.oracle_next_item(histories)
    number = {item: i for i, item in enumerate(world.items)}
    known = [number[item] for item in prepared.vocabulary.items.to_pylist()]
    hits = {True: [], False: []}
    for row, target in zip(rows, prepared.vocabulary.ids(test.targets), strict=True):
        own = probabilities[row, number[target]]
        for removed, column in hits.items():
            gone = {number[item] for item in histories[row]} - {number[target]} if removed else set()
            rest = probabilities[row, [n for n in known if n not in gone]]
            above, equal = (rest > own).sum(), (rest == own).sum()
            column.append(np.clip(10 - above, 0, equal) / equal)
    oracle = figures(whole)["oracle"]
    assert oracle["hr@10"]["value"] == pytest.approx(np.mean(hits[True]))
    assert oracle["hr@10 (history kept)"]["value"] == pytest.approx(np.mean(hits[False]))
    others = [m["ndcg@10"]["value"] for name, m in figures(whole).items() if name != "oracle"]
    assert oracle["ndcg@10"]["value"] > max(others)


def test_many_users_have_no_oracle(prepared, encoder, monkeypatch):
    monkeypatch.setattr(next_item, "ORACLE_USERS", 49)
    found = evaluate_next_item(prepared, encoder=encoder, device=CPU, model_facts={}, test_users=50)
    assert "oracle" not in figures(found)
    assert "oracle" not in found["protocol"]
