"""Several objectives in one training: weights, cuts, groups, the record, resuming, what is watched."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.grec import GRec
from peterrec.encoders.grec_config import GRecConfig
from peterrec.errors import DataError, SettingsError
from peterrec.training.loop import train
from peterrec.training.pretraining import ObjectiveSettings, PretrainingProgram, PretrainingSettings
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.training.user_steps import GroupPiece

CPU = torch.device("cpu")
USERS, ITEMS, LENGTH = 150, 30, 24
COMBINATIONS = [
    {"contrast": 0.5, "bag": 2.0},
    {"next_item": 0.0, "contrast": 1.0},
    {"next_item": 0.0, "bag": 1.0, "bag_table": "tied"},
    {"next_item": 0.0, "contrast": 2.0, "views": "crops"},
    {"next_item": 0.7, "contrast": 1.0, "next_steps": 3},
    {"next_item": 0.0, "masked_item": 1.5, "bag": 1.0},
    {"next_item": 0.0, "gap_filling": 1.0, "contrast": 1.0},
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    random = np.random.default_rng(0)
    found = {}
    for name in ("train", "validation"):
        lengths = random.integers(1, 40, USERS)
        folder = tmp_path_factory.mktemp("parts") / name
        tastes = random.integers(0, 3, USERS)
        flat = np.concatenate(
            [3 + 10 * taste + random.integers(0, 10, n) for taste, n in zip(tastes, lengths, strict=True)]
        ).astype(np.int32)
        with SequenceWriter(folder, targets=name == "validation") as writer:
            targets = (random.integers(3, 3 + ITEMS, USERS).astype(np.int32),) if name == "validation" else ()
            writer.write(pa.array([f"u{i}" for i in range(USERS)]), flat, lengths, *targets)
        found[name] = Sequences(folder)
    return found


def encoder(objective, *, rows=3 + ITEMS, dropout=0.0):
    torch.manual_seed(0)
    shape = {"vocab_size": rows, "hidden_size": 8, "max_length": LENGTH, "dropout": dropout, "initializer_range": 0.5}
    if objective.get("gap_filling"):
        return GRec(GRecConfig(encoder_dilations=(1, 2), decoder_dilations=(1, 2), **shape))
    return NextItNet(NextItNetConfig(dilations=(1, 2), causal=not objective.get("masked_item"), **shape))


def settings_of(objective) -> ObjectiveSettings:
    """With small groups and many TCL rows, where there are groups and windows."""
    made = ObjectiveSettings(**objective)
    of_users = {"group_users": 16} if made.user_level else {}
    return ObjectiveSettings(**objective, **of_users, **({"tcl_rate": 0.4} if made.position_level else {}))


def program(parts, objective, *, double=True, dropout=0.0, rows=3 + ITEMS, **changes) -> PretrainingProgram:
    made = encoder(objective, dropout=dropout, rows=rows)
    settings = {"positions": 400, "warmup": 3, "learning_rate": 0.01, "device": "cpu", "epochs": 2, "patience": 0}
    return PretrainingProgram(
        made.double() if double else made,
        train=parts["train"],
        validation=parts["validation"],
        objective=settings_of(objective),
        settings=PretrainingSettings.model_validate(settings | changes),
    )


def summed(made, step, *, processes=1):
    """Loss, gradients, and losses by objective, as the loop adds them up over pieces and processes."""
    made.model.train().zero_grad()
    made.take_losses()
    total, targets, pieces = 0.0, 0, 0
    for part in range(processes):
        for piece in made.pieces(step, part=part, parts=processes):
            mean, own = made.loss(piece, CPU)
            (mean * (own / made.weight(step))).backward()
            total += mean.item() * own / made.weight(step)
            targets, pieces = targets + own, pieces + 1
    assert targets == made.num_targets(step) == made.weight(step)
    sums = made.take_losses().tolist()
    counts = made.counts(step)
    means = {name: value / max(counts[name], 1) for name, value in zip(made.objectives, sums, strict=True)}
    gradients = {n: p.grad.to_dense().clone() for n, p in made.model.named_parameters() if p.grad is not None}
    return total, gradients, means, pieces


def with_group(made):
    return next(step for step in made.steps(1) if step.groups)


@pytest.mark.parametrize("softmax", ["exact", "sampled"])
@pytest.mark.parametrize("objective", COMBINATIONS, ids=str)
def test_a_step_is_the_weighted_sum_however_it_is_cut(parts, objective, softmax):
    if ObjectiveSettings(**objective).scores_items:
        objective = {**objective, "softmax": softmax, "negatives": 12, "negative_sets": 2}
    whole = program(parts, objective, micro_batch=10**9)
    step = with_group(whole)
    loss, gradients, means, _ = summed(whole, step)
    weights = whole._objective.weights
    assert means.keys() == weights.keys()
    assert loss == pytest.approx(sum(weight * means[name] for name, weight in weights.items()), rel=1e-5)
    for processes, positions in ((2, 10**9), (1, 60), (3, 25)):
        cut = program(parts, objective, micro_batch=positions)
        found = summed(cut, step, processes=processes)
        assert found[0] == pytest.approx(loss, rel=1e-6)
        assert found[2] == pytest.approx(means, rel=1e-5)
        assert found[1].keys() == gradients.keys()
        for name, gradient in found[1].items():
            torch.testing.assert_close(gradient, gradients[name], rtol=1e-6, atol=1e-9, msg=name)


def test_objectives_add_up_to_what_each_gives_alone(parts):
    """Weights times the gradients of single trainings, whose windows and groups are the same."""
    both = program(parts, {"next_item": 0.5, "contrast": 3.0})
    step = with_group(both)
    loss, gradients, _, _ = summed(both, step)
    windows = program(parts, {})
    one = summed(windows, windows.steps(1)[step.number])
    users = program(parts, {"next_item": 0.0, "contrast": 1.0, "watch": "ndcg@10"})
    other = summed(users, users.steps(1)[step.groups[0].number])
    assert len(step.groups) == 1
    assert loss == pytest.approx(0.5 * one[0] + 3 * other[0])
    table = "embed_tokens.weight"
    wanted = 0.5 * one[1][table] + 3 * other[1][f"encoder.{table}"]
    torch.testing.assert_close(gradients[f"encoder.{table}"], wanted)


@pytest.mark.parametrize("passes", [1.0, 2.0, 0.5, 1.5])
def test_an_epoch_passes_over_the_users(parts, passes):
    made = program(parts, {"contrast": 1.0, "user_passes": passes})
    alone = program(parts, {"contrast": 1.0, "next_item": 0.0, "user_passes": passes, "watch": "ndcg@10"})
    long_enough = np.flatnonzero(parts["train"].lengths >= 2)
    for epoch in (1, 2):
        groups = [group for step in made.steps(epoch) for group in step.groups]
        assert [g.users.tolist() for g in groups] == [s.groups[0].users.tolist() for s in alone.steps(epoch)]
        counts = np.bincount(np.concatenate([group.users for group in groups]), minlength=USERS)
        assert abs(counts[long_enough].mean() - passes) < 0.15
        assert np.ptp(counts[long_enough]) <= (passes % 1 > 0)
        assert not counts[parts["train"].lengths < 2].any()
        assert all(len(set(group.users.tolist())) == len(group.users) for group in groups)
        assert max(len(g.users) for g in groups) - min(len(g.users) for g in groups) <= 1
        assert max(len(g.users) for g in groups) <= 16
        per_step = [len(step.groups) for step in made.steps(epoch)]
        assert max(per_step) - min(per_step) <= 1
    assert made.steps(1)[0].row.tolist() == program(parts, {}).steps(1)[0].row.tolist()


def test_groups_and_views_are_a_matter_of_seed_and_epoch(parts):
    made, same, other = (program(parts, {"contrast": 1.0}, seed=seed) for seed in (0, 0, 1))
    group = with_group(made).groups[0]
    assert np.array_equal(made._users.views(group).flat, same._users.views(group).flat)
    assert made._users.views(group).flat.tolist() != other._users.views(group).flat.tolist()
    assert made._users.views(group).flat.tolist() != made._users.views(replace(group, number=99)).flat.tolist()
    assert made._users.views(group).flat.tolist() != made._users.views(replace(group, epoch=99)).flat.tolist()
    users = [[g.users.tolist() for s in p.steps(e) for g in s.groups] for p, e in ((made, 1), (same, 1), (made, 2))]
    assert users[0] == users[1] != users[2]


def test_a_group_stays_in_one_piece_on_one_process(parts):
    made = program(parts, {"contrast": 1.0, "user_passes": 6.0}, micro_batch=20)
    owners = set()
    for step in made.steps(1):
        found = [
            (part, piece.group.number)
            for part in range(3)
            for piece in made.pieces(step, part=part, parts=3)
            if isinstance(piece, GroupPiece)
        ]
        assert sorted(number for _, number in found) == [group.number for group in step.groups]
        owners |= {part for part, _ in found}
    assert owners == {0, 1, 2}


def run(made, **options):
    return train(
        made, made._settings, **{"checkpoints": None, "tracker": Tracker(), "progress": Progress("silent")} | options
    )


class Stop(Exception):
    pass


@pytest.mark.parametrize("objective", [COMBINATIONS[0], {**COMBINATIONS[1], "bag": 1.0}], ids=str)
def test_a_resumed_run_has_the_same_bits(parts, objective, tmp_path):
    def made():
        return program(parts, objective, double=False, dropout=0.3, checkpoint_every=2)

    whole = made()
    wanted = run(whole)
    first, calls = made(), []
    loss = first.loss

    def failing(piece, device):
        calls.append(piece)
        if len(calls) == 8:
            raise Stop
        return loss(piece, device)

    first.loss = failing
    with pytest.raises(Stop):
        run(first, checkpoints=tmp_path / "checkpoints")
    again = made()
    found = run(again, checkpoints=tmp_path / "checkpoints", metrics_file=tmp_path / "metrics.jsonl")
    assert again.model.state_dict().keys() == whole.model.state_dict().keys()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    for ours, theirs in zip(found.history, wanted.history, strict=True):
        assert ours["losses"] == theirs["losses"]
        assert ours["validation"] == theirs["validation"]
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["losses"].keys() for record in told] == [whole._objective.weights.keys()] * 2


def test_the_record_tells_each_objectives_own_loss(parts):
    """A learning rate of next to nothing: the losses of an epoch are those of its steps."""
    made = program(parts, {"contrast": 0.5, "bag": 2.0}, learning_rate=1e-12)
    wanted = []
    for epoch in (1, 2):
        steps = [(made.counts(step), summed(made, step)[2]) for step in made.steps(epoch)]
        wanted.append(
            {
                name: sum(counts[name] * means[name] for counts, means in steps)
                / sum(counts[name] for counts, _ in steps)
                for name in made.objectives
            }
        )
    assert [record["losses"] for record in run(made).history] == [pytest.approx(each, rel=1e-5) for each in wanted]
    assert "losses" not in run(program(parts, {}, epochs=1)).history[0]


def test_users_are_learnt_and_early_stopping_sees_it(parts):
    made = program(parts, {"next_item": 0.0, "contrast": 1.0, "bag": 1.0}, double=False, epochs=12)
    before = made.encoder.eval() and made.validate()
    start = {name: parameter.detach().clone() for name, parameter in made.model.named_parameters()}
    result = run(made)
    assert {name.partition(".")[0] for name in start} == {"encoder", "projection", "bag"}
    assert not any(torch.equal(parameter, start[name]) for name, parameter in made.model.named_parameters())
    assert made.metric == "bag_log_likelihood"
    assert before.keys() == {"match@10", "bag_log_likelihood"}
    assert result.best_metric > before["bag_log_likelihood"] + 0.05
    assert max(record["validation"]["match@10"] for record in result.history) > before["match@10"] + 0.05
    assert result.history[-1]["losses"]["contrast"] < 0.8 * result.history[0]["losses"]["contrast"]
    assert made.validate() == made.validate(), "the halves are always the same"


def test_what_is_validated(parts):
    assert program(parts, {}).validate().keys() == {"hr@10", "ndcg@10", "mrr@10", "mrr"}
    both = program(parts, {"contrast": 1.0})
    assert both.metric == "ndcg@10"
    assert both.validate().keys() == {"hr@10", "ndcg@10", "mrr@10", "mrr", "match@10"}
    assert program(parts, {"watch": "match@10"}).metric == "match@10"
    assert program(parts, {"next_item": 0.0, "contrast": 1.0}).metric == "match@10"
    users = program(parts, {"next_item": 0.0, "contrast": 1.0, "watch": "ndcg@10"})
    assert "ndcg@10" in users.validate()


@pytest.mark.parametrize("table", ["own", "tied"])
def test_a_large_catalogue_is_updated_row_by_row(parts, table):
    objective = {"next_item": 0.0, "contrast": 1.0, "bag": 1.0, "bag_table": table, "negatives": 50}
    made = program(parts, objective, rows=100_003, double=False, epochs=1)
    before = made.model.state_dict()["encoder.embed_tokens.weight"].clone()
    step = with_group(made)
    for piece in made.pieces(step, part=0, parts=1):
        made.loss(piece, CPU)[0].backward()
    for name, parameter in made.model.named_parameters():
        assert parameter.grad.is_sparse == (len(parameter) == 100_003), name
    made.model.zero_grad(set_to_none=True)
    run(made)
    moved = (made.model.state_dict()["encoder.embed_tokens.weight"] != before).any(dim=1).nonzero()[:, 0]
    seen = set(np.unique(np.concatenate([parts["train"].items_of(row) for row in range(USERS)])).tolist())
    assert len(moved)
    assert (set(moved.tolist()) <= seen) == (table == "own")  # tied, the negatives' rows move too


def test_contrast_alone_looks_up_rows_of_any_table(parts):
    made = program(parts, {"next_item": 0.0, "contrast": 1.0}, table_update="lazy_adam")
    assert made.encoder.sparse_rows
    assert made.plan()[-1].startswith("Item table of 33 rows: lazy Adam")
    assert not any("Softmax" in line for line in made.plan())
    with pytest.raises(SettingsError, match="an exact softmax touches all"):
        program(parts, {"next_item": 0.0, "bag": 1.0, "bag_table": "tied"}, table_update="lazy_adam")


def test_what_cannot_be_is_said(parts, tmp_path):
    with pytest.raises(SettingsError, match=r"objective\.next_item = 1 wants a causal encoder"):
        PretrainingProgram(
            encoder({"masked_item": 1.0}),
            train=parts["train"],
            validation=parts["validation"],
            objective=ObjectiveSettings(),
            settings=PretrainingSettings(device="cpu"),
        )
    with pytest.raises(SettingsError, match=r"views = dropout, but encoder\.dropout = 0"):
        program(parts, {"contrast": 1.0, "views": "dropout"})
    program(parts, {"contrast": 1.0, "views": "dropout"}, dropout=0.1)
    with SequenceWriter(tmp_path / "train") as writer:
        writer.write(pa.array(["a", "b"]), np.array([3, 4, 5], dtype=np.int32), np.array([1, 2]))
    short = {**parts, "train": Sequences(tmp_path / "train")}
    with pytest.raises(DataError, match=r"1 training user\(s\) have two events.*objective\.contrast=0"):
        program(short, {"contrast": 1.0, "next_item": 0.0})


def part(folder, *, users, histories, targets=None):
    with SequenceWriter(folder, targets=targets is not None) as writer:
        flat = np.concatenate(histories).astype(np.int32)
        writer.write(
            pa.array(users), flat, np.array([len(h) for h in histories]), *([] if targets is None else [targets])
        )
    return Sequences(folder)


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A log in which nothing can be learnt, split as by leave-one-out, the validation users in another order."""
    random, folder = np.random.default_rng(1), tmp_path_factory.mktemp("noise")
    histories = [random.integers(3, 3 + ITEMS, n) for n in random.integers(4, 16, 200)]
    users, order = [f"u{n}" for n in range(200)], random.permutation(200)
    train = part(folder / "train", users=users, histories=histories)
    targets = random.integers(3, 3 + ITEMS, 200).astype(np.int32)
    own = [histories[n] for n in order]
    validation = part(folder / "validation", users=[users[n] for n in order], histories=own, targets=targets)
    return {"train": train, "validation": validation}


def kept_out_of(made, parts):
    """Ids of the users of an epoch's groups, and of those that are watched, by their halves."""
    groups = {n for step in made.steps(1) for group in step.groups for n in group.users.tolist()}
    views = made._matching._views
    ends = np.cumsum(views.counts)
    halves = [sorted(views.flat[end - n : end].tolist()) for end, n in zip(ends, views.counts, strict=True)]
    pairs = [sorted(a + b) for a, b in zip(halves[: views.users], halves[views.users :], strict=True)]
    known = {tuple(sorted(parts["validation"].items_of(n).tolist())): n for n in range(len(parts["validation"]))}
    ids = parts["validation"].users.take([known[tuple(pair)] for pair in pairs])
    return set(parts["train"].users.take(sorted(groups))), set(ids)


@pytest.mark.parametrize(("most", "watched"), [(2000, 20), (15, 15)])
def test_who_is_watched_stands_in_no_group(noise, most, watched):
    objective = {"next_item": 0.0, "contrast": 1.0}
    made = program(noise, objective, validation_users=most)
    grouped, seen = kept_out_of(made, noise)
    assert len(seen) == watched
    assert grouped == set(noise["train"].users) - seen
    assert f"{watched} training users are watched and stand in no group" in " ".join(made.plan())
    assert kept_out_of(program(noise, objective, validation_users=most), noise)[1] == seen
    assert kept_out_of(program(noise, objective, validation_users=most, seed=1), noise)[1] != seen


def test_nobody_is_kept_out_where_nothing_of_users_is_watched_or_none_is_shared(noise, tmp_path):
    both = program(noise, {"contrast": 1.0})
    grouped, seen = kept_out_of(both, noise)
    assert grouped == seen == set(noise["train"].users)
    assert "watched" not in " ".join(both.plan())
    histories = [noise["validation"].items_of(n) for n in range(200)]
    users = [f"v{n}" for n in range(200)]
    targets = noise["validation"].targets
    others = {**noise, "validation": part(tmp_path / "others", users=users, histories=histories, targets=targets)}
    apart = program(others, {"next_item": 0.0, "contrast": 1.0})
    assert kept_out_of(apart, others) == (set(noise["train"].users), set(users))
    assert "watched" not in " ".join(apart.plan())


def test_of_noise_early_stopping_sees_that_nothing_is_learnt(noise):
    objective = {"next_item": 0.0, "bag": 1.0}
    made = program(noise, objective, double=False, epochs=30, patience=4, learning_rate=0.03)
    result = run(made)
    assert result.stopped == "patience"
    assert result.best_epoch <= 6
    assert result.best_metric < 0.03 - np.log(ITEMS), "no items are more likely than others"
    assert result.history[-1]["loss"] < result.history[0]["loss"], "it learns its own users by heart"


def test_too_few_users_to_be_watched_are_refused_and_the_advice_works(noise):
    objective = {"next_item": 0.0, "contrast": 1.0}
    with pytest.raises(DataError, match=r"match@10, which says nothing of fewer than 11 users, and 10 can be watched"):
        program(noise, objective, validation_users=10)
    with pytest.raises(DataError, match=r"bag_log_likelihood, which says nothing of fewer than 2 users.*ndcg@10"):
        program(noise, {"next_item": 0.0, "bag": 1.0}, validation_users=1)
    advised = program(noise, {**objective, "watch": "ndcg@10"}, validation_users=10)
    assert advised.metric == "ndcg@10"
    assert advised.validate().keys() == {"hr@10", "ndcg@10", "mrr@10", "mrr"}
    assert "match@10" in program(noise, {**objective, "watch": "ndcg@10"}, validation_users=11).validate()
    with_bag = program(noise, {"contrast": 1.0, "bag": 1.0}, validation_users=10).validate()
    assert "bag_log_likelihood" in with_bag
    assert "match@10" not in with_bag


def test_crops_of_whole_histories_are_no_two_views_without_dropout(parts):
    objective = {"contrast": 1.0, "views": "crops", "crop_share": 1.0}
    with pytest.raises(SettingsError, match=r"views = crops of crop_share 1, but encoder\.dropout = 0"):
        program(parts, objective)
    program(parts, objective, dropout=0.1)
    program(parts, {**objective, "crop_share": 0.9})


def test_the_record_has_the_loss_without_its_weight(parts):
    made = program(parts, {"next_item": 0.0, "contrast": 2.0}, epochs=1)
    record = run(made).history[0]
    assert record["losses"].keys() == {"contrast"}
    assert record["loss"] == pytest.approx(2 * record["losses"]["contrast"])
    assert "losses" not in run(program(parts, {"next_item": 0.0, "contrast": 1.0}, epochs=1)).history[0]


def test_what_does_not_speed_it_up_is_told(parts):
    alone = program(parts, {"next_item": 0.0, "contrast": 1.0}, compile=True)
    told = " ".join(alone.plan(processes=4))
    assert "training.compile compiles nothing" in told
    assert "one of the 4 processes; a step is one group: more processes do not speed it up" in told
    assert "processes" not in " ".join(alone.plan())
    both = " ".join(program(parts, {"contrast": 1.0}, compile=True).plan(processes=2))
    assert "compiles nothing" not in both
    assert "Each group of users is computed by one of the 2 processes." in both
    windows = " ".join(program(parts, {}, compile=True).plan(processes=2))
    assert "compiles nothing" not in windows
    assert "processes" not in windows
