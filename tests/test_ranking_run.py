"""The folder of a task that ranks items: it comes back to the bit, and what does not belong is refused."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from peterrec import catalogue
from peterrec.adaptation import build_ranking
from peterrec.catalogue import RankingTask
from peterrec.data.item_features import item_features
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders import NextItNet
from peterrec.encoders.loading import encoder_revision, load_encoder, open_encoder, read_config, save_encoder
from peterrec.errors import RefusedError, SettingsError
from peterrec.ranking_run import RankingFacts, add_items, load_ranking, save_ranking
from peterrec.run_folder import output_folder
from peterrec.run_record import relative_to_run
from peterrec.run_weights import weights_digest
from peterrec.settings import dump
from peterrec.task_run import load_task

CATALOGUE = Vocabulary.build([f"t{n}" for n in range(20)], counts=np.arange(20)[::-1] + 5)
COUNTS = np.r_[0, 0, 0, np.random.default_rng(0).integers(0, 9, 20)]
ITEMS = pa.table({"item": [f"t{n}" for n in range(20)], "genre": ["ab"[n % 2] if n % 3 else "a|b" for n in range(20)]})
ADAPTERS = ["none", "serial", "parallel", "lora", "ln_tuning", "full", "star", "items"]


@pytest.fixture(scope="module")
def encoder(encoder_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    config = read_config(encoder_folder)
    config.dilations = [1, 2, 4, 8]
    torch.manual_seed(0)
    save_encoder(NextItNet(config), config_path=folder / "config.json", weights_path=folder / "model.safetensors")
    shutil.copy(encoder_folder / "vocabulary.parquet", folder)
    return folder


def saved(folder, encoder, *, adapter="serial", **changes):
    """A model whose own weights have all moved, in a finished run; and the model."""
    task = RankingTask.model_validate({"name": "x", "kind": "ranking", "readout": "mean", **changes})
    features = item_features(ITEMS, vocabulary=CATALOGUE, columns=task.item_features) if task.item_features else None
    recipe = catalogue.adapter(adapter)
    torch.manual_seed(1)
    model = build_ranking(
        load_encoder(encoder), adapter=recipe, task=task, rows=len(CATALOGUE), counts=COUNTS, features=features
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    facts = RankingFacts(
        task=task,
        adapter=recipe,
        encoder_revision=encoder_revision(encoder),
        vocabulary_fingerprint=open_encoder(encoder)[1].fingerprint,
        target_fingerprint=CATALOGUE.fingerprint,
        feature_width=0 if features is None else features.width,
    )
    with output_folder(folder, stage="finetune", overwrite=False, resume={}) as run:
        with run.files() as temporary:
            save_ranking(
                model,
                folder=temporary,
                facts=facts,
                target_vocabulary=CATALOGUE,
                features=features,
                base_model=str(encoder),
            )
            facts = facts.model_copy(update={"weights": weights_digest(temporary, facts)})
        run.finish(inputs={"encoder": relative_to_run(encoder, folder)}, model=dump(facts))
    return model.eval()


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("changes", [{}, {"history": "mixed", "item_features": ["genre"], "head": {"hidden": [8]}}])
def test_it_comes_back_to_the_bit(encoder, tmp_path, adapter, changes):
    model = saved(tmp_path / "run", encoder, adapter=adapter, **changes)
    loaded = load_ranking(tmp_path / "run")
    ids = torch.randint(3, 60, (5, 12), generator=torch.Generator().manual_seed(3))
    ids[3, 7:] = 0
    if changes:
        ids[0, 2] = ids[1, 9] = model.head.history.source_rows + 4
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded.model(ids).logits)
    assert not loaded.model.training
    assert loaded.target_vocabulary.fingerprint == CATALOGUE.fingerprint
    assert loaded.target_vocabulary.counts.tolist() == COUNTS[3:].tolist(), "those of the training"
    assert loaded.names == ((("genre", "a"), ("genre", "b")) if changes else ())
    assert loaded.facts.max_length == 200
    assert not loaded.facts.one_log


def test_what_does_not_belong_is_refused(encoder, tmp_path):
    saved(tmp_path / "run", encoder, item_features=["genre"])
    other = Vocabulary.build([f"x{n}" for n in range(20)], counts=np.ones(20))
    kept = (tmp_path / "run" / "target_vocabulary.parquet").read_bytes()
    other.save(tmp_path / "run" / "target_vocabulary.parquet")
    with pytest.raises(RefusedError, match="is not the catalogue that the model was trained on"):
        load_ranking(tmp_path / "run")
    (tmp_path / "run" / "target_vocabulary.parquet").write_bytes(kept)
    load_ranking(tmp_path / "run")
    (tmp_path / "run" / "item_features.parquet").unlink()
    with pytest.raises(RefusedError, match=r"item_features\.parquet: cannot be read"):
        load_ranking(tmp_path / "run")
    with pytest.raises(SettingsError, match="its encoder is not at"):
        load_ranking(tmp_path / "run", encoder=tmp_path / "nowhere")
    with pytest.raises(SettingsError):
        load_task(tmp_path / "run")


@pytest.mark.parametrize("history", ["source", "mixed"])
def test_new_items_are_scored_by_their_attributes(encoder, tmp_path, history):
    saved(tmp_path / "run", encoder, item_features=["genre"], history=history)
    loaded = load_ranking(tmp_path / "run")
    model, head = loaded.model, loaded.model.head
    ids = torch.randint(3, 60, (5, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        before = model(ids).logits
    table = pa.table({"item": ["n1", "t3", "n2", "n3"], "genre": ["b|a|unheard", "b", None, "b"]})
    grown, left_out = add_items(loaded, table)
    assert left_out == 1
    assert grown.target_vocabulary.items.to_pylist() == [*CATALOGUE.items.to_pylist(), "n1", "n3"]
    assert grown.target_vocabulary.counts.tolist() == [*COUNTS[3:], 0, 0]
    with torch.no_grad():
        after = model(ids).logits
        query = head.query(model.user_vectors(ids))
    torch.testing.assert_close(after[:, :-2], before)
    a, b = head.value_vectors
    bias = head.item_bias[torch.from_numpy(np.flatnonzero(COUNTS))].mean()
    torch.testing.assert_close(after[:, -2], query @ ((a + b) / 2) + bias + head.value_bias.mean())
    torch.testing.assert_close(after[:, -1], query @ b + bias + head.value_bias[1])
    if history == "mixed":
        ids[:, 3] = head.history.source_rows + len(CATALOGUE) - 3 + 1
        assert torch.isfinite(model(ids).logits).all(), "they may stand in histories"


def test_without_attributes_new_items_are_unknown(encoder, tmp_path):
    saved(tmp_path / "run", encoder)
    with pytest.raises(SettingsError, match="knows nothing of new ones"):
        add_items(load_ranking(tmp_path / "run"), ITEMS)
