"""Recipes put into effect: what trains, what stays, what the encoder is at step 0, and recipes that do not fit."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from peterrec import catalogue
from peterrec.adaptation import adapt, build, history_length, task_reader, tune
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.data.reading import WHOLE
from peterrec.data.vocabulary import TCL
from peterrec.encoders.nextitnet import NextItNet
from peterrec.encoders.nextitnet_config import NextItNetConfig
from peterrec.errors import RefusedError, SettingsError
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.run_weights import ModelFacts, fill_weights, read_own_weights, save_weights
from peterrec.settings import validate
from peterrec.tuners.star import domains_told_apart

D, V, BLOCKS = 16, 40, 2
CONVS = 2 * BLOCKS  # of plain blocks
RECIPES = catalogue.names("adapters")
NOT_THE_IDENTITY = {"parallel_published"}
TASK = catalogue.task("gender")


def encoder(block: str = "plain", *, dropout: float = 0.0) -> NextItNet:
    """Two blocks, with weights and biases away from their start values, so that a lost one shows."""
    dilations = (1, 2, 1, 2) if block == "plain" else (1, 2)
    torch.manual_seed(0)
    model = NextItNet(NextItNetConfig(vocab_size=V, hidden_size=D, dilations=dilations, block=block, dropout=dropout))
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def histories() -> torch.Tensor:
    """Rows `(6, 12)` of several lengths, each with TCL as its last event."""
    ids = torch.randint(3, V, (6, 12), generator=torch.Generator().manual_seed(1))
    for row, length in enumerate((12, 11, 9, 7, 5, 2)):
        ids[row, length - 1] = TCL
        ids[row, length:] = 0
    return ids


def recipe(text: dict, *, name: str = "mine") -> AdapterRecipe:
    return validate(AdapterRecipe, {"name": name, **text}, origin="test")


def peft_recipe(method: str, where: str, **options) -> AdapterRecipe:
    table = {"method": method, "where": where, "options": options}
    rows = {"train_tcl": True} if method == "trainable_tokens" else {}
    return recipe({"tuner": "peft", "peft": table, **rows})


def states(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(histories()).last_hidden_state


def train(model: torch.nn.Module, loss, *, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.5)
    model.train()
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    model.eval()


def far_from_zero(model: torch.nn.Module) -> torch.Tensor:
    target = torch.randn(6, 12, D, generator=torch.Generator().manual_seed(2))
    return (model(histories()).last_hidden_state - target).square().mean()


def trained(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_starts_from_the_encoder_and_trains_only_what_is_its_own(name, block):
    adapter = catalogue.adapter(name)
    if (name, block) == ("parallel_unit", "bottleneck"):
        with pytest.raises(SettingsError, match=r"adapter parallel_unit: .*BottleneckBlock"):
            adapt(encoder(block), adapter, readout="tcl")
        return
    base = encoder(block)
    before = states(base)
    weights = dict(base.named_parameters())
    bytes_before = {key: weight.detach().numpy().tobytes() for key, weight in weights.items()}
    task = TASK.model_copy(update={"readout": "tcl"})
    model = build(base, adapter=adapter, task=task, num_classes=2)

    start = states(model.encoder)
    if name in NOT_THE_IDENTITY:
        assert not torch.allclose(start, before, atol=0.01)
    else:
        torch.testing.assert_close(start, before, rtol=0, atol=2e-6)
    held = {id(parameter) for parameter in model.parameters()}
    assert all(id(weight) in held for weight in weights.values()), "the frozen weights are those of the model"

    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    with torch.no_grad():
        first = model(histories(), labels=labels).logits
    train(model, lambda model: model(histories(), labels=labels).loss)
    changed = {key for key, weight in weights.items() if weight.detach().numpy().tobytes() != bytes_before[key]}
    assert changed == (set(weights) if adapter.tuner == "full" else set())
    with torch.no_grad():
        assert not torch.allclose(model(histories()).logits, first, atol=1e-4)
    assert torch.equal(states(model.encoder), start) == (adapter.tuner == "none")


PATCH = D * 2 + 2 + 2 * D + D  # D / 8 = 2 channels inside
NORMS = CONVS * 2 * D
HALF = D // 2  # channels inside a bottleneck block
COUNTS = {
    ("none", "plain"): 0,
    ("serial", "plain"): CONVS * PATCH + D,
    ("serial_block", "plain"): BLOCKS * PATCH + D,
    ("serial_top", "plain"): CONVS * PATCH,
    ("parallel", "plain"): CONVS * PATCH + D,
    ("parallel_unit", "plain"): CONVS * PATCH + D,
    ("parallel_published", "plain"): CONVS * (D * 4 + 4 + 4 * D + D) + NORMS,
    ("star_full", "plain"): CONVS * (3 * D * D + D) + D,
    ("star_low_rank", "plain"): CONVS * (4 * (3 * D + D) + D) + D,
    ("star", "plain"): CONVS * (D + D) + D,
    ("lora", "plain"): CONVS * 8 * (3 * D + D) + D,
    ("lora", "bottleneck"): BLOCKS * 8 * (D + HALF + 3 * HALF + HALF + HALF + D) + D,
    ("dora", "plain"): CONVS * (8 * (3 * D + D) + D) + D,
    ("rslora", "plain"): CONVS * 16 * (3 * D + D) + D,
    ("ia3", "plain"): CONVS * D,
    ("ia3", "bottleneck"): BLOCKS * (HALF + HALF + D),
    ("biases", "plain"): CONVS * D,
    ("ln_tuning", "plain"): NORMS,
    ("ln_tuning", "bottleneck"): BLOCKS * 2 * (D + HALF + HALF),
    ("tcl", "plain"): D,
    ("items", "plain"): 8 * (V + D),
    ("items_convex", "plain"): 32 * (V + D),
    ("last_1", "plain"): 2 * (3 * D * D + D + 2 * D),
    ("last_2", "plain"): 4 * (3 * D * D + D + 2 * D),
    ("full", "plain"): V * D + CONVS * (3 * D * D + D) + NORMS,
}


@pytest.mark.parametrize(("name", "block"), COUNTS)
def test_trained_weights_by_hand(name, block):
    assert trained(adapt(encoder(block), catalogue.adapter(name), readout="tcl")) == COUNTS[name, block]


def test_every_recipe_of_the_catalogue_is_counted():
    assert {name for name, _ in COUNTS} == set(RECIPES)


def test_the_tcl_row_trains_only_where_it_is_read():
    for name in ("serial", "star", "lora"):
        adapter = catalogue.adapter(name)
        read, unread = (trained(adapt(encoder(), adapter, readout=readout)) for readout in ("tcl", "mean"))
        assert read - unread == D
    frozen = catalogue.adapter("serial").model_copy(update={"train_tcl": False})
    assert trained(adapt(encoder(), frozen, readout="tcl")) == CONVS * PATCH


def test_a_readout_of_the_adapter_takes_the_place_of_the_tasks():
    assert TASK.readout != "tcl"
    model = build(encoder(), adapter=catalogue.adapter("tcl"), task=TASK, num_classes=2)
    assert model.readout == "tcl"
    assert build(encoder(), adapter=catalogue.adapter("serial"), task=TASK, num_classes=2).readout == TASK.readout
    without = catalogue.adapter("tcl").model_copy(update={"readout": None})
    with pytest.raises(SettingsError, match=r"adapter tcl: it trains the TCL row alone, .* 'mean' does not read"):
        build(encoder(), adapter=without, task=TASK, num_classes=2)
    adapt(encoder(), without, readout="tcl")


def test_tcl_changes_no_state_before_it():
    model = adapt(encoder(), catalogue.adapter("tcl"), readout="mean")
    before = states(model)
    train(model, far_from_zero)
    after = states(model)
    assert torch.equal(after[0, :11], before[0, :11])
    assert not torch.allclose(after[0, 11], before[0, 11], atol=1e-4)


def test_blocks_are_counted_from_the_top():
    model = adapt(encoder(), catalogue.adapter("last_1"), readout="mean")
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("base_model.model.blocks.1.") for name in names)
    for table in (
        {"tuner": "patch", "patch": {"blocks": 1}},
        {"tuner": "star", "star": {"blocks": 1}},
        {"tuner": "peft", "peft": {"method": "lora", "where": "convolutions", "blocks": 1}},
        {"tuner": "peft", "peft": {"method": "ln_tuning", "where": "norms", "blocks": 1}},
    ):
        model = adapt(encoder(), recipe(table), readout="mean")
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert names
        assert all(".blocks.1." in name for name in names)


def test_the_dropout_of_a_frozen_encoder_is_off_even_where_copies_of_its_layers_train():
    def quiet(name: str) -> bool:
        model = build(encoder(dropout=0.5), adapter=catalogue.adapter(name), task=TASK, num_classes=2)
        model.train()
        first, second = (model.user_vectors(histories()) for _ in range(2))
        return torch.equal(first, second)

    assert quiet("none")
    assert quiet("serial")
    assert quiet("ia3")
    assert quiet("last_1")
    assert not quiet("full")


def test_partitioned_norms_and_several_domains():
    several = recipe({"tuner": "star", "star": {"domains": 3, "form": "per_channel"}})
    model = adapt(encoder(), several, readout="mean")
    assert trained(model) == 3 * CONVS * (D + D)
    ids = torch.tensor([0, 1, 2, 0, 1, -1])
    torch.testing.assert_close(model.eval()(histories(), domain_ids=ids).last_hidden_state, states(encoder()))
    with pytest.raises(
        SettingsError, match=r"^adapter mine: star\.domains = 3, but the data of the task has no domains"
    ):
        build(encoder(), adapter=several, task=TASK, num_classes=2)
    norms = recipe({"tuner": "star", "star": {"norms": True}})
    assert trained(adapt(encoder(), norms, readout="mean")) > trained(
        adapt(encoder(), recipe({"tuner": "star", "star": {}}), readout="mean")
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"tuner": "patch", "patch": {"blocks": 9}}, "adapter mine: patch.blocks = 9, but the encoder has 2 blocks"),
        ({"tuner": "star", "star": {"blocks": 9}}, "adapter mine: star.blocks = 9, but the encoder has 2 blocks"),
        (
            {"tuner": "peft", "peft": {"method": "ia3", "where": "convolutions", "blocks": 3}},
            "adapter mine: peft.blocks = 3, but the encoder has 2 blocks",
        ),
        ({"tuner": "patch", "patch": {"reduction": 32}}, "patch.reduction = 32: leaves no channel"),
        (
            {"tuner": "peft", "peft": {"method": "c3a", "where": "convolutions", "options": {"block_size": 5}}},
            "adapter mine: ",
        ),
    ],
)
def test_recipes_that_do_not_fit_the_encoder(table, message):
    with pytest.raises(SettingsError) as caught:
        adapt(encoder(), recipe(table), readout="mean")
    assert message in str(caught.value)


def test_a_file_holds_the_adapter_alone(tmp_path):
    for name, held in (("last_1", 8), ("tcl", 1), ("serial", 4 * CONVS + 1)):
        model = adapt(encoder(), catalogue.adapter(name), readout="tcl")
        assert isinstance(model, PeftModel)
        model.save_pretrained(str(tmp_path / name), save_embedding_layers=False)
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        assert len(tensors) == held
        assert sum(tensor.numel() for tensor in tensors.values()) == trained(model)


def test_each_key_of_a_table_reaches_the_tuner():
    patch = {"placement": "parallel_conv", "bottleneck": 3, "activation": "gelu", "dropout": 0.25, "shortcut": True}
    star = {"form": "low_rank", "rank": 3, "norms": True}
    for tuner, table in (("patch", {**patch, "train_norms": True}), ("star", star)):
        model = adapt(encoder(), recipe({"tuner": tuner, tuner: table}), readout="mean")
        assert isinstance(model, PeftModel)
        config = model.peft_config["default"].to_dict()
        assert {key: config[key] for key in table} == table


def test_weights_that_were_trainable_before_are_frozen():
    base = encoder()
    base.requires_grad_(True)
    adapt(base, catalogue.adapter("none"), readout="mean")
    assert trained(base) == 0
    assert trained(adapt(base, catalogue.adapter("full"), readout="mean")) == COUNTS["full", "plain"]


def task_of(**changes):
    return validate(type(TASK), {**TASK.model_dump(), **changes}, origin="test")


def reading_encoder() -> NextItNet:
    """An encoder that has learned to read: attention with item weights over embeddings and top."""
    torch.manual_seed(0)
    config = NextItNetConfig(
        vocab_size=V,
        hidden_size=D,
        dilations=(1, 2, 1, 2),
        readout="attention",
        readout_layers=[0, -1],
        readout_item_weights=True,
    )
    model = NextItNet(config)
    with torch.no_grad():
        for parameter in model.reader.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


def own_reader(model) -> list[bool]:
    """Of each tensor of the task's reader, whether it is the encoder's, in memory of its own."""
    theirs = model.base_encoder.reader.state_dict()
    assert all(
        tensor.untyped_storage().data_ptr() != theirs[name].untyped_storage().data_ptr()
        for name, tensor in model.reader.state_dict().items()
        if name in theirs
    )
    return [torch.equal(tensor, theirs[name]) for name, tensor in model.reader.state_dict().items()]


@pytest.mark.parametrize("tuner", ["none", "serial", "full"])
@pytest.mark.parametrize(
    "named", [{"readout": "encoder"}, {"readout": "attention", "layers": [0, 2], "item_weights": True}]
)
def test_a_readout_like_the_encoders_starts_from_what_it_learned(named, tuner):
    bare = reading_encoder()
    before = {name: tensor.clone() for name, tensor in bare.reader.state_dict().items()}
    model = build(bare, adapter=catalogue.adapter(tuner), task=task_of(**named), num_classes=2)
    assert own_reader(model) == [True] * 3
    ids = histories()
    if tuner != "full":
        with torch.no_grad():
            torch.testing.assert_close(model.eval().user_vectors(ids), bare(ids).user_vector)
    train(model, lambda model: model(ids, labels=torch.arange(6) % 2).loss)
    assert own_reader(model) == [False] * 3
    assert all(torch.equal(bare.reader.state_dict()[name], tensor) for name, tensor in before.items())


def test_another_readout_starts_afresh_and_the_adapters_own_comes_first():
    other = recipe({"tuner": "none", "readout": "attention", "layers": [1]})
    model = build(reading_encoder(), adapter=other, task=task_of(readout="encoder"), num_classes=2)
    assert (model.reader.kind, model.reader.layers, model.reader.item_weights) == ("attention", (1,), None)
    assert not model.reader.query.any()
    assert model.reader.trains


def test_a_readout_can_stay_as_it_was_learned():
    task = task_of(readout="encoder", train_readout=False)
    assert not build(reading_encoder(), adapter=recipe({"tuner": "none"}), task=task, num_classes=2).reader.trains
    again = recipe({"tuner": "none", "train_readout": True})
    assert build(reading_encoder(), adapter=again, task=task, num_classes=2).reader.trains


def test_how_much_of_a_history_is_read():
    none = recipe({"tuner": "none"})
    assert history_length(none, task_of(max_length=50)) == 50
    assert history_length(none, task_of(max_length="all")) == WHOLE
    assert history_length(recipe({"tuner": "none", "max_length": "all"}), task_of(max_length=50)) == WHOLE
    windowed = recipe({"tuner": "none", "window": 7})
    assert build(encoder(), adapter=windowed, task=task_of(window=9), num_classes=2).window == 7
    assert build(encoder(), adapter=none, task=task_of(window=9), num_classes=2).reading(WHOLE).window == 9


def test_what_the_readout_does_not_read_is_not_trained():
    below = task_of(readout="mean", layers=[0, 1])
    model = build(encoder(), adapter=catalogue.adapter("serial"), task=below, num_classes=2)
    trained = {name for name, parameter in model.encoder.named_parameters() if parameter.requires_grad}
    assert trained
    assert not any("blocks.1." in name for name in trained)
    full = build(encoder(), adapter=catalogue.adapter("full"), task=below, num_classes=2)
    assert not any(p.requires_grad for p in full.base_encoder.blocks[1].parameters())
    assert all(p.requires_grad for p in full.base_encoder.blocks[0].parameters())
    with pytest.raises(SettingsError, match=r"last_1: all that it trains stands above the layers 0, 1"):
        build(encoder(), adapter=catalogue.adapter("last_1"), task=below, num_classes=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [3]}, r"from 0 \(the embeddings\) to 2"),
        ({"readout": "tcl_ends"}, "two-sided"),
        ({"readout": "tcl", "window": 1}, "set it to 2 or more"),
    ],
)
def test_a_readout_that_does_not_fit_the_encoder_is_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        build(encoder(), adapter=recipe({"tuner": "none"}), task=task_of(**changes), num_classes=2)


def test_a_head_by_newton_has_one_scale_for_all():
    task = task_of(head={"fit": "newton"})
    model = build(encoder(), adapter=recipe({"tuner": "none"}), task=task, num_classes=2)
    assert {name for name, _ in model.head.named_buffers()} == {"norm.center", "norm.scale"}


DOMAINS = torch.tensor([2, 0, -1, 1, 0, 9])


def of_domains(adapter: AdapterRecipe, domains: int) -> TaskModel:
    """A task model as tasks with domains build one."""
    base = encoder()
    torch.manual_seed(4)
    head = ClassificationHead(D, 2)
    model = TaskModel(base, head, readout=task_reader(base, adapter=adapter, task=TASK), window=7)
    tune(model, base, adapter=adapter, domains=domains)
    return model


def by_domain(model: TaskModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval().user_vectors(histories(), domain_ids=DOMAINS)


@pytest.mark.parametrize("name", ["star", "star_low_rank", "star_full"])
def test_star_takes_the_domains_of_the_data(name):
    adapter = catalogue.adapter(name)
    bare = by_domain(of_domains(catalogue.adapter("none"), 3))
    model = of_domains(adapter, 3)
    assert domains_told_apart(model.encoder) == 3
    torch.testing.assert_close(by_domain(model), bare, rtol=0, atol=2e-6)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    first = trained(model.encoder)
    assert first == 3 * trained(of_domains(adapter, 1).encoder) == 3 * trained(of_domains(adapter, 0).encoder)
    train(model, lambda model: model(histories(), labels=labels, domain_ids=DOMAINS).loss)
    moved = (by_domain(model) - bare).abs().amax(dim=1) > 1e-4
    assert moved.tolist() == [True, True, False, True, True, False], "rows of unknown domains read the frozen encoder"
    with pytest.raises(ValueError, match="3 domains: pass domain_ids"):
        model(histories())


def test_windows_of_a_user_are_of_its_domain():
    model = of_domains(catalogue.adapter("star"), 3)
    for parameter in model.encoder.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    ids = histories()[:3]
    rows = torch.cat([ids[:1, :6], ids[1:2, :6], ids[:1, 6:], ids[2:, :6]])
    places = torch.tensor([[0, 2], [1, -1], [3, -1]])
    domains = DOMAINS[:3]
    with torch.no_grad():
        model.eval()
        together = model.user_vectors(rows, domain_ids=domains, places=places)
        for user, own in enumerate(([0, 2], [1], [3])):
            mine = torch.tensor([[*range(len(own))]])
            alone = model.user_vectors(rows[own], domain_ids=domains[user : user + 1], places=mine)
            torch.testing.assert_close(alone[0], together[user], rtol=1e-5, atol=1e-6)
        other = model.user_vectors(rows, domain_ids=domains.roll(1), places=places)
    assert all(not torch.allclose(other[user], together[user], atol=1e-3) for user in range(3))


def test_one_set_for_all_domains_wants_no_domain_ids():
    shared = recipe({"tuner": "star", "star": {"domains": 1}})
    model = of_domains(shared, 3)
    assert domains_told_apart(model.encoder) == 1
    assert domains_told_apart(of_domains(catalogue.adapter("serial"), 3).encoder) == 1
    assert domains_told_apart(of_domains(catalogue.adapter("none"), 3).encoder) == 1
    assert trained(model.encoder) == trained(of_domains(shared, 1).encoder)


@pytest.mark.parametrize(("domains", "data"), [(0, "no domains"), (1, "no domains"), (4, "4 domains")])
def test_a_number_of_domains_that_is_not_that_of_the_data(domains, data):
    named = recipe({"tuner": "star", "star": {"domains": 3}})
    with pytest.raises(SettingsError, match=rf"star\.domains = 3, but the data of the task has {data}\. .*\"data\""):
        of_domains(named, domains)
    assert domains_told_apart(of_domains(named, 3).encoder) == 3


@pytest.mark.parametrize("name", ["star", "star_low_rank"])
def test_weights_a_domain_are_saved_and_found_again(tmp_path, name):
    adapter = catalogue.adapter(name)
    facts = ModelFacts(adapter=adapter, encoder_revision="r", vocabulary_fingerprint="v")
    model = of_domains(adapter, 3)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    train(model, lambda model: model(histories(), labels=labels, domain_ids=DOMAINS).loss)
    save_weights(model, folder=tmp_path, facts=facts)

    again = of_domains(adapter, 3)
    fill_weights(again, read_own_weights(tmp_path, facts), folder=tmp_path, facts=facts, given=facts.pairing)
    assert torch.equal(by_domain(again), by_domain(model))
    fewer = of_domains(adapter, 2)
    with pytest.raises(RefusedError, match="adapter_model"):
        fill_weights(fewer, read_own_weights(tmp_path, facts), folder=tmp_path, facts=facts, given=facts.pairing)
