"""What a task on impressions comes to on given data, and what it refuses."""

import numpy as np
import pytest
import torch
from impression_world import draw, plan_of

from peterrec.body_recipe import BodyLayer
from peterrec.catalogue import impression_task
from peterrec.data.impressions.field_batch import FieldSizes
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import SettingsError
from peterrec.impression_design import binary_labels, build_network, design
from peterrec.impression_recipe import Bias, Head
from peterrec.objective_recipe import Measure, Objective
from peterrec.tuners.star import PartitionedNorm, StarLinear

FIELDS = ("shelf", "position", "price")
LABELS = {"click": True, "conversion": True, "rating": False}
SIZES = FieldSizes(names=("shelf", "position", "price"), categorical=(4,), numeric=2, multi=())


def plan(name="shared_bottom", *, fields=FIELDS, labels=None, domains=0, **changes):
    task = impression_task(name).model_copy(update=changes)
    return design(
        task, fields=fields, labels={"click": True, "conversion": True} if labels is None else labels, domains=domains
    )


def named(*heads, objectives, **more):
    """The keys of a task with heads of its own."""
    return {"heads": heads, "objectives": tuple(objectives), "derived": {}, "measures": (), **more}


def test_heads_come_from_the_labels_where_the_task_names_none():
    found = plan(labels=LABELS)
    assert [head.name for head in found.heads] == ["ctr", "cvr", "rating"]
    assert found.derived == {"ctcvr": "ctr * cvr"}
    assert found.values == ("rating",)
    assert [(one.of, one.space) for one in found.objectives] == [("ctr", None), ("cvr", "click == 1"), ("rating", None)]
    assert found.fields == FIELDS
    assert found.bias_fields == ()


def test_measures_are_the_objectives_where_the_task_names_none():
    head, objective = Head(name="liked"), Objective(of="liked", label="click", space="conversion == 0")
    found = plan(**named(head, objectives=[objective]))
    assert found.measures == (Measure(of="liked", label="click", space="conversion == 0"),)
    assert plan("esmm").measures == impression_task("esmm").measures


def test_a_tower_of_training_alone_keeps_its_fields_to_itself():
    found = plan("position_bias", fields=("shelf", "position", "device"))
    assert found.fields == ("shelf",)
    assert found.bias_fields == (("position", "device"),)
    assert found.all_fields == ("shelf", "position", "device")


def test_an_always_on_tower_shares_its_fields():
    found = plan(biases=(Bias(fields=("shelf",)), Bias(fields=())))
    assert found.fields == FIELDS
    assert found.bias_fields == (("shelf",), None)
    assert found.all_fields == FIELDS


def test_what_the_task_leaves_out_is_not_read():
    features = impression_task("shared_bottom").features.model_copy(update={"without": ("price",)})
    assert plan(features=features).fields == ("shelf", "position")
    kept_by_a_tower = plan(features=features, biases=(Bias(fields=("price",)),))
    assert kept_by_a_tower.all_fields == ("shelf", "position", "price")


VALUE = Head(name="paid", output="value")
CLICK = Head(name="ctr")
CLICKS = Objective(of="ctr", label="click")


def test_a_field_that_is_learned_is_no_input():
    learned = named(CLICK, VALUE, objectives=[CLICKS, Objective(of="paid", label="price", loss="mse")])
    assert plan(**learned).fields == ("shelf", "position")


def test_a_field_that_is_measured_is_no_input():
    """Else the figure would be that of a model that reads what it is to predict."""
    measured = named(
        CLICK,
        VALUE,
        objectives=[CLICKS, Objective(of="paid", label="position", loss="mse")],
        measures=(Measure(of="paid", label="price"),),
    )
    assert plan(**measured).fields == ("shelf",)


def test_binary_labels_are_0_and_1_wherever_they_are_known():
    impressions = Impressions.of_arrays(
        labels={"click": [0, 1, np.nan], "rating": [1, 2, 3], "half": [0, 0.5, 1]}, numeric={"price": [1.0, 2.0, 3.0]}
    )
    assert binary_labels(impressions) == {"click": True, "rating": False, "half": False}


REFUSED = {
    "domains": ({"name": "star"}, r"task star: its weights are a domain's .* --domain COLUMN"),
    "no such field left out": (
        {"features": impression_task("shared_bottom").features.model_copy(update={"without": ("pric",)})},
        "features.without names 'pric', no field of the data. Did you mean 'price'",
    ),
    "no such field of a tower": (
        {"name": "position_bias"},
        "biases.fields names 'device', no field of the data.* Known: position, price, shelf",
    ),
    "no such head of a tower": (
        {"biases": (Bias(fields=("shelf",), heads=("ctcvr",)),)},
        "biases name the head 'ctcvr'; there are ctr, cvr.",
    ),
    "a tower that reads what is learned": (
        named(
            CLICK,
            VALUE,
            objectives=[CLICKS, Objective(of="paid", label="price", loss="mse")],
            biases=(Bias(fields=("price",)),),
        ),
        "biases.fields names 'price', which the task learns or measures",
    ),
    "a field in training alone and always": (
        {"biases": (Bias(fields=("position",), train_only=True), Bias(fields=("position",)))},
        r"reads 'position' in training alone \(train_only\), another one always",
    ),
    "a space that cannot be read": (
        named(CLICK, objectives=[CLICKS.model_copy(update={"space": "click = 1"})]),
        "space 'click = 1'",
    ),
    "a space of no label": (
        named(CLICK, objectives=[CLICKS.model_copy(update={"space": "clik == 1"})]),
        "the space 'clik == 1' of 'ctr' needs the label 'clik', and the data have none .* Did you mean 'click'",
    ),
    "more gates than experts": (
        {"body": (BodyLayer(router="softmax", experts=2, top_k=3),)},
        "top_k = 3",
    ),
    "nothing to read": ({"fields": ()}, "no field of the data is left to read"),
    "nothing left to read": (
        {"fields": ("position",), "biases": (Bias(fields=("position",), train_only=True),)},
        "no field of the data is left to read",
    ),
    "no such label": (
        {"name": "esmm", "labels": {"click": True}},
        r"learns the label 'conversion', which the data do not have; they have click. .* --label conversion=COLUMN",
    ),
    "no such label measured": (
        named(CLICK, objectives=[CLICKS], measures=(Measure(of="ctr", label="like"),)),
        "learns the label 'like', which the data do not have",
    ),
    "a field as the label of a probability": (
        named(CLICK, objectives=[Objective(of="ctr", label="price")]),
        "'ctr' is a probability, and 'price' is a field of the data, which only a head with output = 'value' learns",
    ),
    "a label that is not 0 or 1": (
        named(CLICK, objectives=[Objective(of="ctr", label="rating")], labels=LABELS),
        "'ctr' is a probability, and the label 'rating' is not 0 or 1. Set its head's output = 'value'",
    ),
    "a loss of values": (
        named(CLICK, objectives=[Objective(of="ctr", label="click", loss="mse")]),
        "'ctr' has the loss mse, but it is a probability: take bce.",
    ),
    "a loss of probabilities": (
        named(VALUE, objectives=[Objective(of="paid", label="click")]),
        "'paid' has the loss bce, but it is a value: take mse or log_mse.",
    ),
    "a number and its logarithm": (
        named(
            VALUE,
            objectives=[
                Objective(of="paid", label="price", loss="mse"),
                Objective(of="paid", label="position", loss="log_mse"),
            ],
        ),
        "'paid' has the losses mse and log_mse",
    ),
    "a head without a loss": (
        named(CLICK, Head(name="cvr"), objectives=[CLICKS]),
        "no loss reaches the head 'cvr'",
    ),
    "a head that only gives features": (
        named(Head(name="first"), Head(name="ctr", parents=("first",)), objectives=[CLICKS]),
        "no loss reaches the head 'first'",
    ),
    "a derived one without a loss": (
        named(CLICK, Head(name="cvr"), objectives=[CLICKS], derived={"ctcvr": "ctr * cvr"}),
        "no loss reaches the head 'cvr'",
    ),
    "a product with a value": (
        named(
            CLICK,
            VALUE,
            objectives=[CLICKS, Objective(of="paid", label="price", loss="mse")],
            derived={"both": "ctr * paid"},
        ),
        "paid",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_it_refuses(why):
    changes, message = REFUSED[why]
    with pytest.raises(SettingsError, match=message):
        plan(**changes)


def test_a_loss_reaches_heads_through_products_and_parents():
    through = named(
        Head(name="a"),
        Head(name="b", parents=("a",), link="logits"),
        Head(name="c"),
        objectives=[Objective(of="all", label="click")],
        derived={"both": "b * c", "all": "1 - (1 - both)"},
    )
    assert [head.name for head in plan(**through).heads] == ["a", "b", "c"]


def network_of(found, *, channels=None):
    torch.manual_seed(0)
    return build_network(found, sizes=SIZES, bias_sizes=[None] * len(found.task.biases), channels=channels)


@pytest.mark.parametrize(("domains", "channels"), [(0, None), (3, None), (0, 8), (3, 8)])
def test_the_body_is_as_wide_as_what_it_reads(domains, channels):
    network = network_of(plan(domains=domains), channels=channels)
    width = 3 * 16 + (16 if domains else 0) + (3 * 64 if channels else 0)
    assert network.body.layers[0].experts[0].linears[0].in_features == width
    assert (network.domain is not None) == bool(domains)
    assert (network.vectors is not None) == bool(channels)
    assert network.norm is None


@pytest.mark.parametrize("norm", [True, False])
def test_domains_reach_norm_body_and_towers_and_nothing_else(norm):
    domains = impression_task("star").domains.model_copy(update={"norm": norm})
    network = network_of(star_plan(domains))
    assert isinstance(network.norm, PartitionedNorm) == norm
    assert (network.domain is None) == norm, "a norm by domain leaves nothing of a vector a domain"
    starred = {name for name, module in network.named_modules() if isinstance(module, StarLinear)}
    maps = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    assert maps - starred == {"biases.0.tower.tower.linears.0", "biases.0.tower.output"}
    assert all(module.deviation.num_domains == 3 for module in network.modules() if isinstance(module, StarLinear))


def star_plan(domains):
    task = impression_task("star").model_copy(update={"domains": domains})
    return design(task, fields=FIELDS, labels={"click": True, "conversion": True}, domains=3)


def test_logarithms_are_known_to_the_network():
    learned = named(CLICK, VALUE, objectives=[CLICKS, Objective(of="paid", label="price", loss="log_mse")])
    network = network_of(plan(**learned))
    assert network.values == ("paid",)
    assert network._logarithms == {"paid"}


def test_a_tower_that_reads_domains_wants_some():
    with pytest.raises(SettingsError, match="domain = true, and the data have no domains"):
        network_of(plan(biases=(Bias(domain=True),)))


def test_every_recipe_for_two_labels_fits_data_with_two_labels():
    impressions = draw(rows=30)
    for name in ("shared_bottom", "ple", "esmm", "dbmtl", "star"):
        found = plan_of(name, impressions)
        assert found.domains == 3
        assert found.fields == ("shelf", "colour", "price", "tags")


def test_a_penalty_on_embeddings_that_nothing_reads_is_refused():
    features = impression_task("lr").features.model_copy(update={"penalty": 0.1})
    with pytest.raises(SettingsError, match=r"task lr: features\.penalty is on embeddings, and nothing of the recipe"):
        plan("lr", features=features)
    assert plan("fm", features=features).task.features.penalty == 0.1
