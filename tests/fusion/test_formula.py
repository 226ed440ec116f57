"""Sums and products of powers of predictions, and weights as they are written."""

import numpy as np
import pytest
from scipy.stats import rankdata

from peterrec.errors import DataError, SettingsError
from peterrec.fusion.formula import Fusion, parse_weights, read_weights

RNG = np.random.default_rng(0)
P = {"ctr": RNG.random(50), "cvr": RNG.random(50) ** 3}


def test_the_sum_and_the_product_of_powers():
    weights = {"ctr": 1.0, "cvr": 0.5}
    assert Fusion("sum", weights).scores(P) == pytest.approx(P["ctr"] + 0.5 * P["cvr"])
    assert np.exp(Fusion("product", weights).scores(P)) == pytest.approx(P["ctr"] * P["cvr"] ** 0.5)


@pytest.mark.parametrize("form", ["sum", "product"])
def test_only_ratios_of_weights_matter(form):
    orders = [rankdata(Fusion(form, {"ctr": s, "cvr": 2 * s}).scores(P)) for s in (1.0, 0.003, 700.0)]
    assert (orders[0] == orders[1]).all()
    assert (orders[0] == orders[2]).all()


def test_a_probability_of_zero_makes_a_product_zero_and_no_nan():
    p = {"ctr": np.array([0.0, 0.5, 0.0]), "cvr": np.array([0.5, 0.0, 0.2])}
    assert Fusion("product", {"ctr": 1.0, "cvr": 2.0}).scores(p).tolist() == [-np.inf] * 3
    alone = Fusion("product", {"ctr": 1.0, "cvr": 0.0}).scores(p)  # 0 ** 0 is 1
    assert np.exp(alone) == pytest.approx(p["ctr"])
    assert np.exp(Fusion("product", {"ctr": -1.0}).scores({"ctr": np.array([0.5])})) == pytest.approx([2.0])


def test_tiny_probabilities_do_not_underflow():
    p = {"ctr": np.array([1e-300, 2e-300]), "cvr": np.array([1e-200, 1e-200])}
    assert len(set(Fusion("product", {"ctr": 2.0, "cvr": 3.0}).scores(p))) == 2


@pytest.mark.parametrize(
    ("form", "values", "weight", "told"),
    [
        ("sum", [0.5, np.nan], 1.0, "'ctr' of row 2 is nan"),
        ("product", [0.5, np.inf], 1.0, "not a finite number"),
        ("product", [-0.5, 0.1], 1.0, "take `--form sum`"),
        ("product", [0.5, 0.0], -1.0, "no power below 0"),
    ],
)
def test_what_cannot_be_fused_is_named(form, values, weight, told):
    with pytest.raises(DataError, match=told):
        Fusion(form, {"ctr": weight}).scores({"ctr": np.array(values)})


def test_weights_as_text_and_as_a_file(tmp_path):
    found = parse_weights(" ctr=1, cvr=0.5 ", form="sum")
    assert found == Fusion("sum", {"ctr": 1.0, "cvr": 0.5})
    assert found.told() == "1 · ctr + 0.5 · cvr"
    assert Fusion("product", {"ctr": 1.0, "cvr": 0.0}).told() == "ctr^1"
    (tmp_path / "weights.json").write_text(found.to_json({"source": "x"}))
    assert parse_weights(str(tmp_path / "weights.json")) == found == read_weights(tmp_path)
    assert parse_weights(str(tmp_path), form="product").form == "product"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ctr=0,cvr=0", "all weights are 0"),
        ("ctr=one", "'ctr=one' is not NAME=NUMBER"),
        ("ctr=1,cvr", "'cvr' is not NAME=NUMBER"),
        ("ctr=1,ctr=2", "stands there twice"),
        ("ctr=inf", "not a finite number"),
        ("nowhere.json", "No such file"),
    ],
)
def test_wrong_weights_are_told(text, told):
    with pytest.raises(SettingsError, match=told):
        parse_weights(text)


def test_a_damaged_file_and_an_unknown_prediction_are_told(tmp_path):
    (tmp_path / "w.json").write_text('{"format": "other"}')
    with pytest.raises(SettingsError, match="no file of weights"):
        parse_weights(str(tmp_path / "w.json"))
    with pytest.raises(SettingsError, match="Did you mean 'ctr'"):
        Fusion("sum", {"ctrr": 1.0}).scores(P)
