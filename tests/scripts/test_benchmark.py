"""The benchmark runs on tiny shapes, its peers compute what ours compute, and its tables say what was measured."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the scripts' folder."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def workload(load):
    return load("benchmarks.workload").Workload(vocabulary=60, length=20, channels=8, users=5, convolutions=8)


@pytest.fixture
def conditions(load):
    return load("benchmarks.conditions").Conditions(threads=1, budget=0.0, quick=True)


def copy_weights(encoder, naive):
    """Our weights in the naive network's shapes; the taps of a convolution stand one after the other in ours."""
    with torch.no_grad():
        naive.embedding.weight.copy_(encoder.embed_tokens.weight)
        for block, other in zip(encoder.blocks, naive.blocks, strict=True):
            for unit, conv, norm in zip((block.unit1, block.unit2), other.convs, other.norms, strict=True):
                weight = unit.conv.linear.weight
                conv.weight.copy_(weight.view(len(weight), 3, -1).permute(0, 2, 1).unsqueeze(2))
                conv.bias.copy_(unit.conv.linear.bias)
                norm.load_state_dict(unit.norm.state_dict())


@pytest.fixture
def pair(load, workload):
    """Our encoder and the naive network with the same weights, none of them zero."""
    encoder = load("benchmarks.peterrec_step").encoder_of(workload)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    naive = load("benchmarks.naive_nextitnet").NaiveNextItNet(
        workload.vocabulary, workload.channels, workload.dilations
    )
    copy_weights(encoder, naive)
    return encoder, naive


@pytest.mark.slow
def test_a_step_of_two_processes_is_made_when_it_is_called(load, workload, conditions, tmp_path):
    shape = replace(workload, users=6)
    step = load("benchmarks.process_steps").ProcessesStep(
        shape, replace(conditions, threads=2), folder=tmp_path, dropout=0.0
    )
    assert (step.targets, step.flops) == (120, 120 * (shape.convolution_flops() + shape.softmax_flops()))
    for _ in range(3):
        step()
    step.close()
    assert [child.exitcode for child in step._children] == [0, 0]


def test_the_naive_network_is_ours(load, workload, pair):
    encoder, naive = pair
    events = torch.from_numpy(workload.histories(7))
    ids, targets = events[:, :-1], events[:, 1:]
    hidden = encoder(ids).last_hidden_state
    torch.testing.assert_close(naive(ids), hidden, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in naive.parameters()) == sum(p.numel() for p in encoder.parameters())

    loss = load("benchmarks.peterrec_head").exact(
        hidden.reshape(-1, workload.channels), encoder.score_table(), targets.reshape(-1)
    )
    other = naive.loss(ids, targets)
    torch.testing.assert_close(other, loss, atol=1e-4, rtol=1e-4)
    loss.backward()
    other.backward()
    torch.testing.assert_close(naive.embedding.weight.grad, encoder.embed_tokens.weight.grad, atol=1e-4, rtol=1e-3)
    ours = encoder.blocks[0].unit2.conv.linear.weight.grad
    theirs = naive.blocks[0].convs[1].weight.grad
    expected = theirs.squeeze(2).permute(0, 2, 1).reshape(ours.shape)
    torch.testing.assert_close(expected, ours, atol=1e-4, rtol=1e-3)


def test_the_sampled_softmax_with_every_item_is_the_exact_one(load, conditions):
    """Enough draws to find every item, each then expected once."""
    head = load("benchmarks.peterrec_head")
    negatives = load("peterrec.objectives.negatives")
    everything = negatives.NegativeSampler(np.full(20, 1 / 20), number=20).merge(np.arange(3, 23).repeat(100))
    generator = torch.Generator().manual_seed(0)
    hidden, table = (torch.randn(n, 4, generator=generator) for n in (6, 23))
    targets = torch.tensor([3, 22, 7, 7, 10, 4])
    found = head.sampled(
        hidden, table, targets, negatives=everything, target_log_counts=everything.log_counts_of(targets.numpy())
    )
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(hidden @ table[3:].t(), targets - 3))


def test_padding_counts_for_nothing_in_the_naive_loss(workload, pair):
    _, naive = pair
    events = torch.from_numpy(workload.histories(3))
    short = torch.cat([events, torch.zeros(3, 6, dtype=torch.long)], dim=1)
    whole = naive.loss(events[:, :-1], events[:, 1:])
    torch.testing.assert_close(naive.loss(short[:, :-1], short[:, 1:]), whole)


def test_steps_count_their_targets_and_learn(load, workload, conditions, tmp_path):
    steps = load("benchmarks.steps")
    for who in ("exact", "naive"):
        step = steps.Case(who, workload).open(conditions, folder=tmp_path)
        assert step.targets == workload.positions
        assert step.flops == workload.positions * (18 * 8**2 * 8 + 6 * 60 * 8)
        model = step.encoder if who == "exact" else step.model
        before = [p.detach().clone() for p in model.parameters()]
        step()
        assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_recbole_learns_one_target_a_row(load, workload, conditions):
    module = load("benchmarks.recbole_peer").load()
    if module is None:
        pytest.skip("RecBole is not installed")
    step = load("benchmarks.recbole_peer").RecBoleStep(workload, conditions, module=module)
    assert step.targets == workload.users
    kernels = [m.dilation[1] for m in step.model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert tuple(kernels) == workload.dilations
    before = step.model.item_embedding.weight.detach().clone()
    step()
    assert not torch.equal(step.model.item_embedding.weight, before)


def test_a_peer_that_does_not_fit_gets_a_smaller_batch_or_none(load, workload, conditions):
    steps = load("benchmarks.steps")
    large = replace(workload, users=32)
    each = 4 * 3 * 60 * 20  # bytes of a user's logits, three copies
    for users, wanted in ((40, 32), (8, 8), (2, 2), (1, None)):
        cases, notes = steps.cases_of(large, replace(conditions, memory=users * each))
        found = [case.workload.users for case in cases if case.who == "naive"]
        assert found == ([] if wanted is None else [wanted])
        assert any("naive" in note for note in notes) == (wanted != 32)


def test_both_ways_of_the_epoch_have_the_same_targets(load, conditions):
    (table,) = load("benchmarks.epochs").run(conditions, load("benchmarks.machine").Machine(conditions))
    naive, ours = table.rows
    assert naive["targets"] == ours["targets"] > 1000
    assert naive["positions"] >= ours["positions"] >= ours["targets"]


def test_readers_read_the_same(load, tmp_path):
    loaders, epochs = load("benchmarks.loaders"), load("benchmarks.epochs")
    lengths = epochs.lognormal_lengths(40, median=6, mean=9, shortest=1)
    flat = load("benchmarks.workload").zipf_items((int(lengths.sum()),), vocabulary=50, seed=0)
    sequences = load("benchmarks.peterrec_step").write_sequences(tmp_path / "part", flat, lengths)
    rows = np.array([7, 0, 39, 7])
    found = {name: read(rows) for name, read in loaders.readers(sequences, length=5).items()}
    for array in found.values():
        np.testing.assert_array_equal(array, found[loaders.ONE_BY_ONE])
    assert found[loaders.ONE_BY_ONE].shape == (4, 5)


def test_lengths_have_the_median_and_mean_asked_for(load):
    lengths = load("benchmarks.epochs").lognormal_lengths(200_000, median=95, mean=162, shortest=1)
    assert np.median(lengths) == pytest.approx(95, rel=0.02)
    assert lengths.mean() == pytest.approx(162, rel=0.03)


def test_chunks_find_the_top_k(load, monkeypatch):
    top_k = load("benchmarks.top_k")
    monkeypatch.setattr(top_k, "CHUNK", 7)
    generator = torch.Generator().manual_seed(0)
    table, vectors = (torch.randn(n, 4, generator=generator) for n in (50, 3))
    rows, scores = top_k.chunked(vectors, table, k=9)
    best = torch.topk(vectors @ table.t(), 9, dim=1)
    torch.testing.assert_close(scores, best.values)
    assert torch.equal(rows, best.indices)


def test_calls_take_turns(load, conditions):
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = load("benchmarks.stopwatch").take_turns(calls, conditions)
    assert order == ["a", "b"] + ["a", "a", "b", "b"] * conditions.least
    assert [len(timing.seconds) for timing in found.values()] == [conditions.least] * 2
    timing = load("benchmarks.stopwatch").Timing([0.2, 0.1, 0.4])
    assert timing.figures() == {"ms": 200, "ms_min": 100, "spread": pytest.approx(1.5), "n": 3}


def test_bars_are_met_missed_or_not_measured(load):
    bars, steps = load("benchmarks.bars"), load("benchmarks.steps")
    row = {"vocabulary": 3_700, "length": 50, "channels": 64, "dropout": 0.0, "ms": 2.0, "ms_min": 1.0}
    exact = {**row, "peer": "exact", "share": 0.5, "over_naive": 2.5, "over_naive_best": 3, "over_recbole": None}
    growth = [{"vocabulary": v, "ms": ms, "ms_min": ms} for v, ms in ((50_000, 10.0), (1_000_000, 11.0))]
    tables = {f"{steps.TITLE}, L = 50, D = 64": [{**exact, "dropout": 0.2, "share": 0.9}, exact], steps.GROWTH: growth}
    found = bars.table(tables, threads=1, load=None).rows
    share = found[0]
    assert (share["measured"], share["best"], share["verdict"]) == (0.5, 1.0, "missed")
    verdicts = [row["verdict"] for row in found]
    assert verdicts == ["missed", "not measured", "met", *["not measured"] * 2, "met", *["not measured"] * 5]
    assert found[5]["measured"] == pytest.approx(1.1)


def test_memory_is_that_of_a_process_of_its_own(load, conditions):
    """The naive softmax holds its logits at least twice."""
    heads = load("benchmarks.softmax_heads")
    memory = load("benchmarks.memory").extra_memory(heads.Head("naive", 20_000, 500, 8), conditions)
    assert memory.problem is None
    assert 2 * 4 * 20_000 * 500 < memory.bytes < 8 * 4 * 20_000 * 500


def test_a_tiny_run(load, tmp_path, monkeypatch, capsys):
    benchmark = load("benchmark")
    memory = load("benchmarks.memory")
    for section in ("steps", "softmax_heads"):
        monkeypatch.setattr(
            load(f"benchmarks.{section}"), "extra_memory", lambda case, _: memory.Memory(None, "not looked at")
        )
    output = tmp_path / "benchmark.json"
    benchmark.main(["--quick", "--threads", "1", "--out", str(output)])
    printed = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert list(found["sections"]) == list(benchmark.SECTIONS)
    rows = found["sections"]["step"][0]["rows"]
    naive = {row["vocabulary"]: row["rate"] for row in rows if row["peer"] == "naive" and not row["dropout"]}
    for row in rows:
        if row["peer"] == "exact" and not row["dropout"]:
            assert row["over_naive"] == pytest.approx(row["rate"] / naive[row["vocabulary"]])
    assert {row["verdict"] for row in found["bars"]} == {"not measured"}
    assert "## Conditions" in printed
    assert "one target" in printed
    assert "tiny shapes" in printed
    for section in found["sections"].values():
        for table in section:
            assert f"### {table['title']}" in printed


def test_wrong_options_are_named(load, capsys):
    with pytest.raises(SystemExit, match="2"):
        load("benchmark").main(["--threads", "0"])
    assert "--threads" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        load("benchmark").main(["--quick", "--threads", "1", "--only", "epoch", "--data", "/nowhere"])
    assert "peterrec prepare" in capsys.readouterr().err
