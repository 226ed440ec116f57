"""Terms by themselves: which fields they read, what they say of what training did not have, what they learn."""

import numpy as np
import pytest
import torch
from impression_world import plan_of

from peterrec.catalogue import adapter
from peterrec.data.attribute import Split
from peterrec.data.impressions.field_batch import FieldBatch, FieldSizes
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import SettingsError
from peterrec.features.crosses import CrossTerm, all_crosses
from peterrec.features.field_part import FieldPart
from peterrec.features.term_input import TermInput
from peterrec.features.terms import Terms
from peterrec.impression_transfer import build, fit_codings
from peterrec.metrics.click_rates import auc
from peterrec.term_recipe import Term
from peterrec.training.impression_step import ImpressionSettings
from peterrec.training.impressions import ImpressionProgram

SIZES = FieldSizes(names=("a", "b", "c", "x", "tags"), categorical=(4, 5, 6), numeric=1, multi=(5,))


def batch_of(a, b, c, tags) -> TermInput:
    rows = len(a)
    flat = [tag for own in tags for tag in own]
    starts = np.cumsum([0, *map(len, tags)])[:-1]
    fields = FieldBatch(
        categorical=torch.tensor([a, b, c]).T.contiguous(),
        numeric=torch.zeros(rows, 1),
        missing=torch.zeros(rows, 1, dtype=torch.bool),
        multi=((torch.tensor(flat, dtype=torch.long), torch.tensor(starts, dtype=torch.long)),),
    )
    return TermInput(fields, torch.zeros(rows, dtype=torch.long))


BATCH = batch_of([2, 3, 2, 1], [2, 2, 4, 3], [5, 0, 3, 2], [[2, 3], [], [4], [1]])


def test_a_term_that_names_its_fields_reads_these_alone():
    part = FieldPart(SIZES, ("c", "tags"), domains=0)
    assert part.sizes == FieldSizes(names=("c", "tags"), categorical=(6,), numeric=0, multi=(5,))
    found = part(BATCH.fields, BATCH.domain_ids)
    assert torch.equal(found.categorical, BATCH.fields.categorical[:, 2:])
    assert found.numeric.shape == (4, 0)
    assert found.multi is not BATCH.fields.multi
    assert found.multi[0] is BATCH.fields.multi[0]
    assert part.places == [2, 4]


def test_the_domain_is_a_field_whose_unknown_value_is_unseen():
    part = FieldPart(SIZES, domains=3)
    assert part.sizes.names == ("a", "b", "c", "(domain)", "x", "tags")
    assert part.sizes.categorical == (4, 5, 6, 5)
    rows = part(BATCH.fields, torch.tensor([0, 2, -1, 3])).categorical[:, 3]
    assert rows.tolist() == [2, 4, 1, 1]


def learned(term: CrossTerm, batch: TermInput, *, steps: int = 3) -> CrossTerm:
    """The term after steps that raise what it says of a batch."""
    optimizer = torch.optim.AdamW(term.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        (-term(batch).sum()).backward()
        optimizer.step()
    return term


def test_an_exact_cross_says_nothing_of_a_combination_that_training_did_not_have():
    term = learned(CrossTerm(SIZES, [("a", "b")], rows=100, heads=1), batch_of([2, 3], [2, 3], [2, 2], [[], []]))
    none = [[], [], [], []]
    found = term(batch_of([2, 3, 2, 3], [2, 3, 3, 2], [2, 2, 2, 2], none)).squeeze(1)
    assert (found[:2] > 0.2).all()
    assert (found[2:] == 0).all(), "its values are known, the pair is not"


@pytest.mark.parametrize("rows", [100, 7], ids=["exact", "hashed"])
def test_a_combination_with_an_unseen_value_counts_for_nothing(rows):
    term = CrossTerm(SIZES, [("a", "b", "c"), ("a", "tags")], rows=rows, heads=2)
    torch.nn.init.normal_(term.table.weight)
    found = term(batch_of([1, 2, 2], [2, 1, 2], [2, 2, 2], [[2], [1], [1, 3]]))
    assert torch.equal(found[0], torch.zeros(2))
    assert torch.equal(found[1], torch.zeros(2))
    alone = term(batch_of([2], [1], [2], [[3]]))[0]
    torch.testing.assert_close(found[2] - term(batch_of([2], [2], [2], [[1]]))[0], alone / 2)


def test_a_hashed_cross_spreads_its_combinations_over_its_weights():
    sizes = FieldSizes(names=("a", "b"), categorical=(1000, 1000), numeric=0, multi=())
    term = CrossTerm(sizes, [("a", "b")], rows=1009, heads=1)
    assert term.table.weight.shape == (1009, 1)
    assert not term.exact[0]
    with torch.no_grad():
        term.table.weight[:, 0] = torch.arange(1009)
    a, b = (one.flatten() for one in torch.meshgrid(torch.arange(2, 202), torch.arange(2, 202), indexing="ij"))
    empty = torch.zeros(len(a), 0)
    fields = FieldBatch(torch.stack([a, b], dim=1), empty, empty.bool())
    places = term(TermInput(fields, torch.zeros(len(a), dtype=torch.long))).long().flatten()
    counts = torch.bincount(places, minlength=1009).double()
    assert counts.var() < 2 * counts.mean(), "about as even as throwing dice"
    swapped = FieldBatch(torch.stack([b, a], dim=1), empty, empty.bool())
    other = term(TermInput(swapped, torch.zeros(len(a), dtype=torch.long))).long().flatten()
    assert (places == other).float().mean() < 0.02, "which value is whose matters"


def test_all_crosses_are_those_that_fit():
    assert all_crosses(SIZES, rows=20) == [("a", "b"), ("a", "tags")]
    assert ("c", "tags") in all_crosses(SIZES, rows=100)
    assert all_crosses(SIZES, fields=("b", "c"), rows=100) == [("b", "c")]
    two = FieldSizes(names=("a", "t", "u"), categorical=(4,), numeric=0, multi=(3, 3))
    assert all_crosses(two, rows=100) == [("a", "t"), ("a", "u")]


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Term(kind="crosses", crosses=(("a", "x"),)), "'x', whose values are numbers.*--field x:categorical"),
        (Term(kind="crosses", crosses=(("a", "z"),)), "'z', which the network does not read"),
        (Term(kind="crosses", rows=3), "no two fields have at most 3 combinations"),
        (Term(kind="linear", heads=("cvr",)), "there is no head 'cvr'; there are ctr"),
    ],
)
def test_what_cannot_be_is_refused(term, message):
    with pytest.raises(SettingsError, match=message):
        Terms([term], sizes=SIZES, dim=2, domains=0, vectors=None, heads=["ctr"])


def test_a_term_goes_to_its_own_heads():
    terms = Terms(
        [Term(kind="linear", heads=("b",)), Term(kind="linear", fields=("c",))],
        sizes=SIZES,
        dim=2,
        domains=2,
        vectors=8,
        heads=["a", "b"],
    )
    torch.nn.init.ones_(terms.terms[0].weights.table.weight)
    raw = {"a": torch.zeros(4), "b": torch.ones(4)}
    found = terms(BATCH, raw)
    assert torch.equal(found["a"], torch.zeros(4))
    assert (found["b"] > 3).all(), "three fields and the domain"
    assert torch.equal(raw["b"], torch.ones(4)), "what was given stays"
    assert not terms.terms[1].vectors, "a term that names its fields reads no vectors"
    assert len(terms.terms[0].vectors) == 2


def xor_world(rows=2400, *, seed=0) -> Impressions:
    """Clicks hang on whether two values have the same parity, and on neither alone."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, rows), rng.integers(0, 6, rows)
    click = rng.random(rows) < np.where((a + b) % 2 == 0, 0.85, 0.15)
    return Impressions.of_arrays(
        labels={"click": click}, categorical={"a": [f"a{n}" for n in a], "b": [f"b{n}" for n in b]}
    )


def trained(name, impressions, *, epochs=8, rate=0.03, **changes):
    """A reader of a recipe without an encoder, trained on the first two thirds of the rows."""
    plan = plan_of(name, impressions, **changes)
    cut = 2 * len(impressions) // 3
    split = Split(np.arange(cut), np.arange(cut, len(impressions)), np.arange(cut, len(impressions)))
    torch.manual_seed(0)
    fitted = build(plan, fit_codings(plan, impressions, split.train), encoder=None, adapter=adapter("none"))
    data = fitted.rows(impressions, kept=np.arange(len(impressions)), cache_mb=1)
    program = ImpressionProgram(
        data,
        objectives=plan.objectives,
        measures=plan.measures,
        train=split.train,
        validation=split.validation,
        metric="auc",
        row_weights=True,
        settings=ImpressionSettings(rows=256),
    )
    optimizer = torch.optim.Adam(fitted.network.parameters(), lr=rate)
    cpu = torch.device("cpu")
    for epoch in range(epochs):
        for step in program.steps(epoch):
            optimizer.zero_grad()
            for piece in program.pieces(step, part=0, parts=1):
                program.loss(piece, cpu)[0].backward()
            optimizer.step()
    return plan, data, program, split


@pytest.mark.parametrize(("name", "least"), [("fm", 0.8), ("ffm", 0.8), ("deepfm", 0.8), ("wide_deep", 0.8)])
def test_it_learns_a_planted_interaction_that_logistic_regression_cannot(name, least):
    impressions = xor_world()

    def of(recipe):
        _, data, _, split = trained(recipe, impressions, epochs=8)
        found = data.predict(split.test, torch.device("cpu"))["ctr"]
        return float(auc(impressions.labels["click"][split.test], found))

    assert of(name) > least
    assert of("lr") < 0.57


def test_odds_approach_the_expected_time_watched():
    """e^logit = E[time] / (1 - P(click)), on each shelf; a time that is unknown where nothing was clicked."""
    rng = np.random.default_rng(1)
    rows = 6000
    shelf = rng.integers(0, 3, rows)
    rate, seconds = np.array([0.05, 0.1, 0.3])[shelf], np.array([40.0, 5.0, 12.0])[shelf]
    click = rng.random(rows) < rate
    dwell = np.where(click, rng.exponential(seconds), np.nan)
    impressions = Impressions.of_arrays(
        labels={"click": click, "dwell": dwell}, categorical={"shelf": [f"s{n}" for n in shelf]}
    )
    _, data, program, split = trained(
        "youtube_ranking", impressions, epochs=30, rate=0.03, body=(), terms=(Term(kind="linear"),)
    )
    found = data.predict(split.test, torch.device("cpu"))["watch"]
    for n in range(3):
        own = split.train[shelf[split.train] == n]
        watched = np.where(click, dwell, 0)[own]
        odds = watched.sum() / (~click[own]).sum()
        np.testing.assert_allclose(odds, watched.mean() / (1 - click[own].mean()), rtol=1e-6)
        np.testing.assert_allclose(found[shelf[split.test] == n], odds, rtol=0.1)
    figures = program.validate()
    label = np.where(click, dwell, 0)[split.validation]
    value = np.sqrt(np.mean((found - label) ** 2))
    assert {name for name in figures if name.startswith("watch")} == {"watch/rmse", "watch/auc", "watch/log_loss"}
    assert figures["watch/rmse"] == pytest.approx(value, rel=1e-4)
