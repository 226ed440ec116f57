"""Adapter folders: plain peft reads them, ours name their encoder, and what does not fit is refused."""

import copy
import json
import shutil
import warnings
from contextlib import contextmanager

import pytest
import torch
from peft import (
    AutoPeftModelForFeatureExtraction,
    BeftConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    TrainableTokensConfig,
    get_peft_model,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from peterrec.adapter_config import METHODS
from peterrec.adapter_file import add_adapter_from, hot_swap, load_adapter, load_head, load_readout, save_adapter
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.loading import encoder_revision, load_encoder, save_encoder
from peterrec.encoders.readout import Readout
from peterrec.errors import RefusedError, SettingsError
from peterrec.heads.classification import ClassificationHead
from peterrec.tuners import PatchConfig

ROWS = 53


def write_encoder(folder, *, seed=0, first_item=0):
    """An encoder with its vocabulary, as `peterrec pretrain` leaves them."""
    torch.manual_seed(seed)
    items = [f"i{number:02}" for number in range(first_item, first_item + ROWS - 3)]
    vocabulary = Vocabulary.build(items, counts=[1] * len(items))
    config = NextItNetConfig(
        vocab_size=ROWS, hidden_size=8, dilations=(1, 2, 4, 8), vocabulary_fingerprint=vocabulary.fingerprint
    )
    folder.mkdir()
    save_encoder(NextItNet(config), config_path=folder / "config.json", weights_path=folder / "model.safetensors")
    vocabulary.save(folder / "vocabulary.parquet")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("first") / "encoder")


@pytest.fixture
def ids():
    ids = torch.randint(3, ROWS, (4, 9), generator=torch.Generator().manual_seed(1))
    ids[2, 5:] = 0
    ids[:, 0] = 2
    return ids


def trained(encoder, config, *, seed=0):
    """An adapter on the encoder, as if it had been trained: all of its weights are moved."""
    with quiet():
        model = get_peft_model(load_encoder(encoder), copy.copy(config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@contextmanager
def quiet():
    """peft warns that it copies modules which are not torch's own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        yield


def save(model, folder, encoder, **options):
    """Saves with the pairing that the encoder's folder has."""
    fingerprint = json.loads((encoder / "config.json").read_text())["vocabulary_fingerprint"]
    save_adapter(
        model,
        folder,
        encoder_revision=encoder_revision(encoder),
        vocabulary_fingerprint=fingerprint,
        **options,
    )
    return folder


def vectors(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).user_vector


@pytest.fixture
def patched(encoder):
    return trained(encoder, PatchConfig(bottleneck=2, trainable_token_indices={"embed_tokens": [2]}))


@pytest.fixture
def saved(patched, encoder, tmp_path):
    return save(patched, tmp_path / "adapter", encoder, base_model=str(encoder), head=ClassificationHead(8, 3))


def rewrite(folder, change):
    """Changes the tensors of an adapter file and leaves its metadata."""
    path = folder / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


def set_config(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


SMALL = {  # options that fit 8 channels
    "adalora": {"total_step": 10, "init_r": 2, "target_r": 1},
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 10},
    "ia3": {"feedforward_modules": []},
    "ln_tuning": {"target_modules": ["norm"]},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 8},
    "trainable_tokens": {"target_modules": ["embed_tokens"], "token_indices": [2]},
    "waveft": {"n_frequency": 10},
}

KINDS = {
    "patch": PatchConfig(bottleneck=3, activation="gelu", layers_to_transform=[1]),
    "lora": LoraConfig(r=2, target_modules=["conv.linear"], task_type="FEATURE_EXTRACTION"),
    "dora": LoraConfig(r=2, target_modules=["conv.linear"], use_dora=True),
    "items": LoraConfig(r=2, target_modules=["embed_tokens"]),
    "ia3": IA3Config(target_modules=["conv.linear"], feedforward_modules=[]),
    "norms": LNTuningConfig(target_modules=["norm"]),
    "biases": BeftConfig(target_modules=["conv.linear"]),
    "tokens": TrainableTokensConfig(token_indices=[2], target_modules=["embed_tokens"]),
    "blocks": LNTuningConfig(target_modules=["blocks.1"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_exactly(kind, encoder, ids, tmp_path):
    model = trained(encoder, KINDS[kind])
    folder = save(model, tmp_path, encoder, base_model=str(encoder))
    assert not torch.equal(vectors(model, ids), vectors(load_encoder(encoder), ids)), "or the test shows nothing"
    state = torch.get_rng_state()
    again = load_adapter(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert not again.training
    assert not any(parameter.requires_grad for name, parameter in again.named_parameters() if "base_layer" in name)
    assert torch.equal(vectors(again, ids), vectors(model, ids))
    with quiet():
        plain = PeftModel.from_pretrained(load_encoder(encoder), str(folder)).eval()
    assert torch.equal(vectors(plain, ids), vectors(model, ids))


@pytest.mark.parametrize("method", [name.lower() for name in METHODS if not name.startswith("PETERREC")])
def test_every_method_of_peft_comes_back_exactly(method, encoder, ids, tmp_path):
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[method.upper()]]
    model = trained(encoder, config_class(**{"target_modules": ["conv.linear"]} | SMALL.get(method, {})))
    folder = save(model, tmp_path, encoder, base_model=str(encoder))
    assert not torch.equal(vectors(model, ids), vectors(load_encoder(encoder), ids)), "or the test shows nothing"
    assert torch.equal(vectors(load_adapter(folder), ids), vectors(model, ids))


def test_plain_peft_reads_the_folder_in_silence(saved, patched, encoder, ids):
    wanted = vectors(patched, ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for little in (False, True):
            plain = PeftModel.from_pretrained(load_encoder(encoder), str(saved), low_cpu_mem_usage=little)
            assert torch.equal(vectors(plain.eval(), ids), wanted)
        auto = AutoPeftModelForFeatureExtraction.from_pretrained(str(saved)).eval()
        assert torch.equal(vectors(auto, ids), wanted)
        found = auto.load_adapter(str(saved), "second")
    assert found.missing_keys == []


def test_the_folder_holds_two_files_that_name_the_encoder(saved, encoder):
    assert sorted(path.name for path in saved.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    with safe_open(saved / "adapter_model.safetensors", framework="pt") as file:
        told = file.metadata()
        names = set(file.keys())
    fingerprint = Vocabulary.load(encoder / "vocabulary.parquet").fingerprint
    assert len(told.pop("settings")) == 16
    assert told == {
        "format": "pt",
        "peterrec_format": "1",
        "encoder_revision": encoder_revision(encoder),
        "vocabulary_fingerprint": fingerprint,
    }
    assert {name for name in names if name.startswith("head.")}
    assert not [name for name in names if name.endswith("embed_tokens.weight")], "the item table is not the adapter's"
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(encoder)
    assert config["inference_mode"] is True


def test_saving_again_is_the_same_bytes_and_leaves_other_files(patched, saved, encoder):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    (saved / "notes.txt").write_text("mine")
    head = ClassificationHead(8, 3)
    load_head(saved, head=head)
    save(patched, saved, encoder, base_model=str(encoder), head=head)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before | {"notes.txt": b"mine"}


def test_a_failed_save_leaves_the_old_adapter(patched, saved, encoder, monkeypatch):
    from peterrec import adapter_file

    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def fail(*_, **__):
        raise RuntimeError("the disk gave out")

    monkeypatch.setattr(adapter_file, "write_weights", fail)
    with pytest.raises(RuntimeError):
        save(patched, saved, encoder)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_the_head_comes_back(patched, encoder, tmp_path):
    head = ClassificationHead(8, 3)
    folder = save(patched, tmp_path, encoder, head=head)
    again = ClassificationHead(8, 3)
    load_head(folder, head=again, encoder=encoder)
    x = torch.randn(5, 8)
    assert torch.equal(again(x), head(x))
    with pytest.raises(RefusedError, match=r"head\..* is \(3,.*not \(4,"):
        load_head(folder, head=ClassificationHead(8, 4), encoder=encoder)
    with pytest.raises(RefusedError, match="lacks the weights head"):
        load_head(save(patched, tmp_path / "headless", encoder), head=again, encoder=encoder)


def test_head_and_readout_are_loaded_for_their_own_encoder_alone(patched, encoder, tmp_path):
    head, reader = ClassificationHead(8, 3), Readout("attention", channels=8, depth=2)
    folder = save(patched, tmp_path / "a", encoder, head=head, readout=reader)
    patched.save_pretrained(str(tmp_path / "plain"))
    other = write_encoder(tmp_path / "other", seed=1)
    for load in (
        lambda where, **named: load_head(where, head=head, **named),
        lambda where, **named: load_readout(where, readout=reader, **named),
    ):
        load(folder, encoder=encoder)
        with pytest.raises(RefusedError, match="trained with another encoder") as caught:
            load(folder, encoder=other, unchecked=True)
        assert encoder_revision(other) in str(caught.value)
        with pytest.raises(SettingsError, match=r"names no encoder.*encoder=FOLDER"):
            load(folder)
        with pytest.raises(RefusedError, match="unchecked=True"):
            load(tmp_path / "plain", encoder=encoder)
        with pytest.raises(RefusedError, match="lacks the weights"):
            load(tmp_path / "plain", encoder=encoder, unchecked=True)


def test_what_a_readout_learned_travels_with_the_adapter(patched, encoder, ids, tmp_path):
    def reader(**changes):
        shape = {"channels": 8, "depth": 2, "layers": (0, -1), "item_weights": True, "vocab_size": ROWS}
        return Readout("attention", **shape | changes)

    learned = reader()
    for parameter in learned.parameters():
        torch.nn.init.normal_(parameter)
    folder = save(patched, tmp_path / "a", encoder, base_model=str(encoder), readout=learned)
    assert {name for name in load_file(folder / "adapter_model.safetensors") if name.startswith("readout.")} == {
        "readout.query",
        "readout.mix",
        "readout.item_weights",
    }
    again = reader()
    load_readout(folder, readout=again)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in learned.state_dict().items())
    torch.testing.assert_close(vectors(load_adapter(folder), ids), vectors(patched, ids))
    load_readout(save(patched, tmp_path / "b", encoder), readout=Readout("mean", channels=8, depth=2), encoder=encoder)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("mean", {"layers": (1, 2)}), r'"sqrtn", "layers": \[0, 2\].*not \{"kind": "mean", "layers": \[1, 2\]'),
        (("mean", {"layers": (0, 2)}), r'"sqrtn".*not .*"mean"'),
        (("sqrtn", {"layers": (1, 2)}), r"\[0, 2\].*not .*\[1, 2\]"),
    ],
)
def test_a_readout_is_loaded_into_its_like_alone(other, message, patched, encoder, tmp_path):
    learned, again = (Readout("sqrtn", channels=8, depth=2, layers=layers) for layers in ((0, -1), (0, 2)))
    torch.nn.init.normal_(learned.mix)
    folder = save(patched, tmp_path, encoder, base_model=str(encoder), readout=learned)
    load_readout(folder, readout=again)
    assert torch.equal(again.mix, learned.mix)
    kind, changes = other
    unlike = Readout(kind, channels=8, depth=2, **changes)
    with pytest.raises(RefusedError, match=message):
        load_readout(folder, readout=unlike)
    assert not unlike.mix.any()


def test_item_weights_are_part_of_what_a_readout_is(patched, encoder, tmp_path):
    with_weights, without = (
        Readout("attention", channels=8, depth=2, item_weights=own, vocab_size=ROWS) for own in (True, False)
    )
    for number, (saved, given) in enumerate([(with_weights, without), (without, with_weights)]):
        folder = save(patched, tmp_path / str(number), encoder, base_model=str(encoder), readout=saved)
        with pytest.raises(RefusedError, match=r"another readout: .*\}, not \{.*item_weights"):
            load_readout(folder, readout=given)


def test_a_file_that_does_not_name_its_readout_is_taken(patched, encoder, tmp_path):
    learned = Readout("sqrtn", channels=8, depth=2, layers=(0, -1))
    torch.nn.init.normal_(learned.mix)
    folder = save(patched, tmp_path, encoder, base_model=str(encoder), readout=learned)
    path = folder / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    del told["readout"]  # as written before
    save_file(load_file(path), path, metadata=told)
    again = Readout("mean", channels=8, depth=2, layers=(1, 2))
    load_readout(folder, readout=again)
    assert torch.equal(again.mix, learned.mix)
    with pytest.raises(RefusedError, match=r"readout.mix, which the model has no place for"):
        load_readout(folder, readout=Readout("sqrtn", channels=8, depth=2))


def test_another_encoder_is_refused_by_name(saved, encoder, tmp_path):
    other = write_encoder(tmp_path / "other", seed=1)
    with pytest.raises(RefusedError) as caught:
        load_adapter(saved, encoder=other)
    for part in (encoder_revision(encoder), encoder_revision(other), str(other), "another encoder", "Give the encoder"):
        assert part in str(caught.value)
    shutil.copytree(encoder, tmp_path / "moved")
    assert load_adapter(saved, encoder=tmp_path / "moved").peft_config["default"].base_model_name_or_path == str(
        tmp_path / "moved"
    )


def test_another_vocabulary_is_refused_by_name(saved, encoder, tmp_path):
    other = write_encoder(tmp_path / "other", first_item=7)
    with pytest.raises(RefusedError, match="another item vocabulary") as caught:
        load_adapter(saved, encoder=other)
    for folder in (encoder, other):
        assert Vocabulary.load(folder / "vocabulary.parquet").fingerprint[:16] in str(caught.value)


def test_the_pairing_is_checked_before_anything_is_built(saved, tmp_path, monkeypatch):
    from peterrec import adapter_file

    other = write_encoder(tmp_path / "other", seed=1)
    monkeypatch.setattr(adapter_file, "open_encoder", lambda _: pytest.fail("the encoder was built"))
    with pytest.raises(RefusedError, match="trained with another encoder"):
        load_adapter(saved, encoder=other)


def test_an_encoder_that_is_not_there_is_asked_for(patched, encoder, saved, tmp_path):
    with pytest.raises(SettingsError, match="encoder=FOLDER"):
        load_adapter(saved, encoder=tmp_path)
    with pytest.raises(SettingsError, match=r"names no encoder.*revision"):
        load_adapter(save(patched, tmp_path / "nameless", encoder))
    with pytest.raises(SettingsError, match="holds no adapter"):
        load_adapter(tmp_path / "absent", encoder=encoder)


def test_plain_adapters_are_taken_on_the_users_word(patched, encoder, ids, tmp_path):
    patched.save_pretrained(str(tmp_path))
    with pytest.raises(RefusedError, match="unchecked=True"):
        load_adapter(tmp_path, encoder=encoder)
    again = load_adapter(tmp_path, encoder=encoder, unchecked=True)
    assert torch.equal(vectors(again, ids), vectors(patched, ids))


def test_unchecked_does_not_cover_a_wrong_encoder(saved, tmp_path):
    with pytest.raises(RefusedError, match="another encoder"):
        load_adapter(saved, encoder=write_encoder(tmp_path / "other", seed=1), unchecked=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(next(n for n in t if "patch_up" in n)), "lacks the weights .*patch_up"),
        (lambda t: t.update({"base_model.model.extra": torch.zeros(1)}), "holds the weights base_model.model.extra"),
        (lambda t: t.update({n: torch.zeros(3, 3) for n in t if n.endswith("0.unit1.conv.peterrec_patch_up.weight")}),
         r"unit1.*is \(3, 3\), not \(8, 2\)"),
        (lambda t: next(t[n] for n in t if "patch_up" in n).fill_(float("nan")), "patch_up.* not finite"),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(change, message, saved):
    rewrite(saved, change)
    with pytest.raises(RefusedError, match=message):
        load_adapter(saved)


def test_damaged_files_are_refused(saved, encoder):
    path = saved / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(RefusedError, match="damaged"):
        load_adapter(saved)
    path.unlink()
    torch.save({}, saved / "adapter_model.bin")  # never looked at
    with pytest.raises(RefusedError, match="cannot be read"):
        load_adapter(saved)
    save_file({"x": torch.zeros(1)}, path, metadata={"peterrec_format": "2"})
    with pytest.raises(RefusedError, match="upgrade peterrec"):
        load_adapter(saved)
    (saved / "adapter_config.json").write_text("{")
    with pytest.raises(RefusedError, match="not readable JSON"):
        load_adapter(saved)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "PROMPT_TUNING.*not loaded"),
        ({"peft_type": "PETEREC_PATCH"}, "Did you mean 'PETERREC_PATCH'"),
        ({"peft_type": None}, "not loaded"),
        ({"colour": "red"}, "does not know: colour"),
        ({"bottleneck": "2"}, "bottleneck = '2'"),
        ({"bottleneck": True}, "bottleneck"),
        ({"placement": "sideways"}, "placement"),
        ({"target_modules": ["nowhere"]}, "does not fit the encoder"),
        ({"bottleneck": 3}, r"is \(.*\), not"),
    ],
)
def test_a_configuration_is_read_closed(values, message, saved):
    set_config(saved, **values)
    with pytest.raises(RefusedError, match=message):
        load_adapter(saved)


@pytest.mark.parametrize("values", [{"megatron_config": {"a": 1}}, {"megatron_core": "os"}])
def test_a_configuration_cannot_name_code(values, encoder, tmp_path):
    folder = save(trained(encoder, KINDS["lora"]), tmp_path, encoder, base_model=str(encoder))
    set_config(folder, **values)
    with pytest.raises(RefusedError, match="names code"):
        load_adapter(folder)
    set_config(folder, megatron_config=None, megatron_core="megatron.core", auto_mapping={"parent_library": "os"})
    assert load_adapter(folder).peft_config["default"].auto_mapping is None


def test_a_second_adapter_stands_beside_the_first(saved, patched, encoder, ids, tmp_path):
    other = trained(encoder, PatchConfig(bottleneck=5), seed=1)
    second = save(other, tmp_path / "second", encoder)
    model = load_adapter(saved)
    add_adapter_from(model, second, adapter_name="second")
    assert torch.equal(vectors(model, ids), vectors(patched, ids)), "the new one is not active by itself"
    model.set_adapter("second")
    assert torch.equal(vectors(model, ids), vectors(other, ids))
    with pytest.raises(SettingsError, match="already holds"):
        add_adapter_from(model, second, adapter_name="second")


def test_adapters_with_and_without_a_row_of_their_own_share_a_model(saved, patched, encoder, ids, tmp_path):
    """peft's own save_pretrained and load_adapter stumble over the adapter without."""
    other = trained(encoder, PatchConfig(bottleneck=5), seed=1)
    bare = save(other, tmp_path / "bare", encoder, base_model=str(encoder))
    for first, second in ((saved, bare), (bare, saved)):
        model = load_adapter(first)
        add_adapter_from(model, second, adapter_name="second")
        for name, folder in (("second", second), ("default", first)):
            model.set_adapter(name)
            wanted = patched if folder == saved else other
            assert torch.equal(vectors(model, ids), vectors(wanted, ids))
            again = save(model, tmp_path / "again", encoder, adapter_name=name, base_model=str(encoder))
            assert torch.equal(vectors(load_adapter(again), ids), vectors(wanted, ids))


def test_a_second_adapter_that_does_not_fit_leaves_no_trace(saved, patched, encoder, ids, tmp_path):
    model = load_adapter(saved)
    other = write_encoder(tmp_path / "other", seed=1)
    wrong = save(trained(other, PatchConfig(bottleneck=5)), tmp_path / "wrong", other)
    lora = save(trained(encoder, KINDS["lora"]), tmp_path / "lora", encoder)
    broken = save(trained(encoder, PatchConfig(bottleneck=2)), tmp_path / "broken", encoder)
    rewrite(broken, lambda tensors: next(iter(tensors.values())).fill_(float("inf")))
    for folder, message in ((wrong, "another encoder"), (lora, "does not fit"), (broken, "not finite")):
        with pytest.raises(RefusedError, match=message):
            add_adapter_from(model, folder, adapter_name="second")
        assert list(model.peft_config) == ["default"]
        assert not [name for name, _ in model.named_parameters() if ".second" in name]
        assert torch.equal(vectors(model, ids), vectors(patched, ids))


def test_models_of_the_users_own_say_where_their_encoder_is(saved, patched, encoder, ids):
    model = get_peft_model(load_encoder(encoder), PatchConfig(bottleneck=5)).eval()
    with pytest.raises(SettingsError, match="encoder=FOLDER"):
        add_adapter_from(model, saved, adapter_name="second")
    add_adapter_from(model, saved, adapter_name="second", encoder=encoder)
    model.set_adapter("second")
    assert torch.equal(vectors(model, ids), vectors(patched, ids))


@pytest.mark.parametrize("kind", ["patch", "lora", "norms", "tokens"])
def test_a_hot_swap_changes_the_weights_of_a_compiled_model_without_compiling(kind, encoder, ids, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    models = [trained(encoder, KINDS[kind], seed=seed) for seed in (0, 1)]
    for model, folder in zip(models, folders, strict=True):
        save(model, folder, encoder, base_model=str(encoder))
    compilations = []

    def backend(graph, _):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = load_adapter(folders[0])
    pointers = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    compiled = torch.compile(model, backend=backend)
    wanted = [vectors(each, ids) for each in models]
    assert not torch.equal(*wanted)
    torch.testing.assert_close(vectors(compiled, ids), wanted[0])
    count = len(compilations)
    assert count
    hot_swap(compiled, folders[1])
    torch.testing.assert_close(vectors(compiled, ids), wanted[1])
    assert len(compilations) == count
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == pointers
    torch._dynamo.reset()


def test_a_hot_swap_refuses_what_is_not_the_same_shape(saved, patched, encoder, ids, tmp_path):
    model = load_adapter(saved)
    for number, (config, name) in enumerate(
        [
            (PatchConfig(bottleneck=3), "bottleneck"),
            (PatchConfig(bottleneck=2), "trainable_token_indices"),
            (KINDS["lora"], "peft_type|.*"),
        ]
    ):
        folder = save(trained(encoder, config), tmp_path / str(number), encoder)
        with pytest.raises(RefusedError, match=f"take the place.*{name}"):
            hot_swap(model, folder)
    rewrite(saved, lambda tensors: next(iter(tensors.values())).fill_(float("inf")))
    with pytest.raises(RefusedError, match="not finite"):
        hot_swap(model, saved)
    assert torch.equal(vectors(model, ids), vectors(patched, ids)), "a refused swap changes nothing"
    with pytest.raises(SettingsError, match="holds no adapter 'b'"):
        hot_swap(model, saved, adapter_name="b")


def test_a_hot_swap_refuses_a_merged_model(encoder, tmp_path):
    folder = save(trained(encoder, KINDS["lora"]), tmp_path, encoder, base_model=str(encoder))
    model = load_adapter(folder)
    model.merge_adapter()
    with pytest.raises(RefusedError, match="merged"):
        hot_swap(model, folder)
    model.unmerge_adapter()
    hot_swap(model, folder)


def test_a_configuration_of_equal_shapes_that_was_changed_is_refused(encoder, tmp_path):
    for number, (config, values) in enumerate(
        [
            (PatchConfig(bottleneck=2), {"activation": "gelu"}),
            (LoraConfig(target_modules=["conv.linear"], r=2), {"lora_alpha": -3}),
        ]
    ):
        folder = save(trained(encoder, config), tmp_path / str(number), encoder, base_model=str(encoder))
        set_config(folder, **values)
        with pytest.raises(RefusedError, match="not the one that its weights were saved with"):
            load_adapter(folder)


@pytest.mark.parametrize("values", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"bias": "all"}])
def test_an_adapter_that_would_write_into_the_encoder_is_refused(values, encoder, tmp_path):
    lora = LoraConfig(target_modules=["conv.linear"], r=2)
    good = save(trained(encoder, lora), tmp_path / "good", encoder, base_model=str(encoder))
    bad = save(trained(encoder, lora, seed=1), tmp_path / "bad", encoder, base_model=str(encoder))
    set_config(bad, **values)
    model = load_adapter(good)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RefusedError, match="changes weights of the frozen encoder"):
        add_adapter_from(model, bad, adapter_name="second")
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_tuned_norms_of_different_blocks_do_not_share_a_model(encoder, ids, tmp_path):
    first, second = (
        save(
            trained(encoder, LNTuningConfig(target_modules=[f"blocks.{block}.unit1.norm"])),
            tmp_path / str(block),
            encoder,
            base_model=str(encoder),
        )
        for block in (0, 1)
    )
    model = load_adapter(first)
    wanted = vectors(model, ids)
    with pytest.raises(RefusedError, match="other layers"):
        add_adapter_from(model, second, adapter_name="second")
    assert torch.equal(vectors(model, ids), wanted)


def test_mixed_batches_that_peft_would_get_wrong_are_refused(encoder, ids, tmp_path):
    for number, (config, mixes) in enumerate(
        [
            (IA3Config(target_modules=["conv.linear"], feedforward_modules=[]), False),
            (LoraConfig(target_modules=["conv.linear"], r=2), True),
            (PatchConfig(bottleneck=2), True),
        ]
    ):
        folder = save(trained(encoder, config), tmp_path / str(number), encoder, base_model=str(encoder))
        model = load_adapter(folder)
        names = ["default", "__base__", "default", "__base__"]
        if mixes:
            found = model(input_ids=ids, adapter_names=names).user_vector
            torch.testing.assert_close(found[::2], vectors(model, ids)[::2])
        else:
            with pytest.raises(ValueError, match="take no adapter_names"):
                model(input_ids=ids, adapter_names=names)


def test_a_run_finds_its_encoder_from_any_folder(task_folder, tmp_path, monkeypatch):
    values = json.loads((task_folder / "adapter_config.json").read_text())
    moved = tmp_path / "runs" / "gender"
    shutil.copytree(task_folder, moved)
    set_config(moved, **(values | {"base_model_name_or_path": "somewhere/else"}))
    record = json.loads((moved / "run.json").read_text())
    shutil.copytree((task_folder / record["inputs"]["encoder"]).resolve(), tmp_path / "runs" / "encoder")
    record["inputs"]["encoder"] = "../encoder"
    (moved / "run.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    assert load_adapter(moved).peft_config["default"].base_model_name_or_path == str(tmp_path / "runs" / "encoder")
