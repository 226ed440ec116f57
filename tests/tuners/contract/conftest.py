"""What a tuner cannot do by nature, or peft cannot do with it.

None of these is skipped: each test runs and must fail with the error named here, so that the day a verb starts to
work is heard of.
"""

import pytest

from peterrec.errors import SettingsError

Known = dict[str, tuple[type[BaseException], str]]

NO_MERGE: Known = {
    "patch": (ValueError, "a bottleneck is not linear: no weight of the frozen encoder equals it"),
    "domains": (ValueError, "a merged encoder has one set of weights, not one a domain: export_domain"),
}
NO_IDENTITY: Known = {
    "shortcut": (AssertionError, "the published patch adds its input once more: it does not start at the identity")
}
DEAF: Known = {"deaf": (ValueError, "refused by adapt(): peft would give every row the active adapter")}

# test -> tag of a case -> the error and its reason
CANNOT: dict[str, Known] = {
    "test_it_starts_as_the_frozen_encoder": NO_IDENTITY,
    "test_it_starts_as_the_encoder_in_every_precision": NO_IDENTITY,
    "test_it_starts_as_the_encoder_under_autocast": NO_IDENTITY,
    "test_a_second_adapter_starts_as_the_encoder": NO_IDENTITY,
    "test_an_adapter_on_other_blocks_starts_as_the_encoder": NO_IDENTITY,
    "test_merge_and_unload": NO_MERGE,
    "test_merge_adapter_and_back": {**NO_MERGE, "ia3": (UserWarning, "peft divides by what it multiplied by")},
    "test_each_row_goes_through_its_own_adapter": {
        **DEAF,
        "dora": (ValueError, "peft refuses mixed batches with DoRA"),
    },
    "test_disabled_adapters_stay_so_in_a_mixed_batch": DEAF,
    "test_a_head_is_trained_and_reloaded": {
        "trainable_tokens": (AttributeError, "TrainableTokensConfig has no modules_to_save"),
    },
}

# tag -> block -> the error that wrapping such a block ends with
NO_PLACE: dict[str, Known] = {
    "parallel_unit": {
        "bottleneck": (SettingsError, "the norm stands before the convolution: no patch ends behind it"),
    },
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        params = item.callspec.params
        case = params.get("case") or params.get("own")
        tags = sorted(getattr(case, "tags", ()))
        nowhere = [NO_PLACE[tag].get(str(params.get("block"))) for tag in tags if tag in NO_PLACE]
        here = [CANNOT.get(item.originalname, {}).get(tag) for tag in tags]
        for error, reason in filter(None, nowhere + here):
            item.add_marker(pytest.mark.xfail(raises=error, reason=reason, strict=True))
            break  # the first one is what the test will meet


@pytest.fixture
def cannot() -> dict[str, Known]:
    return CANNOT


@pytest.fixture
def no_place() -> dict[str, Known]:
    return NO_PLACE
