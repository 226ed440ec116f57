"""The folder of a model of impressions: it comes back to the bit, and what is not its own is refused."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from impression_world import draw, plan_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from peterrec.catalogue import adapter, impression_task
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders import NextItNet
from peterrec.encoders.loading import encoder_revision, open_encoder, read_config, save_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.impression_design import binary_labels
from peterrec.impression_run import ImpressionFacts, load_impressions, read_schema, save_impressions
from peterrec.impression_transfer import build, fit_codings
from peterrec.run_folder import output_folder
from peterrec.run_record import relative_to_run
from peterrec.settings import dump

CPU = torch.device("cpu")
ROWS = np.arange(200)
WHAT = {  # recipe, and adapter inside the encoder (None: no encoder)
    "fields alone": ("mmoe", None),
    "star": ("star", None),
    "values": ("engagement", None),
    "a ranker without a body": ("fm", None),
    "pairs of fields": ("ffm", "none"),
    "crosses": ("wide_deep", "none"),
    "odds": ("youtube_ranking", None),
    "frozen": ("mmoe_esmm", "none"),
    "serial": ("mmoe_esmm", "serial"),
    "lora": ("esmm", "lora"),
    "star inside": ("shared_bottom", "star_full"),
    "full": ("shared_bottom", "full"),
}


@pytest.fixture(scope="module")
def impressions():
    found = draw(rows=len(ROWS), history=True)
    found.labels["dwell"] = np.where(found.labels["click"] == 1, np.float32(7.5), np.float32(np.nan))
    found.labels["completion"] = found.labels["conversion"]
    return found


def trained(impressions, encoder, what, *, seed=0):
    """A model as if it had been trained: every weight and statistic of its own is moved."""
    recipe, name = WHAT[what]
    plan = plan_of(recipe, impressions)
    torch.manual_seed(seed)
    fitted = build(
        plan,
        fit_codings(plan, impressions, ROWS[:150]),
        encoder=None if name is None else open_encoder(encoder)[0],
        adapter=adapter(name or "none"),
    )
    with torch.no_grad():
        for parameter in fitted.whole.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for buffer_name, buffer in fitted.whole.named_buffers():
            if buffer.is_floating_point() and ("peterrec_" in buffer_name or buffer_name.startswith(("value", "norm"))):
                buffer.add_(torch.rand_like(buffer))
    fitted.whole.eval()
    return fitted


def finish(fitted, impressions, folder, *, encoder, recipe):
    """What `peterrec finetune` leaves of a model."""
    inside = fitted.model is not None
    facts = ImpressionFacts(
        task=impression_task(recipe),
        adapter=fitted.adapter,
        encoder_revision=encoder_revision(encoder) if inside else "",
        vocabulary_fingerprint=open_encoder(encoder)[1].fingerprint if inside else "",
        labels=binary_labels(impressions),
        coding=fitted.coding.fingerprint,
    )
    with output_folder(folder, stage="finetune", overwrite=False, resume={}) as run:
        with run.files() as temporary:
            told = save_impressions(
                fitted, folder=temporary, facts=facts, schema=impressions.schema, base_model=str(encoder)
            )
        inputs = {"encoder": relative_to_run(encoder, folder)} if inside else {}
        run.finish(inputs=inputs, model=dump(told))
    return folder


def predicted(fitted, impressions):
    return fitted.rows(impressions, kept=ROWS, cache_mb=64).predict(ROWS, CPU)


@pytest.fixture
def written(impressions, encoder_folder, tmp_path):
    """Writes a model of that kind into a folder of its own."""

    def write(what, *, seed=0, name="model"):
        fitted = trained(impressions, encoder_folder, what, seed=seed)
        return finish(fitted, impressions, tmp_path / name, encoder=encoder_folder, recipe=WHAT[what][0])

    return write


@pytest.mark.parametrize("what", WHAT)
def test_a_model_comes_back_to_the_bit(what, impressions, encoder_folder, tmp_path):
    fitted = trained(impressions, encoder_folder, what)
    folder = finish(fitted, impressions, tmp_path / "model", encoder=encoder_folder, recipe=WHAT[what][0])
    again = load_impressions(folder)
    wanted, found = predicted(fitted, impressions), predicted(again.fitted, impressions)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    state = fitted.whole.state_dict()
    assert {
        key for key, value in again.fitted.whole.state_dict().items() if not torch.equal(value, state[key])
    } == set()
    assert again.schema == impressions.schema
    assert not again.fitted.whole.training
    assert again.facts.with_encoder == (WHAT[what][1] is not None) == (again.vocabulary is not None)
    other = predicted(trained(impressions, encoder_folder, what, seed=1), impressions)
    assert not np.array_equal(next(iter(other.values())), next(iter(wanted.values())))


def test_the_adapter_inside_is_a_peft_adapter_of_its_encoder(written, encoder_folder):
    folder = written("serial")
    assert (folder / "adapter_config.json").is_file()
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        told = file.metadata()
    assert told["encoder_revision"] == encoder_revision(encoder_folder)


def change(folder, move):
    """Applies `move` to the tensors of a run; names, shapes and metadata stay."""
    [path] = folder.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    save_file({name: move(name, tensor) for name, tensor in load_file(path).items()}, path, metadata=told)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def swap_values(folder):
    """The same values in another order: only the coding changes, every shape stays."""
    path = folder / "field_values.parquet"
    table = pq.read_table(path)
    values = table["value"].to_pylist()
    values[0], values[1] = values[1], values[0]
    pq.write_table(table.set_column(1, "value", [values]), path)


DAMAGES = {
    "weights moved a little": (
        lambda folder: change(folder, lambda name, tensor: tensor + 1e-3 * tensor.is_floating_point()),
        "not the file that this run wrote",
    ),
    "weights not finite": (
        lambda folder: change(folder, lambda name, tensor: tensor * float("nan") if "body" in name else tensor),
        "not finite",
    ),
    "weights of another shape": (
        lambda folder: change(
            folder, lambda name, tensor: tensor[:1] if "body" in name and tensor.dim() > 1 else tensor
        ),
        "not \\(",
    ),
    "weights cut": (lambda folder: cut(next(folder.glob("*.safetensors"))), "cannot be read"),
    "weights gone": (lambda folder: next(folder.glob("*.safetensors")).unlink(), "cannot be read"),
    "fields edited": (lambda folder: edit(folder / "fields.json", '"sd": ', '"sd": 1'), "fields cannot be read"),
    "fields no JSON": (lambda folder: cut(folder / "fields.json"), "fields cannot be read"),
    "fields gone": (lambda folder: (folder / "fields.json").unlink(), "fields cannot be read"),
    "values swapped": (swap_values, "fields cannot be read"),
    "values cut": (lambda folder: cut(folder / "field_values.parquet"), "fields cannot be read"),
    "values gone": (lambda folder: (folder / "field_values.parquet").unlink(), "fields cannot be read"),
    "domains swapped": (
        lambda folder: (edit(folder / "schema.json", '"d0"', '"d"'), edit(folder / "schema.json", '"d1"', '"d0"')),
        "schema.json is not the file that this run wrote",
    ),
    "schema no JSON": (lambda folder: cut(folder / "schema.json"), "schema.json is damaged"),
    "schema of something else": (lambda folder: (folder / "schema.json").write_text("[]"), "schema.json is damaged"),
    "schema gone": (lambda folder: (folder / "schema.json").unlink(), "schema.json: cannot be read"),
}


@pytest.mark.parametrize(
    ("damage", "what"),
    [*((damage, "fields alone") for damage in DAMAGES), *((d, "serial") for d in DAMAGES if d.startswith("weights"))],
)
def test_a_damaged_folder_is_refused_with_the_reason(damage, what, written):
    folder = written(what)
    load_impressions(folder)
    spoil, told = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(RefusedError, match=told) as refused:
        load_impressions(folder)
    assert refused.value.exit_code == 7
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("what", ["fields alone", "serial"])
def test_files_of_another_run_are_refused(what, written):
    folder, other = written(what), written(what, seed=1, name="other")
    [weights] = folder.glob("*.safetensors")
    own = weights.read_bytes()
    shutil.copy(other / weights.name, weights)
    with pytest.raises(RefusedError, match="not the file that this run wrote"):
        load_impressions(folder)
    weights.write_bytes(own)
    load_impressions(folder)


def test_fields_of_another_split_are_refused(written, impressions, tmp_path):
    folder = written("fields alone")
    plan = plan_of("mmoe", impressions)
    fit_codings(plan, impressions, ROWS[50:]).save(folder)  # whole, and of the same shapes
    with pytest.raises(RefusedError, match="fields are not those that the model was trained on"):
        load_impressions(folder)


def test_another_encoder_is_refused(written, encoder_folder, tmp_path):
    folder = written("serial")
    other = tmp_path / "encoder"
    shutil.copytree(encoder_folder, other)
    assert load_impressions(folder, encoder=other).encoder_folder == other  # a copy is the same one
    config = read_config(other)
    torch.manual_seed(9)
    save_encoder(NextItNet(config), config_path=other / "config.json", weights_path=other / "model.safetensors")
    with pytest.raises(RefusedError, match=encoder_revision(encoder_folder)):
        load_impressions(folder, encoder=other)
    Vocabulary.build([f"x{n}" for n in range(config.vocab_size - 3)], counts=[1] * (config.vocab_size - 3)).save(
        other / "vocabulary.parquet"
    )
    with pytest.raises(RefusedError, match="vocabulary"):
        load_impressions(folder, encoder=other)


def test_an_encoder_is_for_models_that_have_one(written, encoder_folder):
    with pytest.raises(SettingsError, match="trained without an encoder"):
        load_impressions(written("fields alone"), encoder=encoder_folder)


def test_an_encoder_that_is_gone_is_asked_for(written, tmp_path):
    folder = written("frozen")
    edit(folder / "run.json", json.loads((folder / "run.json").read_text())["inputs"]["encoder"], "nowhere")
    with pytest.raises(SettingsError, match="--encoder FOLDER"):
        load_impressions(folder)


def test_the_schema_that_predict_reads_is_checked_too(written):
    folder = written("fields alone")
    assert read_schema(folder).labels == ("click", "conversion")
    cut(folder / "schema.json")
    with pytest.raises(RefusedError, match="damaged"):
        read_schema(folder)
