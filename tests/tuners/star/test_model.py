"""Star in an encoder: what it wraps, peft's verbs, merging and exporting, compiling and checkpointing."""

import copy
import hashlib

import pytest
import torch
from peft import AutoPeftModelForFeatureExtraction, PeftModel, TaskType, get_peft_model, set_peft_model_state_dict
from peft.utils import load_peft_weights

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.tuners import StarConfig, StarLayer, StarNorm

FORMS = ("full", "low_rank", "per_channel")
DOMAINS = torch.tensor([2, 0, -1, 2, 1, 9])


@pytest.fixture
def ids():
    ids = torch.randint(3, 53, (6, 9), generator=torch.Generator().manual_seed(1))
    ids[2, 5:] = 0
    return ids


def make(block="plain") -> NextItNet:
    torch.manual_seed(0)
    config = NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2, 4, 8), block=block, dropout=0.3)
    encoder = NextItNet(config).eval()
    for block in encoder.blocks:
        block.fused = False  # one order of sums, with and without an adapter
    for p in encoder.blocks.parameters():  # biases and norms that are not trivial
        torch.nn.init.normal_(p, std=0.5)
    return encoder


def digest(model):
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "peterrec_star" not in name:
            sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def draw(model, name="default", std=0.3):
    generator = torch.Generator().manual_seed(5 if name == "default" else 7)
    for key, p in model.named_parameters():
        if "peterrec_star" in key and f".{name}." in key:
            p.data = torch.randn(p.shape, generator=generator) * std
    return model


def star(form="full", *, domains=3, norms=True, block="plain", drawn=True):
    model = get_peft_model(make(block), StarConfig(num_domains=domains, form=form, rank=2, norms=norms)).eval()
    return draw(model) if drawn else model


def vectors(model, ids, domains=None, **more):
    return model(ids, domain_ids=domains, **more).last_hidden_state


@pytest.mark.parametrize(("block", "maps", "norms"), [("plain", 4, 4), ("bottleneck", 12, 12)])
def test_what_is_wrapped_and_that_it_starts_as_the_frozen_encoder(block, maps, norms, ids):
    base = vectors(make(block), ids)
    for form in FORMS:
        model = star(form, block=block, drawn=False)
        assert sum(isinstance(m, StarLayer) for m in model.modules()) == maps
        assert sum(isinstance(m, StarNorm) for m in model.modules()) == norms
        assert torch.equal(vectors(model, ids, DOMAINS), base)
        trained = [name for name, p in model.named_parameters() if p.requires_grad]
        assert trained
        assert all("peterrec_star_" in name for name in trained)
        assert not torch.equal(vectors(draw(model), ids, DOMAINS), base)


def test_some_blocks_and_maps_alone():
    model = get_peft_model(make(), StarConfig(layers_to_transform=[1]))
    names = [name for name, m in model.named_modules() if isinstance(m, StarLayer | StarNorm)]
    assert names == [f"base_model.model.blocks.1.unit{unit}.conv.linear" for unit in (1, 2)]
    assert model.peft_config["default"].task_type == TaskType.FEATURE_EXTRACTION


@pytest.mark.parametrize("form", FORMS)
def test_frozen_bytes_stay_and_absent_domains_too(form, ids):
    model = star(form, drawn=False).train()
    frozen, before = digest(model), copy.deepcopy(model.state_dict())
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        vectors(model, ids, torch.tensor([0, 0, -1, 0, 2, 0])).square().sum().backward()
        optimiser.step()
    assert digest(model) == frozen
    after = {name: t for name, t in model.state_dict().items() if "peterrec_star" in name}
    assert all(torch.equal(t[1], before[name][1]) for name, t in after.items())
    assert all(not torch.equal(t[0], before[name][0]) for name, t in after.items())


@pytest.mark.parametrize("form", FORMS)
def test_export_gives_a_plain_encoder_and_leaves_the_model(form, ids):
    model = star(form)
    before, y = digest(model), vectors(model, ids, DOMAINS)
    for domain in range(3):
        encoder = model.export_domain(domain)
        assert type(encoder) is NextItNet
        assert set(encoder.state_dict()) == set(make().state_dict())
        wanted = vectors(model, ids, torch.full((6,), domain))
        torch.testing.assert_close(vectors(encoder, ids), wanted, rtol=1e-4, atol=1e-4)
        for row in (domain == DOMAINS).nonzero():
            torch.testing.assert_close(vectors(encoder, ids)[row], y[row], rtol=1e-4, atol=1e-4)
    assert digest(model) == before
    assert torch.equal(vectors(model, ids, DOMAINS), y)
    assert torch.equal(vectors(model, ids, torch.full((6,), -1)), vectors(make(), ids))
    for wrong in (-1, 3, True, "0"):
        with pytest.raises(ValueError, match="domains 0 to 2"):
            model.export_domain(wrong)
    with pytest.raises(ValueError, match="no adapter 'other'"):
        model.export_domain(0, adapter_name="other")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_one_domain_merges(form, block, ids):
    model = star(form, domains=1, block=block)
    frozen, y, base = digest(model), vectors(model, ids), vectors(make(block), ids)
    assert not torch.allclose(y, base)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(vectors(model, ids), y, rtol=1e-4, atol=1e-4)
    assert digest(model) != frozen
    model.merge_adapter()  # nothing left to merge
    torch.testing.assert_close(vectors(model.export_domain(0), ids), y, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="unmerge"):
        vectors(model, ids, adapter_names=["default"] * 6)
    model.unmerge_adapter()
    assert digest(model) == frozen, "bit for bit"
    assert torch.equal(vectors(model, ids), y)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(vectors(model, ids), base)
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged) is NextItNet
    torch.testing.assert_close(vectors(merged, ids), y, rtol=1e-4, atol=1e-4)


def test_two_merged_adapters_add_up_as_two_active_ones(ids):
    model = star(domains=1)
    model.add_adapter("other", StarConfig(form="low_rank", rank=2, norms=True))
    draw(model, "other")
    model.base_model.set_adapter(["default", "other"])
    y = vectors(model, ids)
    model.merge_adapter(["default"])
    model.merge_adapter(["other"])
    torch.testing.assert_close(vectors(model, ids), y, rtol=1e-4, atol=1e-4)
    unloaded = model.unload()
    assert torch.equal(vectors(unloaded, ids), vectors(make(), ids))


def test_several_domains_and_broken_weights_are_not_merged(ids):
    model = star()
    before, y = digest(model), vectors(model, ids, DOMAINS)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match=r"3 domains.*export_domain\(k\)"):
            merge()
    assert digest(model) == before
    assert torch.equal(vectors(model, ids, DOMAINS), y)
    broken = star(domains=1)
    before = digest(broken)
    last = [p for name, p in broken.named_parameters() if "peterrec_star" in name][-1]
    last.data[0, 0] = torch.nan
    for merge in (broken.merge_adapter, broken.merge_and_unload):
        with pytest.raises(ValueError, match="not finite"):
            merge(safe_merge=True)
    assert digest(broken) == before, "no layer was merged"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("low_memory", [False, True])
def test_save_and_load(form, low_memory, tmp_path, ids):
    model = star(form)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(make(), tmp_path, low_cpu_mem_usage=low_memory).eval()
    assert torch.equal(vectors(again, ids, DOMAINS), vectors(model, ids, DOMAINS))
    fresh = star(form, drawn=False)
    set_peft_model_state_dict(fresh, load_peft_weights(tmp_path))
    assert torch.equal(vectors(fresh, ids, DOMAINS), vectors(model, ids, DOMAINS))
    weights = load_peft_weights(tmp_path)
    assert weights
    assert all("peterrec_star" in name for name in weights)


def test_the_auto_class(tmp_path, ids):
    encoder = make()
    encoder.save_pretrained(tmp_path / "encoder")
    saved = NextItNet.from_pretrained(tmp_path / "encoder")
    model = draw(get_peft_model(saved, StarConfig(num_domains=3))).eval()
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "adapter").eval()
    assert torch.equal(vectors(again, ids, DOMAINS), vectors(model, ids, DOMAINS))


def test_adapters_are_added_switched_disabled_and_deleted(ids):
    model = star()
    base, first = vectors(make(), ids), vectors(model, ids, DOMAINS)
    model.add_adapter("other", StarConfig(num_domains=1))
    assert torch.equal(vectors(model, ids, DOMAINS), first)
    model.set_adapter("other")
    assert torch.equal(vectors(model, ids), base)
    with model.disable_adapter():
        assert torch.equal(vectors(model, ids), base)
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(vectors(model, ids, DOMAINS), first)
    assert not [name for name, _ in model.named_parameters() if ".other." in name]
    unloaded = model.unload()
    assert digest(unloaded) == digest(make())


def test_each_row_by_its_own_adapter_and_domain(ids):
    model = star()
    model.add_adapter("other", StarConfig(num_domains=2, form="per_channel"))
    draw(model, "other")
    names = ["default", "other", "default", "__base__", "other", "other"]
    got = vectors(model, ids, DOMAINS, adapter_names=names)
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                wanted = vectors(model, ids, DOMAINS)
        else:
            model.set_adapter(name)
            wanted = vectors(model, ids, DOMAINS)
        torch.testing.assert_close(got[row], wanted[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_activation_checkpointing(form, ids):
    def gradients(checkpointed):
        model = star(form)
        if checkpointed:
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        vectors(model, ids, DOMAINS).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_a_frozen_encoder_in_low_precision(ids):
    for form in FORMS:
        model = get_peft_model(make().bfloat16(), StarConfig(num_domains=3, form=form, norms=True)).eval()
        assert torch.equal(vectors(model, ids, DOMAINS), vectors(make().bfloat16(), ids))
        y = vectors(draw(model), ids, DOMAINS)
        assert y.dtype == torch.bfloat16
        assert (y.float() - vectors(star(form), ids, DOMAINS)).abs().mean() < 0.2 or form == "low_rank"


def test_a_head_under_star():
    torch.manual_seed(0)
    head = ClassificationHead(8, 3, hidden=[4]).eval()
    x = torch.randn(6, 8)
    base = head(x)
    config = StarConfig(num_domains=3, form="full", target_modules=["hidden.1", "output"], norms=True)
    model = PeftModel(head, config).eval()  # the forward of get_peft_model is one of encoders
    assert torch.equal(model(x, domain_ids=DOMAINS), base)
    draw(model)
    got = model(x, domain_ids=DOMAINS)
    for row, domain in enumerate(DOMAINS.tolist()):
        wanted = model(x, domain_ids=torch.full((6,), domain))[row]
        torch.testing.assert_close(got[row], wanted)
        assert torch.equal(got[row], base[row]) == (domain not in (0, 1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_domains": 0}, "num_domains"),
        ({"num_domains": "2"}, "num_domains"),
        ({"form": "dense"}, "form"),
        ({"rank": 0}, "rank"),
        ({"norms": 1}, "norms"),
        ({"norms": True, "target_modules": ".*linear"}, "norms has no effect"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StarConfig(**settings)


def test_star_goes_on_linear_maps_and_norms_only():
    with pytest.raises(ValueError, match="DilatedConv"):
        get_peft_model(make(), StarConfig(target_modules=["conv"]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
@pytest.mark.parametrize("form", FORMS)
def test_compiled(form, ids):
    torch._dynamo.reset()
    plain, model = star(form), star(form)
    compiled = torch.compile(model, fullgraph=True)
    for domains in (DOMAINS, torch.tensor([1, 1, 1, 0, 0, -1])):
        for each in (plain, model):
            each.zero_grad()
        vectors(plain, ids, domains).square().sum().backward()
        vectors(compiled, ids, domains).square().sum().backward()
        for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
            if p.requires_grad:
                torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-3, msg=name)
