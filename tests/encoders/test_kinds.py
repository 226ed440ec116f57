"""What holds for every kind of encoder: causality, exact padding, parts of a run, files, and that it learns."""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import ENCODERS, encoder_revision, load_encoder, save_encoder
from peterrec.encoders.settings import KINDS

SHAPES: dict[str, tuple[str, dict]] = {
    "nextitnet": ("nextitnet", {"dilations": (1, 2, 4, 1)}),
    "bottleneck": ("nextitnet", {"dilations": (1, 2), "block": "bottleneck"}),
    "two_sided": ("nextitnet", {"dilations": (1, 2, 4, 1), "causal": False}),
    "grec": ("grec", {"encoder_dilations": (1, 2, 1, 1), "decoder_dilations": (1, 2)}),
    "sasrec": ("sasrec", {"num_blocks": 2}),
    "dupn": ("dupn", {"num_blocks": 2}),
    "pooled": ("pooled", {}),
}
CAUSAL = [name for name in SHAPES if name not in ("two_sided", "grec")]
PREDICTS = {"two_sided": "masked"}
UNBOUNDED = ("sasrec", "dupn")
FROM_THE_END = ("sasrec",)  # a state depends on how many events follow, not on which
NO_BLOCKS = ("pooled",)


def make(shape: str, *, double: bool = True, **changes) -> UserEncoder:
    torch.manual_seed(0)
    kind, own = SHAPES[shape]
    config, model = ENCODERS[kind]
    settings = {"vocab_size": 53, "hidden_size": 8, "initializer_range": 0.5, "max_length": 30}
    encoder = model(config(**{**settings, **own, **changes})).eval()  # type: ignore[call-arg]
    return encoder.double() if double else encoder


def items(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 53, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SHAPES)
def shape(request) -> str:
    return request.param


def test_every_kind_is_here_and_can_be_chosen():
    assert set(KINDS) == set(ENCODERS) == {kind for kind, _ in SHAPES.values()}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_causal_encoder_never_sees_the_future_and_a_two_sided_one_does(shape):
    encoder, ids = make(shape), items(2, 12)
    assert encoder.config.causal == (shape in CAUSAL)
    assert encoder.predicts == PREDICTS.get(shape, "next")
    before = encoder(ids).last_hidden_state
    changed = ids.clone()
    changed[:, 7] = 3 + (ids[:, 7] - 2) % 50
    after = encoder(changed).last_hidden_state
    assert torch.allclose(before[:, :7], after[:, :7], atol=1e-12) == (shape in CAUSAL)
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-6)


@pytest.mark.parametrize("shape", CAUSAL)
def test_appended_events_leave_earlier_states_as_they_were_but_where_positions_count_from_the_end(shape):
    encoder, ids = make(shape), items(2, 12)
    wanted = encoder(ids).last_hidden_state[:, :7]
    found = encoder(ids[:, :7]).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-12) == (shape not in FROM_THE_END)


@pytest.mark.parametrize("sides", [(5, 0), (0, 5), (2, 3)])
def test_padding_makes_no_difference_on_either_side(shape, sides):
    encoder, ids = make(shape), items(3, 9)
    ids[1, 4:] = 0
    ids[2, :3] = 0
    wanted = encoder(ids)
    for padded in (F.pad(ids, sides), F.pad(ids, sides, value=7)):  # PAD rows, and rows that the mask leaves out
        found = encoder(padded, attention_mask=F.pad(ids.ne(0), sides))
        own = found.last_hidden_state[:, sides[0] : sides[0] + 9]
        torch.testing.assert_close(own, wanted.last_hidden_state, atol=1e-12, rtol=1e-10)
        torch.testing.assert_close(found.user_vector, wanted.user_vector, atol=1e-12, rtol=1e-10)
        assert not found.last_hidden_state[~F.pad(ids.ne(0), sides)].any()


def test_padding_is_exact_where_nobody_may_look_at_it(shape, monkeypatch):
    encoder, ids = make(shape), items(3, 9)
    ids[1, 4:] = 0
    ids[2, :3] = 0
    wanted = encoder(ids).last_hidden_state
    for module in ("base", "grec"):
        monkeypatch.setattr(f"peterrec.encoders.{module}.is_readable", lambda tensor: False)  # as on a GPU
    torch.testing.assert_close(encoder(ids).last_hidden_state, wanted, atol=1e-12, rtol=1e-10)


def test_a_user_alone_is_a_batch_of_one_and_a_user_without_events_has_zeros(shape):
    encoder, ids = make(shape), items(3, 9)
    ids[1, 4:] = 0
    ids[2] = 0
    together = encoder(ids)
    for row, length in enumerate((9, 4)):
        alone = encoder(ids[row : row + 1, :length])
        torch.testing.assert_close(alone.user_vector[0], together.user_vector[row], atol=1e-12, rtol=1e-10)
    assert not together.user_vector[2].any()
    assert torch.isfinite(together.last_hidden_state).all()


def test_no_users_and_no_positions_are_no_error(shape):
    encoder = make(shape)
    for rows in (items(2, 0), items(0, 3)):
        found = encoder(rows)
        assert found.last_hidden_state.shape == (*rows.shape, 8)
        assert found.user_vector.shape == (len(rows), 8)


def test_an_encoder_in_bfloat16_gives_bfloat16_close_to_the_states(shape):
    encoder, ids = make(shape, initializer_range=0.2), items(3, 9)
    ids[1, :4] = 0
    wanted = encoder(ids).last_hidden_state
    found = encoder.to(torch.bfloat16)(ids).last_hidden_state
    assert found.dtype == torch.bfloat16
    assert (found.double() - wanted).abs().mean() < 0.05 * wanted.abs().mean().clamp(min=0.1)


def test_the_upper_blocks_alone_go_on_from_the_states_below_them(shape):
    encoder, ids = make(shape), items(4, 9)
    ids[1, :5] = 0
    ids[2, 1:] = 0
    hidden, valid = encoder.embed(ids)
    wanted = encoder(ids).last_hidden_state
    for first in range(len(encoder.blocks) + 1):
        below = encoder.run_blocks(hidden, valid, stop=first)
        again = encoder(inputs_embeds=below, attention_mask=valid, first_block=first).last_hidden_state
        torch.testing.assert_close(again, wanted, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("shape", CAUSAL)
@pytest.mark.parametrize("positions", [1, 4, 100])
def test_the_last_positions_are_those_of_the_full_run(shape, positions):
    encoder, ids = make(shape), items(3, 9)
    ids[1, :5] = 0
    wanted = encoder(ids).last_hidden_state[:, -positions:]
    found = encoder(ids, positions=positions)
    torch.testing.assert_close(found.last_hidden_state, wanted, atol=1e-12, rtol=1e-10)
    assert found.user_vector is None


@pytest.mark.parametrize("shape", CAUSAL)
def test_reach_knows_no_bound_where_everything_is_read(shape):
    encoder = make(shape)
    assert (encoder.reach("last") is None) == (shape in UNBOUNDED)
    assert encoder.reach("mean") is None


def test_activation_checkpointing_keeps_outputs_and_gradients(shape):
    if shape in NO_BLOCKS:
        with pytest.raises(ValueError, match="not compatible with gradient checkpointing"):
            make(shape).activation_checkpointing_enable()
        return
    encoder, ids = make(shape, dropout=0.3).train(), items(3, 9)
    ids[1, :5] = 0
    results = []
    for checkpointed in (False, True):
        if checkpointed:
            encoder.activation_checkpointing_enable()
        encoder.zero_grad()
        torch.manual_seed(5)
        out = encoder(ids).last_hidden_state
        out.square().sum().backward()
        results.append([out, *[p.grad.clone() for p in encoder.parameters() if p.grad is not None]])
    for once, again in zip(*results, strict=True):
        torch.testing.assert_close(again, once, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("tie_output", [True, False])
def test_it_is_saved_and_loaded(shape, tie_output, tmp_path):
    layers = [-1] if shape in NO_BLOCKS else [0, -1]
    encoder, ids = make(shape, double=False, tie_output=tie_output, readout_layers=layers), items(2, 9)
    wanted = encoder(ids)
    save_encoder(encoder, config_path=tmp_path / "config.json", weights_path=tmp_path / "model.safetensors")
    revision = encoder_revision(tmp_path)
    for again in (load_encoder(tmp_path), AutoModel.from_pretrained(tmp_path).eval()):
        assert type(again) is type(encoder)
        assert torch.equal(again(ids).user_vector, wanted.user_vector)
        assert list(again.config.readout_layers) == layers
    encoder.save_pretrained(tmp_path / "again")
    assert torch.equal(load_encoder(tmp_path / "again")(ids).last_hidden_state, wanted.last_hidden_state)
    with torch.no_grad():
        [*encoder.blocks.parameters(), encoder.embed_tokens.weight][0].add_(1.0)
    save_encoder(encoder, config_path=tmp_path / "config.json", weights_path=tmp_path / "model.safetensors")
    assert encoder_revision(tmp_path) != revision


def successors() -> torch.Tensor:
    """A permutation of 30 items without fixed points."""
    return (torch.arange(30) * 7 + 11) % 30


def histories(users: int, *, length: int, share: float, seed: int) -> torch.Tensor:
    """Items 0 to 29 `(users, length)`: the successor of the one before with probability `share`, else a popular one."""
    generator = torch.Generator().manual_seed(seed)
    popular = 1.0 / torch.arange(1, 31).float()
    rows = torch.multinomial(popular, users * length, replacement=True, generator=generator).view(users, length)
    follows = torch.rand(users, length, generator=generator) < share
    for t in range(1, length):
        rows[:, t] = torch.where(follows[:, t], successors()[rows[:, t - 1]], rows[:, t])
    return rows


def trained(shape: str, *, share: float, steps: int) -> UserEncoder:
    # without blocks, one table would score an item behind another as that one behind it
    tied = shape not in NO_BLOCKS
    encoder = make(shape, double=False, vocab_size=33, hidden_size=16, initializer_range=0.05, tie_output=tied).train()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=0.01)
    for step in range(steps):
        rows = histories(48, length=9, share=share, seed=1000 + step) + 3
        optimiser.zero_grad()
        loss = cross_entropy(encoder, rows)
        loss.backward()
        optimiser.step()
    return encoder.eval()


def scores(encoder: UserEncoder, rows: torch.Tensor) -> torch.Tensor:
    return encoder(rows[:, :-1]).last_hidden_state @ encoder.score_table()[3:].T


def cross_entropy(encoder: UserEncoder, rows: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(scores(encoder, rows).flatten(0, 1), rows[:, 1:].flatten() - 3)


@pytest.mark.parametrize("shape", CAUSAL)
def test_it_learns_a_planted_rule_better_than_popularity(shape):
    encoder = trained(shape, share=0.7, steps=140)
    rows = histories(400, length=9, share=0.7, seed=5)
    with torch.no_grad():
        hits = (scores(encoder, rows + 3).argmax(-1) == rows[:, 1:]).float().mean()
    popularity = (rows[:, 1:].flatten().bincount(minlength=30).max() / rows[:, 1:].numel()).item()
    assert hits > 0.5 > 4 * popularity, (hits, popularity)


@pytest.mark.parametrize("shape", CAUSAL)
def test_it_does_not_learn_what_is_not_there(shape):
    encoder = trained(shape, share=0.0, steps=60)
    rows = histories(1500, length=9, share=0.0, seed=5) + 3
    popular = 1.0 / torch.arange(1, 31).float()
    entropy = torch.distributions.Categorical(popular / popular.sum()).entropy()
    with torch.no_grad():
        loss = cross_entropy(encoder, rows)
    assert entropy - 0.03 < loss < entropy + 0.15, (loss, entropy)
