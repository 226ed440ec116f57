"""Publishing to a hub over HTTP and to a folder: what goes up, in one commit, and what must not."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard

from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import BusyError, RefusedError, ResourceError, SettingsError
from peterrec.hub.contents import names_of
from peterrec.hub.manifest import Manifest
from peterrec.hub.publishing import publish


def users_of(folder) -> list[str]:
    """The ids of the users of the world that a run was trained on."""
    run = json.loads((folder / "run.json").read_text())
    return pq.read_table((folder / run["inputs"]["data"] / "users.parquet").resolve())["user"].to_pylist()


def test_an_encoder_goes_up_in_one_private_commit(hub, encoder):
    made = publish(encoder, to="me/encoder", licence="apache-2.0")
    repository = hub.repositories["me/encoder"]
    assert repository.private
    assert len(repository.commits) == 2  # the one that makes a repository, and ours
    assert repository.commits[-1].oid == made.revision
    assert set(repository.commits[-1].files) - {".gitattributes"} == names_of("encoder")[0] | {"manifest.json"}
    weights = (encoder / "model.safetensors").read_bytes()
    assert repository.commits[-1].files["model.safetensors"] == weights
    assert weights in hub.large.values()  # by lfs


def test_the_same_content_is_not_published_twice(hub, encoder):
    first = publish(encoder, to="me/encoder")
    again = publish(encoder, to="me/encoder")
    assert (again.revision, again.changed) == (first.revision, False)
    assert len(hub.repositories["me/encoder"].commits) == 2


def test_public_and_tag(hub, encoder):
    made = publish(encoder, to="me/encoder", public=True, tag="v1", message="the first one")
    repository = hub.repositories["me/encoder"]
    assert not repository.private
    assert repository.tags == {"v1": made.revision}
    assert repository.commits[-1].message == "the first one"


def test_an_adapter_names_repository_and_revision_of_its_encoder(hub, encoder, task):
    revision = publish(encoder, to="me/encoder").revision
    publish(task, to="me/gender")
    files = hub.repositories["me/gender"].commits[-1].files
    named = json.loads(files["run.json"])["published"]["encoder"]
    facts = json.loads((task / "run.json").read_text())["model"]
    assert named == {
        "repository": "me/encoder",
        "revision": revision,
        "encoder_revision": facts["encoder_revision"],
        "vocabulary_fingerprint": facts["vocabulary_fingerprint"],
    }
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("me/encoder", revision)
    assert "model.safetensors" not in files  # the encoder is not published again


def test_an_adapter_whose_encoder_is_not_published_is_told_so(hub, task):
    with pytest.raises(SettingsError, match=r"its encoder is not published to the hub yet.*peterrec publish .*encoder"):
        publish(task, to="me/gender")
    assert not hub.repositories


def test_an_encoder_that_was_trained_again_is_not_named(hub, encoder, task):
    publish(encoder, to="me/encoder")
    note = json.loads((encoder / "published.json").read_text())
    note[0]["encoder_revision"] = "0" * 16
    (encoder / "published.json").write_text(json.dumps(note))
    with pytest.raises(RefusedError, match="the encoder was trained again since"):
        publish(task, to="me/gender")


def test_no_user_row_or_path_is_in_anything_that_was_sent(hub, encoder, task, cold_start, tmp_path, encoder_folder):
    for run, name in ((encoder, "encoder"), (task, "gender"), (cold_start, "cold")):
        publish(run, to=f"me/{name}")
    sent = hub.sent()
    users = users_of(encoder_folder)
    assert len(users) > 300
    for user in users:
        assert not re.search(rb"\b" + user.encode() + rb"\b", sent), user
    for place in (tmp_path, encoder_folder.parent, encoder_folder.parents[2]):
        assert str(place).encode() not in sent
    for commit in (repository.commits[-1] for repository in hub.repositories.values()):
        for name in commit.files:
            assert not {"predictions", "split", "metrics.json", "settings.toml", "report"} & set(
                re.split(r"[./]", name)
            )
        run = json.loads(commit.files["run.json"])
        assert set(run["inputs"]) <= {"encoder"}
        assert "data" not in run["settings"]


def test_a_path_in_the_settings_is_refused(hub, encoder, tmp_path):
    run = json.loads((encoder / "run.json").read_text())
    run["settings"]["encoder"]["kind"] = str(tmp_path / "runs" / "secret")
    (encoder / "run.json").write_text(json.dumps(run))
    with pytest.raises(RefusedError, match=r"run\.json would be published with the path"):
        publish(encoder, to="me/encoder")
    assert not hub.repositories


def test_the_card_has_metadata_figures_baselines_and_the_privacy_note(hub, encoder):
    publish(encoder, to="me/encoder", licence="apache-2.0", dataset="clicks of a shop")
    text = hub.repositories["me/encoder"].commits[-1].files["README.md"].decode()
    data = ModelCard(text).data
    assert data.license == "apache-2.0"
    assert data.library_name == "peterrec"
    metrics = json.loads((encoder / "metrics.json").read_text())
    figures = {one["name"]: one["metrics"][metrics["metric"]] for one in metrics["results"]}
    told = {one.metric_name: one.metric_value for one in data.eval_results}
    for name, figure in figures.items():
        label = next(key for key in told if f" of {name}" in key)
        assert told[label] == pytest.approx(figure["value"], abs=1e-6)
        assert f"{figure['low']:.4f} to {figure['high']:.4f}" in label
    assert any("(baseline)" in name for name in told)
    vocabulary = Vocabulary.load(encoder / "vocabulary.parquet")
    assert f"clicks of a shop: {vocabulary.num_items:,} items, {vocabulary.counts.sum():,} events" in text
    for part in (
        "## How it was measured",
        "## Intended use",
        "sensitive personal data",
        'peterrec.fetch("me/encoder")',
    ):
        assert part in text


def test_a_repository_of_something_else_is_left_alone(hub, encoder, task):
    publish(encoder, to="me/encoder")
    hub.repositories["me/other"] = type(hub.repositories["me/encoder"])(True)
    hub.commit("me/other", {"weights.bin": b"x"})
    with pytest.raises(SettingsError, match=r"holds what peterrec did not publish \(weights.bin\)"):
        publish(encoder, to="me/other")
    with pytest.raises(SettingsError, match="holds an artefact of kind encoder"):
        publish(task, to="me/encoder")
    assert len(hub.repositories["me/other"].commits) == 1


def test_what_others_added_stays(hub, encoder):
    publish(encoder, to="me/encoder")
    files = dict(hub.repositories["me/encoder"].commits[-1].files)
    manifest = json.loads(files["manifest.json"])
    hub.commit("me/encoder", {"NOTES.txt": b"by a colleague"})
    config = json.loads((encoder / "config.json").read_text()) | {"dropout": 0.25}
    (encoder / "config.json").write_text(json.dumps(config))
    made = publish(encoder, to="me/encoder")
    now = hub.repositories["me/encoder"].commits[-1].files
    assert made.changed
    assert now["NOTES.txt"] == b"by a colleague"
    assert json.loads(now["manifest.json"])["files"] != manifest["files"]


def test_someone_else_commits_in_the_meantime(hub, encoder):
    publish(encoder, to="me/encoder")
    config = json.loads((encoder / "config.json").read_text()) | {"dropout": 0.25}
    (encoder / "config.json").write_text(json.dumps(config))
    hub.before_commit = lambda name: hub.commit(name, {"NOTES.txt": b"in between"})
    with pytest.raises(BusyError, match="changed by someone else"):
        publish(encoder, to="me/encoder")
    assert hub.repositories["me/encoder"].commits[-1].files["NOTES.txt"] == b"in between"


@pytest.mark.parametrize(
    ("method", "part", "status", "error", "said"),
    [
        ("POST", "/preupload/", 401, SettingsError, "hf auth login"),
        ("POST", "/commit/", 403, SettingsError, "may write to it"),
        ("POST", "/commit/", 429, ResourceError, "asks to wait"),
        ("PUT", "/lfs/", 500, ResourceError, "HTTP 500"),
        ("POST", "/preupload/", 503, ResourceError, "HTTP 503"),
    ],
)
def test_a_failed_upload_leaves_the_repository_as_it_was(hub, encoder, monkeypatch, method, part, status, error, said):
    publish(encoder, to="me/encoder")
    before = len(hub.repositories["me/encoder"].commits)
    shutil.rmtree(encoder.parent.parent / "cache", ignore_errors=True)
    weights = bytearray((encoder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (encoder / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its tries
    hub.fail.append((method, part, status))
    with pytest.raises(error, match=said):
        publish(encoder, to="me/encoder")
    assert len(hub.repositories["me/encoder"].commits) == before
    hub.fail.clear()
    assert publish(encoder, to="me/encoder").changed  # and the same command goes on


def test_no_server_is_told_as_such(hub, encoder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ResourceError, match="cannot be reached"):
        publish(encoder, to="me/encoder")


def test_to_a_folder_as_a_whole_or_not_at_all(encoder, task, tmp_path):
    shared = tmp_path / "shared"
    made = publish(encoder, to=shared / "encoder")
    again = publish(encoder, to=shared / "encoder")
    assert (again.revision, again.changed) == (made.revision, False)
    publish(task, to=shared / "gender")
    run = json.loads((shared / "gender" / "run.json").read_text())
    assert run["inputs"] == {"encoder": "../encoder"}
    assert str(tmp_path) not in (shared / "gender" / "README.md").read_text()
    assert {path.name for path in shared.iterdir()} == {"encoder", "gender"}  # nothing half-written
    (shared / "other").mkdir()
    (shared / "other" / "thesis.tex").write_text("x")
    with pytest.raises(SettingsError, match="not empty, and not published by peterrec"):
        publish(encoder, to=shared / "other")
    with pytest.raises(SettingsError, match="holds an artefact of kind encoder"):
        publish(task, to=shared / "encoder")


def test_an_encoder_far_away_from_its_adapter_is_refused(encoder, task, tmp_path):
    publish(encoder, to=tmp_path / "here" / "encoder")
    with pytest.raises(SettingsError, match="publish both below one folder"):
        publish(task, to=tmp_path / "a" / "b" / "c" / "d" / "gender")


def test_what_is_not_published(tmp_path, prepared_folder, encoder, hub):
    with pytest.raises(SettingsError, match="what is published are encoders"):
        publish(prepared_folder, to=tmp_path / "out")
    with pytest.raises(SettingsError, match="a revision is what publishing makes"):
        publish(encoder, to="me/encoder@v1")
    (encoder / "vocabulary.parquet").unlink()
    with pytest.raises(RefusedError, match=r"vocabulary\.parquet is missing"):
        publish(encoder, to="me/encoder")


def test_the_revision_of_a_folder_is_that_of_its_content(encoder, tmp_path):
    one = publish(encoder, to=tmp_path / "one")
    (encoder / "published.json").unlink()
    two = publish(encoder, to=tmp_path / "elsewhere" / "one")
    assert one.revision == two.revision
    assert isinstance(one.manifest, Manifest)
