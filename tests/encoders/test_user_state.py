"""User states against the full encode of each prefix, for every kind of block and every adapter of the catalogue."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from peterrec import catalogue
from peterrec.adaptation import adapt
from peterrec.adapter_recipe import AdapterRecipe
from peterrec.data.vocabulary import MASK, PAD, TCL
from peterrec.encoders import DUPN, DUPNConfig, NextItNet, NextItNetConfig, SASRec, SASRecConfig, state_columns
from peterrec.encoders.block_steps import BareBottleneckStep, BarePlainStep, WholeBlockStep
from peterrec.encoders.dilated import DilatedConv
from peterrec.encoders.loading import ENCODERS
from peterrec.encoders.readout import read_out, valid_positions
from peterrec.encoders.user_state import UserState
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.model import TaskModel
from peterrec.settings import validate
from peterrec.tuners import PatchConfig

VOCAB = 53
BLOCKS = ["plain", "bottleneck"]
MORE = {
    "star_3": {"tuner": "star", "star": {"domains": 3, "form": "full", "norms": True}},
    "serial_block_norms": {
        "tuner": "patch",
        "patch": {"placement": "serial_block", "bottleneck": 3, "train_norms": True},
    },
    "oft": {"tuner": "peft", "peft": {"method": "oft", "where": "convolutions", "options": {"oft_block_size": 4}}},
}
RECIPES = {name: catalogue.adapter(name) for name in catalogue.names("adapters")} | {
    name: validate(AdapterRecipe, {"name": name, **table}, origin=name) for name, table in MORE.items()
}
NO_PLACE = {("parallel_unit", "bottleneck")}  # its units begin, not end, with norm and ReLU


def make(*, double: bool = True, **changes) -> NextItNet:
    torch.manual_seed(0)
    settings = {"vocab_size": VOCAB, "hidden_size": 16, "dilations": (1, 2, 4, 1), "initializer_range": 0.4}
    encoder = NextItNet(NextItNetConfig(**{**settings, **changes}))
    with torch.no_grad():  # norms and biases away from their trivial start
        for name, parameter in encoder.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.4)
    return (encoder.double() if double else encoder).eval()


def adapted(name: str, encoder: NextItNet) -> nn.Module:
    """The encoder with a recipe's adapter around it, its weights drawn at random."""
    torch.manual_seed(1)
    model = adapt(encoder, RECIPES[name], readout="tcl")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def histories(users: int = 4, length: int = 33) -> Tensor:
    return torch.randint(3, VOCAB, (users, length), generator=torch.Generator().manual_seed(2))


def full(model: nn.Module, ids: Tensor, readout: str, domain_ids: Tensor | None = None) -> Tensor:
    """User vectors of the whole histories, all positions computed."""
    if readout == "tcl":
        ends = valid_positions(ids).sum(1)
        ids = torch.cat([ids, torch.zeros(len(ids), 1, dtype=torch.long)], dim=1)
        ids[torch.arange(len(ids)), ends] = TCL  # right padded
    with torch.no_grad():
        hidden = model(input_ids=ids, domain_ids=domain_ids).last_hidden_state
    return read_out(hidden, valid_positions(ids), readout)


def check_prefixes(model: nn.Module, *, tolerance: float, domain_ids: Tensor | None = None, start: int = 0) -> None:
    ids = histories()
    state = UserState.of(model, ids[:, :start], domain_ids=domain_ids)
    for stop in range(start + 1, ids.shape[1] + 1):
        state.append(ids[:, stop - 1])
        for readout in ("last", "mean", "sqrtn", "tcl") if stop % 4 == 1 else ("last",):
            wanted = full(model, ids[:, :stop], readout, domain_ids)
            torch.testing.assert_close(
                state.vectors(readout), wanted, rtol=tolerance, atol=tolerance, msg=f"{readout} after {stop}"
            )


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("kernel", "dilations"), [(3, (1, 2, 4, 1)), (2, (3, 1)), (4, (1, 5)), (5, (2, 2, 1, 7)), (3, (4, 4))]
)
def test_every_prefix_has_the_vectors_of_the_full_encode(block, kernel, dilations):
    check_prefixes(make(block=block, kernel_size=kernel, dilations=dilations), tolerance=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_in_single_precision_too(block):
    check_prefixes(make(block=block, double=False), tolerance=1e-5)


def test_blocks_in_which_nothing_is_wrapped_take_the_quick_step():
    kinds = {"plain": BarePlainStep, "bottleneck": BareBottleneckStep}
    for block, kind in kinds.items():
        state = UserState.empty(make(block=block), users=1)
        assert {type(step) for step in state._increment._steps} == {kind}


@pytest.mark.parametrize(("name", "block"), sorted({(name, block) for name in RECIPES for block in BLOCKS} - NO_PLACE))
def test_every_adapter_of_the_catalogue_is_exact(name, block):
    model = adapted(name, make(block=block))
    domain_ids = torch.tensor([2, 0, -1, 1]) if name == "star_3" else None
    check_prefixes(model, tolerance=1e-10, domain_ids=domain_ids, start=29)
    frozen = full(make(block=block), histories(), "tcl")
    if name not in ("none", "full"):
        assert (full(model, histories(), "tcl", domain_ids) - frozen).abs().max() > 1e-2, "the adapter does something"


@pytest.mark.parametrize("name", ["serial", "lora", "star_3"])
def test_an_adapter_is_exact_from_the_first_event(name):
    domain_ids = torch.tensor([2, 0, -1, 1]) if name == "star_3" else None
    check_prefixes(adapted(name, make()), tolerance=1e-10, domain_ids=domain_ids)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_a_block_that_is_wrapped_as_a_whole_is_exact(block):
    config = LNTuningConfig(target_modules=["blocks.1"], task_type="FEATURE_EXTRACTION")
    model = get_peft_model(make(block=block), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    state = UserState.empty(model.double().eval(), users=1)
    assert isinstance(state._increment._steps[1], WholeBlockStep)
    check_prefixes(model, tolerance=1e-10)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_hook_on_any_module_is_heard(block):
    fresh = make(block=block, dilations=(1, 2))
    wanted = full(fresh, histories(), "last")
    for name, _ in fresh.named_modules():
        if name in ("", "blocks", "reader"):  # the first is refused, the second is never called, the third is no state
            continue
        encoder = make(block=block, dilations=(1, 2))
        encoder.get_submodule(name).register_forward_hook(lambda module, args, output: output.sin() + 0.3)
        assert (full(encoder, histories(), "last") - wanted).abs().max() > 1e-3, name
        ids = histories(length=14)
        state = UserState.of(encoder, ids[:, :11])
        for position in range(11, 14):
            state.append(ids[:, position])
        torch.testing.assert_close(state.vectors("last"), full(encoder, ids, "last"), rtol=1e-10, atol=1e-10, msg=name)


def test_readouts_that_are_not_kept_are_refused():
    state = UserState.of(make(), histories())
    for kind in ("attention", "first_last", "tcl_ends"):
        with pytest.raises(SettingsError, match=f"no readout '{kind}'. Name one of last, tcl, mean, sqrtn"):
            state.vectors(kind)
    own = UserState.of(make(readout="last"), histories())
    assert torch.equal(own.vectors(), own.vectors("last"))
    summed = UserState.of(make(readout="sqrtn"), histories())
    assert torch.equal(summed.vectors(), summed.vectors("sqrtn"))
    with pytest.raises(SettingsError, match="no readout 'attention'"):
        UserState.of(make(readout="attention"), histories()).vectors()
    below, hooked = make(readout="last", readout_layers=(0, 2)), make(readout="last")
    hooked.reader.register_forward_hook(lambda module, args, output: output.sin())
    for encoder in (below, hooked):
        other = UserState.of(encoder, histories())
        with pytest.raises(SettingsError, match="own readout reads other layers"):
            other.vectors()
        torch.testing.assert_close(other.vectors("last"), own.vectors("last"))


def test_an_encoder_without_blocks_keeps_sums_alone():
    config, kind = ENCODERS["pooled"]
    torch.manual_seed(0)
    encoder = kind(config(vocab_size=VOCAB, hidden_size=16)).double().eval()
    check_prefixes(encoder, tolerance=1e-10)
    state = UserState.of(encoder, histories())
    state.append([9], users=[2])
    longer = torch.cat([histories()[2], torch.tensor([9])])[None]
    torch.testing.assert_close(state.vectors("mean")[2:3], full(encoder, longer, "mean"), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.vectors()[2:3], encoder(longer).user_vector, rtol=1e-10, atol=1e-10)
    assert state.bytes_per_user == 2 * 16 * 8 + 8


@pytest.mark.parametrize(("config", "kind"), [(SASRecConfig, SASRec), (DUPNConfig, DUPN)])
def test_encoders_that_read_all_of_a_history_are_refused(config, kind):
    with pytest.raises(SettingsError, match="as a whole"):
        UserState.empty(kind(config(vocab_size=VOCAB, hidden_size=16)).eval(), users=1)


@pytest.mark.parametrize("place", ["encoder", "model"])
@pytest.mark.parametrize("way", ["hook", "forward"])
def test_what_is_hung_on_the_encoder_as_a_whole_is_refused(way, place):
    model = adapted("lora", make())
    module = model if place == "model" else model.get_base_model()
    if way == "hook":
        module.register_forward_hook(lambda *_: None)
    else:
        module.forward = module.forward
    with pytest.raises(SettingsError, match="a hook or a replaced forward"):
        UserState.empty(model, users=1)


def test_a_dropout_in_training_mode_is_refused():
    encoder = make(dropout=0.2)
    state = UserState.of(encoder, histories())
    encoder.blocks[1].dropout.train()
    for use in (lambda: state.vectors("last"), lambda: UserState.empty(encoder, users=1)):
        with pytest.raises(SettingsError, match="eval"):
            use()


@pytest.mark.parametrize("block", BLOCKS)
def test_appended_events_leave_what_the_whole_history_leaves(block):
    encoder, ids = make(block=block), histories(length=40)
    whole = UserState.of(encoder, ids)
    appended = UserState.of(encoder, ids[:, :17])
    for position in range(17, 40):
        appended.append(ids[:, position])
    assert torch.equal(whole.lengths, appended.lengths)
    for name, column in whole._columns.tensors.items():
        torch.testing.assert_close(appended._columns.tensors[name], column, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("kernel", "dilations"), [(3, (1, 2, 4, 1)), (2, (3, 1)), (5, (2, 2, 1, 7))])
@pytest.mark.parametrize("name", ["none", "serial", "lora"])
def test_users_go_together_and_apart_and_together_again(block, kernel, dilations, name, monkeypatch):
    model = adapted(name, make(block=block, kernel_size=kernel, dilations=dilations))
    ids, users = histories(length=24), len(histories())
    state = UserState.of(model, ids[:, :5])
    taken = {True: 0, False: 0}  # steps of all users at once, and of some
    columns = state._columns

    def counting(together, own):
        def counted(*args, **options):
            taken[together] += 1
            return own(*args, **options)

        return counted

    monkeypatch.setattr(columns, "_advance_all", counting(True, columns._advance_all))
    monkeypatch.setattr(columns, "_advance_some", counting(False, columns._advance_some))
    had = [5] * users

    def check():
        for readout in ("last", "mean", "tcl"):
            wanted = torch.cat([full(model, ids[user : user + 1, : had[user]], readout) for user in range(users)])
            torch.testing.assert_close(state.vectors(readout), wanted, rtol=1e-10, atol=1e-10, msg=f"{readout} {had}")

    def step(*who):
        items = [int(ids[user, had[user]]) for user in who]
        state.append(items, users=None if len(who) == users else list(who))
        for user in who:
            had[user] += 1

    everybody = range(users)
    for _ in range(3):
        step(*everybody)
    check()
    assert taken == {True: 4, False: 0}  # one of them to read tcl
    for who in ((2,), (0, 2), (2, 1), everybody, (3, 2)):
        step(*who)
    check()
    assert (had, taken) == ([10, 10, 13, 10], {True: 4, False: 6})
    for who in ((0, 1, 3), (0, 1, 3), (3, 0, 1), everybody, everybody):
        step(*who)
    check()
    assert (had, taken) == ([15] * users, {True: 7, False: 9})


def test_reading_from_several_threads_disturbs_nobody():
    state = UserState.of(make(double=False, hidden_size=64), histories(users=40))
    wanted = state.vectors("tcl")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: state.vectors("tcl"), range(60)))
    assert all(torch.equal(one, wanted) for one in found)


def test_users_differ_in_length_and_pad_is_no_event():
    encoder, ids = make(), histories(length=20)
    ids[0, 5:] = PAD
    ids[1, :8] = PAD  # padding on either side
    ids[2, 3:9] = PAD  # and in between, where it is left out
    ids[3] = PAD
    state = UserState.of(encoder, ids)
    assert state.lengths.tolist() == [5, 12, 14, 0]
    own = [row[row != PAD] for row in ids]
    for step in range(12):
        items = histories(length=60)[:, 30 + step].clone()
        items[(step % 4)] = PAD
        items[(step // 2) % 4] = PAD
        state.append(items)
        own = [torch.cat([row, item[None]]) if item else row for row, item in zip(own, items, strict=True)]
    assert state.lengths.tolist() == [len(row) for row in own]
    for readout in ("last", "mean", "tcl"):
        wanted = torch.cat([full(encoder, row[None], readout) for row in own])
        torch.testing.assert_close(state.vectors(readout), wanted, rtol=1e-10, atol=1e-10)


def test_a_user_without_events_reads_zeros_and_tcl_alone():
    encoder = make()
    state = UserState.empty(encoder, users=2)
    state.append(torch.tensor([PAD, PAD]))
    assert state.vectors("last").abs().sum() == 0
    assert state.vectors("mean").abs().sum() == 0
    assert state.vectors("sqrtn").abs().sum() == 0
    torch.testing.assert_close(state.vectors("tcl"), full(encoder, torch.zeros(2, 0, dtype=torch.long), "tcl"))
    assert torch.equal(UserState.of(encoder, torch.zeros(2, 0, dtype=torch.long)).vectors("tcl"), state.vectors("tcl"))


def test_reading_tcl_leaves_nothing_behind():
    state = UserState.of(make(), histories())
    before = {name: column.clone() for name, column in state._columns.tensors.items()}
    state.vectors("tcl")
    assert all(torch.equal(column, before[name]) for name, column in state._columns.tensors.items())


def test_beyond_max_length_the_receptive_field_decides():
    encoder = make(max_length=20)
    field = encoder.config.receptive_field
    assert field == 17
    ids = histories(length=45)
    state = UserState.of(encoder, ids[:, :18])
    for position in range(18, 45):
        state.append(ids[:, position])
        last = ids[:, max(0, position + 1 - 20) : position + 1]  # what a full encode reads
        for readout in ("last", "tcl"):
            torch.testing.assert_close(state.vectors(readout), full(encoder, last, readout), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.vectors("mean"), full(encoder, ids, "mean"), rtol=1e-10, atol=1e-10)
    assert not torch.allclose(state.vectors("mean"), full(encoder, ids[:, -20:], "mean"), atol=1e-3)


def test_some_users_of_a_table_are_updated_and_read():
    encoder, ids = make(), histories(users=6, length=15)
    state = UserState.of(encoder, ids)
    before = state.vectors("last")
    state.append(torch.tensor([7, 9, PAD]), users=[4, 1, 2])
    after = state.vectors("last")
    assert torch.equal(after[[0, 2, 3, 5]], before[[0, 2, 3, 5]])
    longer = torch.cat([ids[[4, 1]], torch.tensor([[7], [9]])], dim=1)
    for readout in ("last", "mean", "tcl"):
        wanted = full(encoder, longer, readout)
        torch.testing.assert_close(state.vectors(readout, users=torch.tensor([4, 1])), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["none", "star_3"])
def test_users_are_taken_out_and_put_back(name):
    model, ids = adapted(name, make()), histories(users=5)
    domain_ids = torch.tensor([0, 1, 2, -1, 1]) if name == "star_3" else None
    table = UserState.of(model, ids, domain_ids=domain_ids)
    before = table.vectors("tcl")
    hot = table.select([3, 0])
    assert len(hot) == 2
    hot.append(torch.tensor([5, 6]))
    assert torch.equal(table.vectors("tcl"), before), "a copy"
    table.put([3, 0], hot)
    longer = torch.cat([ids[[3, 0]], torch.tensor([[5], [6]])], dim=1)
    wanted = full(model, longer, "tcl", None if domain_ids is None else domain_ids[[3, 0]])
    torch.testing.assert_close(table.vectors("tcl")[[3, 0]], wanted, rtol=1e-10, atol=1e-10)
    assert torch.equal(table.vectors("tcl")[[1, 2, 4]], before[[1, 2, 4]])
    assert table.lengths.tolist() == [34, 33, 33, 34, 33]


def test_many_users_go_in_parts(monkeypatch):
    encoder, ids = make(), histories(users=7, length=19)
    whole = UserState.of(encoder, ids).vectors("last")
    monkeypatch.setitem(state_columns.USERS_AT_ONCE, "cpu", 3)
    monkeypatch.setitem(state_columns.POSITIONS_AT_ONCE, "cpu", 40)
    state = UserState.of(encoder, ids[:, :-1])
    state.append(ids[:, -1])
    torch.testing.assert_close(state.vectors("last"), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.vectors("tcl"), full(encoder, ids, "tcl"), rtol=1e-10, atol=1e-10)
    for user in range(7):  # and where they do not go together
        state.append([7 + user], users=[user])
        if user == 2:
            state.append([3, 4, 5, 6], users=[6, 0, 5, 3])
    more = {6: [3, 13], 0: [7, 4], 5: [5, 12], 3: [6, 10]}
    longer = [torch.cat([ids[user], torch.tensor(more.get(user, [7 + user]))]) for user in range(7)]
    for readout in ("last", "mean", "tcl"):
        wanted = torch.cat([full(encoder, row[None], readout) for row in longer])
        torch.testing.assert_close(state.vectors(readout), wanted, rtol=1e-10, atol=1e-10)


def test_bytes_per_user_are_those_of_the_tensors():
    state = UserState.empty(make(double=False), users=3)
    assert state.bytes_per_user == 2 * (1 + 2 + 4 + 1) * 16 * 4 + 2 * 16 * 4 + 8
    assert state.bytes_per_user * 3 == sum(column.nbytes for column in state._columns.tensors.values())
    large = NextItNet(NextItNetConfig(vocab_size=9, hidden_size=64, dilations=(1, 2, 4, 8) * 4)).eval()
    assert UserState.empty(large, users=1).bytes_per_user == 31_240  # as its docstring says


@pytest.mark.parametrize("name", ["none", "serial"])
def test_half_precision_storage_is_close_and_takes_half(name):
    model, ids = adapted(name, make()).float(), histories()
    exact, rounded = UserState.of(model, ids[:, :9]), UserState.of(model, ids[:, :9], storage=torch.float16)
    for position in range(9, 33):
        exact.append(ids[:, position])
        rounded.append(ids[:, position])
    wanted = exact.vectors("last")
    error = (rounded.vectors("last") - wanted).abs().max() / wanted.abs().max()
    assert 0 < error < 2e-3
    assert rounded.bytes_per_user - 136 == (exact.bytes_per_user - 136) / 2


def test_vectors_may_be_trained_on_and_are_nobody_elses():
    state = UserState.of(make(double=False), histories())
    for readout in ("last", "mean", "tcl"):
        vectors = state.vectors(readout)
        nn.Linear(16, 2)(vectors).sum().backward()
        vectors.zero_()
        assert state.vectors(readout).abs().sum() > 0


def test_autocast_makes_no_difference(tmp_path):
    path, items = tmp_path / "state.safetensors", torch.tensor([3, 4, 5, 6])
    state, other = (UserState.of(make(double=False), histories()) for _ in range(2))
    state.append(items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(UserState.of(other.encoder, histories()).vectors("tcl"), other.vectors("tcl"))
        other.append(items)
        assert torch.equal(other.vectors("tcl"), state.vectors("tcl"))
        other.save(path)
    UserState.load(path, make(double=False))
    state.save(path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(UserState.load(path, make(double=False)).vectors("tcl"), state.vectors("tcl"))


@pytest.mark.parametrize("inference", [True, False])
def test_users_change_places_in_their_own_state(inference):
    with torch.inference_mode(inference):
        state = UserState.of(make(), histories())
    before = state.vectors("tcl")
    state.put([1, 0, 3, 2], state)
    assert torch.equal(state.vectors("tcl"), before[[1, 0, 3, 2]])


def test_items_and_users_come_as_arrays_and_lists():
    ids = histories()
    wanted = UserState.of(make(), ids)
    wanted.append(torch.tensor([3, 4]), users=torch.tensor([2, 0]))
    given = ids.numpy().astype("uint16")
    given.flags.writeable = False
    for whole, items, users in ((given, given[0, :2] * 0 + (3, 4), np.array([2, 0])), (ids.tolist(), [3, 4], [2, 0])):
        state = UserState.of(make(), whole)
        state.append(items, users=users)
        assert torch.equal(state.vectors("last"), wanted.vectors("last"))
    for wrong in ([[3], [3, 4]], "items", [[0.5]]):
        with pytest.raises(DataError, match="whole numbers"):
            UserState.of(make(), wrong)


def test_two_sided_encoders_are_refused():
    with pytest.raises(SettingsError, match="two-sided"):
        UserState.empty(make(causal=False), users=1)


def test_only_encoders_have_a_state():
    with pytest.raises(SettingsError, match="UserEncoder"):
        UserState.empty(nn.Linear(2, 2), users=1)
    with pytest.raises(SettingsError, match=r"Of this TaskModel give model\.encoder"):
        UserState.empty(TaskModel(make(), nn.Linear(16, 2), readout="last"), users=1)


def change_weight(model):
    with torch.no_grad():
        model.get_base_model().blocks[0].unit1.norm.weight[0] += 1


CHANGES = {
    "weights": change_weight,
    "loaded": lambda model: model.load_state_dict(model.state_dict()),
    "moved": lambda model: model.float(),
    "switched": lambda model: model.set_adapter("second"),
    "wrapped": lambda model: model.unload(),
    "added": lambda model: model.add_adapter("third", PatchConfig(bottleneck=2, placement="serial_block")),
    "training": lambda model: model.train(),
    "hooked": lambda model: model.get_base_model().blocks[1].unit1.norm.register_forward_hook(lambda *_: None),
    "replaced": lambda model: setattr(model.get_base_model().blocks[1], "forward", lambda *_: None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_state_of_an_encoder_that_has_changed_is_refused(change, tmp_path):
    model = adapted("serial", make())
    model.add_adapter("second", PatchConfig(bottleneck=2))
    model.eval()
    state = UserState.of(model, histories())
    CHANGES[change](model)
    for use in (
        lambda: state.append(torch.tensor([3, 4, 5, 6])),
        lambda: state.vectors("last"),
        lambda: state.save(tmp_path / "state.safetensors"),
        lambda: state.put([0], state.select([1])),
    ):
        with pytest.raises(SettingsError, match="eval" if change == "training" else "has changed"):
            use()


def test_a_disabled_adapter_is_another_encoder():
    model = adapted("lora", make())
    state = UserState.of(model, histories())
    with model.disable_adapter():
        with pytest.raises(SettingsError, match="has changed"):
            state.vectors("last")
        wanted = full(make(), histories(), "last")
        torch.testing.assert_close(UserState.of(model, histories()).vectors("last"), wanted, rtol=1e-10, atol=1e-10)
    state.vectors("last")


@pytest.mark.parametrize("row", [-1, MASK, TCL, VOCAB, VOCAB + 100])
def test_rows_that_are_no_items_are_refused_and_nothing_is_remembered(row):
    encoder = make()
    state = UserState.of(encoder, histories())
    before = state.vectors("mean")
    with pytest.raises(DataError, match=f"User 1 has the vocabulary row {row}"):
        state.append(torch.tensor([PAD, row, 3, 4]))
    with pytest.raises(DataError, match=f"User 1 has the vocabulary row {row}"):
        UserState.of(encoder, torch.tensor([[PAD, 3], [4, row]]))
    assert torch.equal(state.vectors("mean"), before)


def test_wrong_calls_say_what_is_wrong():
    encoder = make()
    state = UserState.empty(encoder, users=4)
    items = torch.tensor([3, 4])
    for users, message in ([0, 0], "twice"), ([0, 4], "user 4"), ([-1, 0], "user -1"), ([[0, 1]], "whole numbers"):
        with pytest.raises(DataError, match=message):
            state.append(items, users=users)
    with pytest.raises(DataError, match="whole numbers"):
        state.append(items, users=torch.tensor([True, False]))
    with pytest.raises(DataError, match="one item a user, 4 of them"):
        state.append(items)
    with pytest.raises(DataError, match=r"torch\.float32"):
        state.append(torch.rand(4))
    with pytest.raises(DataError, match=r"\(users, events\)"):
        UserState.of(encoder, items)
    with pytest.raises(SettingsError, match="Did you mean 'last'"):
        state.vectors("lats")
    with pytest.raises(SettingsError, match="domain_ids"):
        UserState.empty(encoder, users=2, domain_ids=torch.zeros(3, dtype=torch.long))
    with pytest.raises(SettingsError, match="storage"):
        UserState.empty(encoder, users=2, storage=torch.int8)
    with pytest.raises(SettingsError, match="same encoder"):
        state.put([0], UserState.empty(make(), users=1))
    with pytest.raises(DataError, match="1 places for 2 users"):
        state.put([0], UserState.empty(encoder, users=2))
    state.append(torch.zeros(0, dtype=torch.long), users=[])
    assert state.vectors(users=[]).shape == (0, 16)


def test_another_scale_of_an_adapter_is_noticed():
    model = adapted("lora", make())
    state = UserState.of(model, histories())
    layer = next(module for module in model.modules() if hasattr(module, "set_scale"))
    layer.set_scale("default", 3.0)
    with pytest.raises(SettingsError, match="has changed"):
        state.vectors("last")


def saved(model: nn.Module, path, **options) -> UserState:
    state = UserState.of(model, histories(), **options)
    state.save(path)
    return state


@pytest.mark.parametrize("name", ["none", "serial", "lora", "star_3"])
def test_a_saved_state_comes_back_and_goes_on(name, tmp_path):
    model, path = adapted(name, make()), tmp_path / "state.safetensors"
    domain_ids = torch.tensor([2, 0, -1, 1]) if name == "star_3" else None
    state = saved(model, path, domain_ids=domain_ids)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    again = UserState.load(path, adapted(name, make()))
    for one in (state, again):
        one.append(torch.tensor([3, PAD, 9, 8]))
    for readout in ("last", "mean", "tcl"):
        assert torch.equal(again.vectors(readout), state.vectors(readout))
    assert torch.equal(again.lengths, state.lengths)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_file_holds_the_inputs_by_convolution_and_event(block, tmp_path):
    from safetensors.torch import load_file

    encoder, ids, path = make(block=block, dilations=(1, 2, 4, 2)), histories(length=15), tmp_path / "state.safetensors"
    read = []
    convolutions = [module for module in encoder.modules() if isinstance(module, DilatedConv)]
    hooks = [conv.register_forward_pre_hook(lambda _, args: read.append(args[0])) for conv in convolutions]
    full(encoder, ids, "last")
    for hook in hooks:
        hook.remove()
    UserState.of(encoder, ids).save(path)
    found, first = load_file(path)["inputs"], 0
    for conv, inputs in zip(convolutions, read, strict=True):
        span = 2 * conv.dilation
        for event in range(15 - span, 15):
            row = found[:, first + event % span]
            torch.testing.assert_close(row, inputs[:, event], rtol=1e-10, atol=1e-10)
        first += span
    assert found.shape == (4, first, inputs.shape[2])


def test_a_file_is_read_however_the_encoder_is_stepped(tmp_path):
    path = tmp_path / "state.safetensors"
    encoder, listened = make(), make()
    for module in (listened.blocks[0].unit2.conv, listened.blocks[1].unit1):  # a window, and one read by a unit
        module.register_forward_hook(lambda *_: None)
    ids = histories(length=30)
    for writer, reader in ((encoder, listened), (listened, encoder)):
        UserState.of(writer, ids[:, :27]).save(path)
        state = UserState.load(path, reader)
        for position in range(27, 30):
            state.append(ids[:, position])
        torch.testing.assert_close(state.vectors("tcl"), full(encoder, ids, "tcl"), rtol=1e-10, atol=1e-10)
    kinds = {ring.reads for group in UserState.empty(listened, users=1)._increment.groups for ring in group.rings}
    assert kinds == {"product", "window"}


def test_storage_survives_a_file(tmp_path):
    path = tmp_path / "state.safetensors"
    state = saved(make(), path, storage=torch.bfloat16)
    assert UserState.load(path, make()).bytes_per_user == state.bytes_per_user


def test_adapters_that_are_not_active_do_not_count(tmp_path):
    path = tmp_path / "state.safetensors"
    model = adapted("serial", make())
    state = saved(model, path)
    wanted = state.vectors("tcl")
    model.add_adapter("second", PatchConfig(bottleneck=5, placement="serial_block"))
    model.double().eval()
    torch.testing.assert_close(UserState.load(path, model).vectors("tcl"), wanted, rtol=1e-10, atol=1e-10)
    model.set_adapter("second")
    with pytest.raises(RefusedError, match="other adapters"):
        UserState.load(path, model)


def test_a_state_of_another_encoder_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    saved(make(), path)
    other = make()
    with torch.no_grad():
        other.blocks[1].unit2.conv.linear.bias[3] += 1e-9
    for encoder in (other, make(dilations=(1, 2, 4, 2)), make(layer_norm_eps=1e-2), adapted("lora", make())):
        with pytest.raises(RefusedError, match="other weights or other adapters"):
            UserState.load(path, encoder)
    with pytest.raises(RefusedError, match="item vocabulary none, but this encoder to abc"):
        UserState.load(path, make(vocabulary_fingerprint="abc"))


def test_another_scale_of_the_same_adapter_is_refused(tmp_path):
    # the weights are the same, bit for bit
    path = tmp_path / "state.safetensors"

    def scaled(alpha):
        torch.manual_seed(5)
        config = LoraConfig(
            r=2,
            lora_alpha=alpha,
            target_modules=["conv.linear"],
            init_lora_weights=False,
            task_type="FEATURE_EXTRACTION",
        )
        return get_peft_model(make(), config).double().eval()

    saved(scaled(4), path)
    UserState.load(path, scaled(4))
    with pytest.raises(RefusedError, match="other adapters"):
        UserState.load(path, scaled(8))


def test_damaged_files_are_refused(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    encoder, path = make(), tmp_path / "state.safetensors"
    with pytest.raises(SettingsError, match="no saved user state"):
        UserState.load(path, encoder)
    saved(encoder, path)
    whole = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping

    def load(**changes):
        save_file({**tensors, **changes.pop("tensors", {})}, path, metadata={**told, **changes})
        return UserState.load(path, encoder)

    assert len(load()) == 4
    for wrong, message in (
        ({"kind": "adapter"}, "holds no user state"),
        ({"peterrec_format": "2"}, "upgrade"),
        ({"tensors": {"lengths": -tensors["lengths"]}}, "lengths"),
        ({"tensors": {"last": tensors["last"] / 0}}, "last"),
        ({"tensors": {"last": tensors["last"][:3]}}, "last"),
        ({"tensors": {"last": tensors["last"].float()}}, "last"),
        ({"tensors": {"inputs": tensors["inputs"][:, :-1].contiguous()}}, "inputs"),
        ({"tensors": {"inputs": tensors["inputs"].long()}}, "inputs"),
        ({"tensors": {"domain_ids": torch.zeros(3)}}, "domain_ids"),
        ({"tensors": {"more": torch.zeros(4)}}, "more"),
    ):
        with pytest.raises(RefusedError, match=message):
            load(**wrong)
    for cut in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(RefusedError, match="damaged"):
            UserState.load(path, encoder)
