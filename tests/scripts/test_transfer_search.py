"""The search for the attribute encoder: whom it judges, and that it tells a good encoder from a bad one."""

from pathlib import Path

import numpy as np
import pytest

from peterrec.data.attribute import read_attribute, split_users
from peterrec.data.prepared import open_prepared
from peterrec.settings import load_settings
from peterrec.stages.pretrain import PretrainSettings

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import transfer_search

    return transfer_search


def test_the_recipes_are_valid_and_differ(script):
    files = [script.HERE / "pooled.toml", *(script.HERE / "search").glob("*.toml")]
    found = [load_settings(PretrainSettings, file=file) for file in files]
    assert len({settings.model_dump_json() for settings in found}) == len(found) >= 6


@pytest.mark.parametrize("labels", [None, 60])
def test_nobody_who_is_tested_in_a_draw_is_looked_at(script, prepared_folder, labels):
    attribute = read_attribute(open_prepared(prepared_folder), column="gender")
    for number, split in enumerate(script.draws(attribute, labels=labels)):
        seed = script.FIRST_SEED + number
        tested = split_users(attribute, fractions=(0.7, 0.03, 0.27), stratified=True, seed=seed).test
        assert not np.isin(np.concatenate([split.train, split.validation]), tested).any()
        assert not np.isin(split.train, split.validation).any()
        assert labels is None or len(split.train) == labels


def test_vectors_that_tell_the_label_are_worth_more_than_noise(script, prepared_folder):
    prepared = open_prepared(prepared_folder)
    attribute = read_attribute(prepared, column="gender")
    noise = np.random.default_rng(0).normal(size=(len(prepared.sequences("histories")), 4))
    telling = noise.copy()
    telling[attribute.rows, 0] += 3 * attribute.labels
    split = script.draws(attribute, labels=None)[0]
    assert script.figure(telling, attribute, split, metric="roc_auc") > 0.9
    assert abs(script.figure(noise, attribute, split, metric="roc_auc") - 0.5) < 0.2
