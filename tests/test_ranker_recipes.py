"""Every ranker as a whole network against its published equation, by loops over features and their pairs."""

import itertools

import numpy as np
import pytest
import torch
from impression_columns import DOMAINS, ROWS, TRAIN, Columns
from impression_layers import expert, gated, sigmoid, tower
from impression_world import plan_of
from ranker_features import as_field, features, ffm_products, fm_products

from peterrec.impression_design import build_network
from peterrec.impression_model import ImpressionBatch
from peterrec.impression_transfer import codings_of, fit_codings

COLUMNS = Columns()
CHANNELS = 16
ALL = np.arange(ROWS)
RANKERS = ("lr", "fm", "ffm", "wide_deep", "deepfm", "ratings")


class Ranker:
    """A recipe's network with random weights, with or without an encoder's vectors and domains."""

    def __init__(self, name, *, vectors=False, domains=True, labels=("click", "conversion"), **changes):
        self.impressions = COLUMNS.impressions(labels=labels, domains=domains)
        plan = plan_of(name, self.impressions, **changes)
        (self.coding,) = codings_of(plan, fit_codings(plan, self.impressions, np.arange(TRAIN)))
        torch.manual_seed(0)
        self.network = build_network(
            plan, sizes=self.coding.sizes, bias_sizes=[], channels=CHANNELS if vectors else None
        ).eval()
        with torch.no_grad():
            for value in self.network.parameters():
                value.normal_(std=0.3 if value.dim() > 1 else 0.5)
        self.domain = COLUMNS.domain if domains else np.full(ROWS, -1)
        self.domains = domains
        self.vectors = {}
        if vectors:
            known, there = torch.rand(ROWS) < 0.8, torch.rand(ROWS, 1) < 0.8
            self.vectors = {
                "users": torch.randn(ROWS, CHANNELS) * known.unsqueeze(1),
                "known": known,
                "items": torch.randn(ROWS, CHANNELS) * there,
            }

    @property
    def s(self):
        return {name: value.double().numpy() for name, value in self.network.state_dict().items()}

    def batch(self, rows=ALL):
        return ImpressionBatch(
            [self.coding.batch(self.impressions, rows)],
            torch.from_numpy(self.domain[rows]),
            **{name: value[rows] for name, value in self.vectors.items()},
        )

    @torch.no_grad()
    def raw(self, rows=ALL):
        return {name: value.numpy() for name, value in self.network.raw(self.batch(rows)).items()}

    def as_fields(self, prefix, row):
        """What the term makes of the encoder's vectors of a row."""
        if not self.vectors:
            return ()
        users, items = (self.vectors[name].double().numpy()[row] for name in ("users", "items"))
        there = bool(self.vectors["known"][row]), bool((items != 0).any())
        return tuple(
            as_field(self.s, f"{prefix}.vectors.{number}", vector, known)
            for number, (vector, known) in enumerate(zip((users, items), there, strict=True))
        )

    def of_rows(self, found):
        return np.stack([found(row) for row in range(ROWS)])

    def linear(self, prefix="terms.terms.0"):
        """Σ w_i x_i of each head `(B, H)`."""
        s = self.s

        def of(row):
            more = self.as_fields(prefix, row)
            domain = int(self.domain[row]) if self.domains else None
            return sum(v for _, v in features(COLUMNS, s, f"{prefix}.weights", row, domain=domain, vectors=more))

        return self.of_rows(of)

    def fm(self, prefix="terms.terms.1"):
        s = self.s

        def of(row):
            more = self.as_fields(prefix, row)
            if self.domains:
                k, table = int(self.domain[row]), s["domain.table.weight"]
                more = (table[k + 1] if k >= 0 else np.zeros(table.shape[1]), *more)
            return fm_products(features(COLUMNS, s, "embeddings", row, vectors=more))

        return self.of_heads(self.of_rows(of), prefix)

    def ffm(self, prefix="terms.terms.1", *, dim=4):
        s = self.s

        def of(row):
            domain = int(self.domain[row]) if self.domains else None
            given = features(
                COLUMNS, s, f"{prefix}.embeddings", row, domain=domain, vectors=self.as_fields(prefix, row)
            )
            return ffm_products(given, dim=dim)

        return self.of_heads(self.of_rows(of), prefix)

    def crosses(self, prefix="terms.terms.1"):
        """The weights of all pairs of categorical fields, and of one and each tag, `(B, H)`."""
        table = self.s[f"{prefix}.table.weight"]
        batch = self.coding.batch(self.impressions, ALL)
        sizes = self.coding.sizes
        flat, starts = (one.tolist() for one in batch.multi[0])
        tags = [flat[a:b] or [0] for a, b in itertools.pairwise([*starts, len(flat)])]
        rows = [*sizes.categorical, *sizes.multi]
        found = np.zeros((ROWS, table.shape[1]))
        at = 0
        for one, other in itertools.combinations(range(4), 2):
            for row in range(ROWS):
                first = int(batch.categorical[row, one])
                seconds = tags[row] if other == 3 else [int(batch.categorical[row, other])]
                for second in seconds:
                    if first != 1 and second != 1:
                        found[row] += table[at + first * rows[other] + second] / len(seconds)
            at += rows[one] * rows[other]
        assert at == len(table)
        return found

    def of_heads(self, products, prefix):
        s = self.s
        weight = s.get(f"{prefix}.heads.weight")
        if weight is None:
            return products.sum(1, keepdims=True)
        return products @ weight.reshape(-1, products.shape[1]).T

    def deep(self):
        """The logits of the body and its heads `(B, H)`, on the embeddings that the terms multiply."""
        s = self.s
        with torch.no_grad():
            x = self.network.inputs(self.batch()).double().numpy()
        fields = COLUMNS.embedded(s, "embeddings", ("shelf", "colour", "device", "price", "position", "tags"), ALL)
        np.testing.assert_allclose(x[:, : fields[0].size], fields.reshape(ROWS, -1), rtol=1e-4, atol=1e-5)
        count = sum(name.startswith("body.") and name.endswith("linears.0.bias") for name in s)
        experts = [expert(s, 0, number, x) for number in range(count)]
        mixed = [experts[0] if len(experts) == 1 else gated(s, 0, k, x, experts) for k in range(2)]
        return np.stack([tower(s, k, one) for k, one in enumerate(mixed)], axis=1)

    def constants(self):
        return np.array([self.s[f"heads.heads.{k}.bias"][0] for k in range(len(self.network.heads.names))])


EXPECTED = {
    "lr": lambda it: it.constants() + it.linear(),
    "fm": lambda it: it.constants() + it.linear() + it.fm(),
    "ffm": lambda it: it.constants() + it.linear() + it.ffm(),
    "wide_deep": lambda it: it.deep() + it.linear() + it.crosses(),
    "deepfm": lambda it: it.deep() + it.linear() + it.fm(),
    "ratings": lambda it: it.deep() + it.linear() + it.fm(),
}


@pytest.mark.parametrize("vectors", [False, True], ids=["fields alone", "with vectors"])
@pytest.mark.parametrize("name", RANKERS)
def test_a_ranker_is_its_equation(name, vectors):
    it = Ranker(name, vectors=vectors)
    found, expected = it.raw(), EXPECTED[name](it)
    assert np.abs(expected).max() > 0.5
    for number, head in enumerate(("ctr", "cvr")):
        np.testing.assert_allclose(found[head], expected[:, number], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["fm", "ffm"])
def test_one_head_has_the_published_sum_alone(name):
    it = Ranker(name, labels=("click",), domains=False)
    assert not any("heads.weight" in key for key in it.s)
    np.testing.assert_allclose(it.raw()["ctr"], EXPECTED[name](it)[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RANKERS)
def test_rows_do_not_know_each_other(name):
    it = Ranker(name, vectors=True)
    whole, order = it.raw(), np.random.default_rng(0).permutation(ROWS)
    for head, value in it.raw(order).items():
        np.testing.assert_allclose(value, whole[head][order], rtol=1e-5, atol=1e-5)
    for row in (0, 6, 41):  # rows without tags, with some, with unseen values
        for head, value in it.raw(np.array([row])).items():
            np.testing.assert_allclose(value, whole[head][[row]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RANKERS)
def test_bfloat16_stays_near(name):
    it = Ranker(name, vectors=True)
    whole = it.raw()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = it.raw()
    for head, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, whole[head], atol=0.1 * np.abs(whole[head]).max())
        if name in ("lr", "fm", "ffm"):
            np.testing.assert_allclose(value, whole[head], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", RANKERS)
def test_a_start_is_the_base_rate(name):
    """Terms start at nothing, or next to it: fresh logits are the heads' constants."""
    impressions = COLUMNS.impressions()
    plan = plan_of(name, impressions)
    (coding,) = codings_of(plan, fit_codings(plan, impressions, np.arange(TRAIN)))
    network = build_network(plan, sizes=coding.sizes, bias_sizes=[], channels=None)
    network.start_at_rates(plan.objectives, [0.3, 0.2])
    batch = ImpressionBatch([coding.batch(impressions, ALL)], torch.from_numpy(COLUMNS.domain))
    with torch.no_grad():
        ctr = network.eval().predicted(batch)["ctr"].numpy()
    if name == "lr":
        np.testing.assert_allclose(ctr, 0.3, rtol=1e-3)
    assert abs(ctr.mean() - 0.3) < 0.05


def test_an_unknown_domain_says_what_an_unseen_value_does():
    it = Ranker("lr")
    s = it.s["terms.terms.0.weights.table.weight"]
    unknown = np.flatnonzero(it.domain < 0)[0]
    with torch.no_grad():
        it.network.terms.terms[0].weights.table.weight[len(s) - DOMAINS - 1] += 1.0
    other = Ranker("lr")
    np.testing.assert_allclose(it.raw()["ctr"][unknown], other.raw()["ctr"][unknown] + 1.0, rtol=1e-4)


def test_odds_are_those_of_the_logit():
    it = Ranker("youtube_ranking", labels=("click", "dwell"))
    with torch.no_grad():
        found = it.network.predicted(it.batch())["watch"].numpy()
    np.testing.assert_allclose(found, np.exp(it.raw()["watch"].astype(np.float64)), rtol=1e-5)
    assert sigmoid(it.raw()["watch"]).max() < 1
