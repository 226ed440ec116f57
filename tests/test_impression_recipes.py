"""Every recipe on impressions as a whole network, against its published equations in numpy."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from impression_columns import FIELDS, LABELS, ROWS, TRAIN, Columns
from impression_layers import (
    dense,
    expert,
    features,
    gated,
    logit,
    mlp,
    partitioned,
    sigmoid,
    stretched,
    tower,
)
from impression_world import plan_of

from peterrec.catalogue import ImpressionTask, any_task, impression_task, names
from peterrec.data.impressions.coding import FieldCoding
from peterrec.impression_design import build_network
from peterrec.impression_model import ImpressionBatch, ImpressionNetwork
from peterrec.impression_transfer import codings_of, fit_codings
from peterrec.routing.hard_concrete import HardConcreteRouter

COLUMNS = Columns()
CHANNELS = 16  # of an encoder's vectors
ALL = np.arange(ROWS)
HIDDEN = ("position", "device")  # of the recipe position_bias, in prediction


@dataclass
class Whole:
    """A network with random weights, and `s`, these as arrays in float64."""

    network: ImpressionNetwork
    codings: tuple[FieldCoding | None, ...]
    impressions: object
    vectors: dict[str, torch.Tensor]

    @property
    def s(self):
        return {name: value.double().numpy() for name, value in self.network.state_dict().items()}

    def batch(self, rows=ALL, *, domain=None) -> ImpressionBatch:
        rows = np.asarray(rows)
        fields = [None if one is None else one.batch(self.impressions, rows) for one in self.codings]
        ids = torch.from_numpy((COLUMNS.domain if domain is None else domain)[rows])
        return ImpressionBatch(fields, ids, **{name: value[rows] for name, value in self.vectors.items()})

    @torch.no_grad()
    def predicted(self, rows=ALL, *, domain=None) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in self.network.predicted(self.batch(rows, domain=domain)).items()}

    def x(self, *, fields=FIELDS, domain=COLUMNS.domain, training=False) -> np.ndarray:
        """What the body reads `(B, D)`: fields, the domain's vector, user, item and their product."""
        s = self.s
        parts = [COLUMNS.embedded(s, "embeddings", fields, ALL).reshape(ROWS, -1)]
        if "domain.table.weight" in s:
            parts.append(np.where((domain >= 0)[:, None], s["domain.table.weight"][domain + 1], 0))
        if self.vectors:
            users, items = (normed(self.vectors[name].double().numpy()) for name in ("users", "items"))
            known, there = self.vectors["known"].numpy()[:, None], (items != 0).any(1)[:, None]
            user = np.where(known, dense(s, "vectors.user", users), s["vectors.no_user"])
            item = np.where(there, dense(s, "vectors.item", items), s["vectors.no_item"])
            parts += [user, item, user * item]
        x = np.concatenate(parts, axis=1)
        return partitioned(s, x, domain, training=training) if "norm.weight" in s else x


def normed(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)


def whole(name, *, vectors=False, seed=0, columns=COLUMNS, **changes) -> Whole:
    """The network of a recipe, coded by the training rows, in evaluation, all its weights and statistics random."""
    impressions = columns.impressions(labels=LABELS.get(name, ("click", "conversion")))
    plan = plan_of(name, impressions, **changes)
    codings = codings_of(plan, fit_codings(plan, impressions, np.arange(TRAIN)))
    first, *others = codings
    torch.manual_seed(seed)
    network = build_network(
        plan,
        sizes=first.sizes,
        bias_sizes=[None if one is None else one.sizes for one in others],
        channels=CHANNELS if vectors else None,
    )
    randomise(network)
    found = {}
    if vectors:
        known, there = torch.rand(ROWS) < 0.8, torch.rand(ROWS, 1) < 0.8
        found = {
            "users": torch.randn(ROWS, CHANNELS) * known.unsqueeze(1),
            "known": known,
            "items": torch.randn(ROWS, CHANNELS) * there,
        }
    return Whole(network.eval(), codings, impressions, found)


@torch.no_grad()
def randomise(network: torch.nn.Module) -> None:
    """Weights far from where they start, at scales that keep logits moderate; gates open, shut and in between."""
    for name, value in network.named_parameters():
        value.normal_(std=3.0 if "log_alpha" in name else 1.5 * value.shape[-1] ** -0.5 if value.dim() > 1 else 0.5)
    for name, value in network.named_buffers():
        if name.endswith("mean"):
            value.normal_(std=0.3)
        elif name.endswith("var"):
            value.uniform_(0.3, 2.0)


# ---- the networks, by their papers: from what the body reads to the heads' logits, in the order of the heads


def shared_bottom(s, x, domain):
    bottom = expert(s, 0, 0, x)
    return tower(s, 0, bottom), tower(s, 1, bottom)


def networks_of_their_own(s, x, domain):
    """Soft sharing without its penalty; the bodies of ESMM and ESM2."""
    heads = sum(name.startswith("heads.heads.") and name.endswith("output.weight") for name in s)
    return tuple(tower(s, k, expert(s, 0, k, x)) for k in range(heads))


def cross_stitch(s, x, domain):
    a, b = x, x
    for layer in range(2):
        alpha = s[f"body.layers.{layer}.router.weight"]
        own = expert(s, layer, 0, a), expert(s, layer, 1, b)
        a, b = (alpha[k, 0] * own[0] + alpha[k, 1] * own[1] for k in range(2))
    return tower(s, 0, a), tower(s, 1, b)


def omoe(s, x, domain):
    mixed = gated(s, 0, 0, x, [expert(s, 0, i, x) for i in range(4)])
    return tower(s, 0, mixed), tower(s, 1, mixed)


def mmoe(s, x, domain):
    experts = [expert(s, 0, i, x) for i in range(4)]
    heads = sum(name.startswith("heads.heads.") and name.endswith("output.weight") for name in s)
    return tuple(tower(s, k, gated(s, 0, k, x, experts)) for k in range(heads))


def ple(s, x, domain):
    """Two levels: shared experts 0 and 1, own ones 2 and 3; the first level's third gate is the shared one."""
    shared, a, b = x, x, x
    for level in range(2):
        e = [expert(s, level, 0, shared), expert(s, level, 1, shared), expert(s, level, 2, a), expert(s, level, 3, b)]
        next_a = gated(s, level, 0, a, [e[0], e[1], e[2]])
        next_b = gated(s, level, 1, b, [e[0], e[1], e[3]])
        if level == 0:
            shared = gated(s, level, 2, shared, e)
        a, b = next_a, next_b
    return tower(s, 0, a), tower(s, 1, b)


def snr(s, x, domain, *, z=None):
    """v_j = Σ_i z_ji W_ji u_i, or without W_ji; the first layer's v are the second's inputs."""
    inputs = [x] * 4
    for layer in range(2):
        router = f"body.layers.{layer}.router"
        gates = stretched(sigmoid(s[f"{router}.log_alpha"])) if z is None else z[layer]
        assert gates.shape == (4 - 2 * layer, 4)
        u = [expert(s, layer, i, inputs[i]) for i in range(4)]
        inputs = []
        for j, row in enumerate(gates):
            terms = []
            for i in range(4):
                term = u[i]
                if f"{router}.transforms.{j}.weight" in s:
                    width = term.shape[1]
                    term = term @ s[f"{router}.transforms.{j}.weight"][:, i * width : (i + 1) * width].T
                terms.append(row[i] * term)
            inputs.append(sum(terms))
    return tower(s, 0, inputs[0]), tower(s, 1, inputs[1])


def dbmtl(s, x, domain):
    experts = [expert(s, 0, i, x) for i in range(4)]
    click = features(s, 0, gated(s, 0, 0, x, experts))
    own = features(s, 1, gated(s, 0, 1, x, experts))
    linked = mlp(s, "heads.heads.1.link", np.concatenate([own, click], axis=1))
    return logit(s, 0, click), logit(s, 1, linked)


def star(s, x, domain):
    """Star layers on normalised inputs; the auxiliary network reads the fields and which domain a row is of."""
    bottom = expert(s, 0, 0, x, domain)
    fields = COLUMNS.embedded(s, "biases.0.embeddings", FIELDS, ALL).reshape(ROWS, -1)
    vector = np.where((domain >= 0)[:, None], s["biases.0.domains.weight"][domain], 0)
    hidden = mlp(s, "biases.0.tower.tower", np.concatenate([fields, vector], axis=1))
    auxiliary = dense(s, "biases.0.tower.output", hidden)[:, 0]
    return tower(s, 0, bottom, domain) + auxiliary, tower(s, 1, bottom, domain) + auxiliary


def esmm(click, conversion):
    ctr, cvr = sigmoid(click), sigmoid(conversion)
    return {"ctr": ctr, "cvr": cvr, "ctcvr": ctr * cvr}


def esm2(click, action, after, without):
    ctr, action, after, without = (sigmoid(one) for one in (click, action, after, without))
    cvr = action * after + (1 - action) * without
    found = {"ctr": ctr, "action": action, "after_action": after, "without_action": without}
    return found | {"ctavr": ctr * action, "cvr": cvr, "ctcvr": ctr * cvr}


def engagement(click, dwell, completion):
    ctr, completion = sigmoid(click), sigmoid(completion)
    seconds = np.exp(dwell * 0.7 + 3.0) - 1  # as `scale_value` says below
    return {"ctr": ctr, "dwell": seconds, "completion": completion, "completed": ctr * completion}


RECIPES = {
    "shared_bottom": (shared_bottom, esmm),
    "soft_sharing": (networks_of_their_own, esmm),
    "cross_stitch": (cross_stitch, esmm),
    "omoe": (omoe, esmm),
    "mmoe": (mmoe, esmm),
    "ple": (ple, esmm),
    "snr_trans": (snr, esmm),
    "snr_aver": (snr, esmm),
    "esmm": (networks_of_their_own, esmm),
    "esm2": (networks_of_their_own, esm2),
    "mmoe_esmm": (mmoe, esmm),
    "dbmtl": (dbmtl, esmm),
    "star": (star, esmm),
    "position_bias": (mmoe, esmm),
    "engagement": (mmoe, engagement),
}


def fields_of(name):
    return tuple(field for field in FIELDS if name != "position_bias" or field not in HIDDEN)


def compare(found, expected):
    assert list(found) == list(expected), "names, heads first"
    for output, value in expected.items():
        assert found[output].dtype == np.float64
        assert value.std() > 1e-3, f"{output} says the same of every row, which tests nothing"
        np.testing.assert_allclose(found[output], value, atol=1e-5, rtol=1e-5 if output == "dwell" else 0)


def test_these_are_all_the_recipes():
    linked = {"nmtr", "conet", "sconet", "dupn", "deepmcp"}  # other fields and labels: test_linked_recipes.py
    rankers = {"lr", "fm", "ffm", "wide_deep", "deepfm", "ratings", "youtube_ranking"}  # in test_ranker_recipes
    found = {name for name in names("tasks") if isinstance(any_task(name), ImpressionTask)}
    assert set(RECIPES) | linked | rankers == found


@pytest.mark.parametrize("vectors", [False, True], ids=["fields", "vectors"])
@pytest.mark.parametrize("name", RECIPES)
def test_it_computes_what_its_paper_says(name, vectors):
    it = whole(name, vectors=vectors)
    if name == "engagement":
        it.network.scale_value("dwell", mean=3.0, sd=0.7)
    forward, outputs = RECIPES[name]
    x = it.x(fields=fields_of(name))
    compare(it.predicted(), outputs(*forward(it.s, x, COLUMNS.domain)))


@pytest.mark.parametrize("name", ["snr_trans", "snr_aver"])
def test_snr_in_training_has_gates_of_noise(name):
    it = whole(name)
    routers = [module for module in it.network.modules() if isinstance(module, HardConcreteRouter)]
    for router in routers:
        router.train()
    torch.manual_seed(11)
    found = it.predicted()
    torch.manual_seed(11)
    z, s = [], it.s
    for layer, router in enumerate(routers):
        u = torch.rand(router.log_alpha.shape).double().numpy()
        logits = np.log(u) - np.log(1 - u) + s[f"body.layers.{layer}.router.log_alpha"]
        z.append(stretched(sigmoid(logits / 0.5)))
    assert any(0 < gate < 1 for one in z for gate in one.ravel()), "the noise decides no gate"
    compare(found, esmm(*snr(s, it.x(), None, z=z)))
    again = it.predicted()
    assert np.abs(again["ctr"] - found["ctr"]).max() > 1e-3, "a draw of its own in each forward pass"
    open_share = sum(sigmoid(s[f"body.layers.{n}.router.log_alpha"] - 0.5 * np.log(0.1 / 1.1)).sum() for n in (0, 1))
    assert it.network.penalty().item() == pytest.approx(1e-4 * open_share, rel=1e-5)


def test_soft_sharing_adds_the_squared_distance_of_the_networks():
    it = whole("soft_sharing")
    s, expected = it.s, 0.0
    for part in ("linears.0.weight", "linears.0.bias", "linears.1.weight", "linears.1.bias"):
        one, other = (s[f"body.layers.0.experts.{k}.{part}"] for k in (0, 1))
        expected += 1e-3 * ((one - other) ** 2).sum()
    assert it.network.penalty().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"soft_sharing", "snr_trans", "snr_aver"}))
def test_the_others_add_nothing_to_the_loss(name):
    assert whole(name).network.penalty().item() == 0


def test_star_in_training_normalises_each_domain_by_its_own_rows():
    it = whole("star")
    assert it.network.norm is not None
    it.network.norm.train()
    x = it.x(training=True)
    compare(it.predicted(), esmm(*star(it.s, x, COLUMNS.domain)))


@pytest.mark.parametrize("form", ["low_rank", "per_channel"])
def test_star_with_smaller_factors(form):
    domains = impression_task("star").domains.model_copy(update={"star": form, "rank": 2})
    it = whole("star", domains=domains)
    s = it.s
    for name in [name for name in s if name.endswith(".deviation.left")]:
        s[name.replace("left", "weight")] = np.einsum("kor,kri->koi", s[name], s[name.replace("left", "right")])
    if form == "per_channel":
        s = {n: v[:, :, None] if n.endswith(".deviation.weight") else v for n, v in s.items()}
    compare(it.predicted(), esmm(*star(s, it.x(), COLUMNS.domain)))


def test_in_training_the_position_adds_what_it_says_beyond_a_missing_one():
    """The logits of main network and shallow tower; the tower is on the click alone."""
    it = whole("position_bias")
    (shallow,) = it.network.biases
    shallow.train()
    shallow.dropout = 0.0
    s = it.s

    def shallow_logit(fields):
        return dense(s, "biases.0.tower.output", mlp(s, "biases.0.tower.tower", fields))[:, 0]

    shown = COLUMNS.embedded(s, "biases.0.embeddings", HIDDEN, ALL)
    missing = np.stack([s["biases.0.embeddings.table.weight"][0], s["biases.0.embeddings.numeric"][2, 0]])
    click, conversion = mmoe(s, it.x(fields=fields_of("position_bias")), None)
    click = click + shallow_logit(shown.reshape(ROWS, -1)) - shallow_logit(missing.reshape(1, -1))
    compare(it.predicted(), esmm(click, conversion))


def test_dropout_is_on_in_training_alone():
    it = whole("shared_bottom")
    once, twice = it.predicted(), it.predicted()
    assert np.array_equal(once["ctr"], twice["ctr"])
    it.network.train()
    assert not np.array_equal(it.predicted()["ctr"], it.predicted()["ctr"])
