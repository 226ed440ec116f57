"""The folder of a task: every adapter of the catalogue comes back exactly, and what does not belong is refused."""

import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from peterrec import catalogue
from peterrec.adaptation import build
from peterrec.adapter_file import add_adapter_from, load_adapter
from peterrec.encoders import NextItNet
from peterrec.encoders.loading import encoder_revision, load_encoder, open_encoder, read_config, save_encoder
from peterrec.errors import RefusedError
from peterrec.run_folder import output_folder
from peterrec.run_record import relative_to_run
from peterrec.settings import dump
from peterrec.task_run import TaskFacts, load_task, save_task

CLASSES = ("a", "b", "c")


def facts_of(encoder, recipe):
    _, vocabulary = open_encoder(encoder)
    return TaskFacts(
        task=catalogue.task("gender"),
        adapter=recipe,
        classes=CLASSES,
        prior=(0.2, 0.3, 0.5),
        encoder_revision=encoder_revision(encoder),
        vocabulary_fingerprint=vocabulary.fingerprint,
    )


def trained(encoder, recipe, *, seed=0):
    """The task model as if it had been trained: every weight and buffer of its own is moved."""
    torch.manual_seed(seed)
    model = build(load_encoder(encoder), adapter=recipe, task=catalogue.task("gender"), num_classes=len(CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, buffer in model.named_buffers():
            if "peterrec_" in name and buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return model.eval()


def finish(model, folder, *, encoder, facts):
    """What `peterrec finetune` leaves of a model."""
    with output_folder(folder, stage="finetune", overwrite=False, resume={}) as run:
        with run.files() as temporary:
            save_task(model, folder=temporary, facts=facts, base_model=str(encoder))
        run.finish(inputs={"encoder": relative_to_run(encoder, folder)}, model=dump(facts))
    return folder


@pytest.fixture(scope="module")
def encoder(encoder_folder, tmp_path_factory):
    """An encoder with two blocks, as some adapters of the catalogue want."""
    folder = tmp_path_factory.mktemp("encoder")
    config = read_config(encoder_folder)
    config.dilations = [1, 2, 4, 8]
    torch.manual_seed(0)
    save_encoder(NextItNet(config), config_path=folder / "config.json", weights_path=folder / "model.safetensors")
    shutil.copy(encoder_folder / "vocabulary.parquet", folder)
    return folder


@pytest.fixture
def ids():
    ids = torch.randint(3, 60, (5, 12), generator=torch.Generator().manual_seed(3))
    ids[3, 7:] = 0
    return ids


@pytest.fixture
def written(encoder, tmp_path):
    """A task with serial patches, its model, and the facts about it."""
    recipe = catalogue.adapter("serial")
    facts, model = facts_of(encoder, recipe), trained(encoder, recipe)
    return finish(model, tmp_path / "task", encoder=encoder, facts=facts), model, facts


@pytest.mark.parametrize("name", catalogue.names("adapters"))
def test_every_adapter_of_the_catalogue_comes_back_exactly(name, encoder, ids, tmp_path):
    recipe = catalogue.adapter(name)
    facts, model = facts_of(encoder, recipe), trained(encoder, recipe)
    folder = finish(model, tmp_path / "task", encoder=encoder, facts=facts)
    again = load_task(folder).model
    fresh = build(load_encoder(encoder), adapter=recipe, task=facts.task, num_classes=len(CLASSES)).eval()
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
        assert not torch.equal(fresh(ids).logits, model(ids).logits), "or the test shows nothing"
    state = model.state_dict()
    assert {key for key, value in again.state_dict().items() if not torch.equal(value, state[key])} == set()
    weights = next(folder.glob("*.safetensors"))
    with safe_open(weights, framework="pt") as file:
        told = file.metadata()
    assert told["encoder_revision"] == facts.encoder_revision
    assert told["vocabulary_fingerprint"] == facts.vocabulary_fingerprint
    assert (folder / "adapter_config.json").is_file() == isinstance(model.encoder, PeftModel)
    assert not (folder / "README.md").exists(), "peft's template is not the run's card"
    if isinstance(model.encoder, PeftModel):
        with torch.no_grad():
            assert torch.equal(load_adapter(folder)(ids).user_vector, model.encoder(ids).user_vector)


def test_plain_peft_reads_a_task_with_its_encoder(written, ids):
    folder, model, _ = written
    auto = AutoPeftModelForFeatureExtraction.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        assert torch.equal(auto(ids).user_vector, load_task(folder).model.encoder(ids).user_vector)
        assert torch.equal(auto(ids).user_vector, model.encoder(ids).user_vector)


def test_a_run_of_the_command_is_an_adapter_of_its_encoder(task_folder, encoder_folder, ids):
    loaded = load_task(task_folder)
    with torch.no_grad():
        wanted = loaded.model.encoder(ids).user_vector
        assert torch.equal(load_adapter(task_folder, encoder=encoder_folder)(ids).user_vector, wanted)
        plain = PeftModel.from_pretrained(load_encoder(encoder_folder), str(task_folder)).eval()
        assert torch.equal(plain(ids).user_vector, wanted)


def test_a_loaded_task_knows_its_encoder(written, encoder, tmp_path, ids):
    folder, _, facts = written
    other = finish(trained(encoder, facts.adapter, seed=1), tmp_path / "other", encoder=encoder, facts=facts)
    model = load_task(folder).model
    add_adapter_from(model.encoder, other, adapter_name="other")
    model.encoder.set_adapter("other")
    with torch.no_grad():
        assert torch.equal(model.encoder(ids).user_vector, load_task(other).model.encoder(ids).user_vector)


def change(folder, tensors=None, **metadata):
    path = next(folder.glob("*.safetensors"))
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    save_file(load_file(path) | (tensors or {}), path, metadata=told | metadata)


def test_a_file_of_another_run_is_refused(written):
    folder, _, _ = written
    change(folder, encoder_revision="0123456789abcdef")
    with pytest.raises(RefusedError, match=r"0123456789abcdef.*of another run"):
        load_task(folder)


def test_a_task_of_another_vocabulary_is_refused(written):
    folder, _, facts = written
    run = json.loads((folder / "run.json").read_text())
    run["model"]["vocabulary_fingerprint"] = "f" * 64
    (folder / "run.json").write_text(json.dumps(run))
    with pytest.raises(RefusedError, match="another item vocabulary.*ffffffff.*" + facts.vocabulary_fingerprint[:16]):
        load_task(folder)


@pytest.mark.parametrize("name", ["none", "full", "serial"])
def test_weights_that_do_not_fit_are_named(name, encoder, tmp_path):
    recipe = catalogue.adapter(name)
    facts, model = facts_of(encoder, recipe), trained(encoder, recipe)
    folder = finish(model, tmp_path / "task", encoder=encoder, facts=facts)
    weight = next(key for key in load_file(next(folder.glob("*.safetensors"))) if key.startswith("head."))
    change(folder, {weight: torch.full_like(load_file(next(folder.glob("*.safetensors")))[weight], float("nan"))})
    with pytest.raises(RefusedError, match=f"{weight}.* not finite"):
        load_task(folder)
    change(folder, {weight: torch.zeros(2, 2)})
    with pytest.raises(RefusedError, match=rf"{weight} is \(2, 2\)"):
        load_task(folder)
    change(folder, {weight: torch.zeros(2, 2), "head.more": torch.zeros(1)})
    with pytest.raises(RefusedError, match=r"head\.more"):
        load_task(folder)


def test_files_without_the_names_of_their_encoder_still_load(written, ids):
    """Those of version 0.1.0, whose run.json says it."""
    folder, model, _ = written
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt"})
    with torch.no_grad():
        assert torch.equal(load_task(folder).model(ids).logits, model(ids).logits)


def test_weights_of_another_training_are_refused(task_folder):
    moved = task_folder.with_name("moved")
    shutil.copytree(task_folder, moved)
    load_task(moved)
    change(moved, {name: tensor + 0.01 for name, tensor in load_file(moved / "adapter_model.safetensors").items()})
    with pytest.raises(RefusedError, match="not the file that this run wrote"):
        load_task(moved)
