"""Tuners around an encoder, as an adapter recipe says: what they adapt, and what of the encoder stays frozen."""

import warnings
from typing import TYPE_CHECKING, Any

from torch import nn

from peterrec.adapter_recipe import DEFAULT_RANK, AdapterRecipe, Blocks, PeftRecipe
from peterrec.data.vocabulary import TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import TCL_BEHIND
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

ITEMS = "embed_tokens"  # the item table, by its name in an encoder
# options that no recipe sets, because other values would not leave the encoder as it was at step 0
FIXED: dict[str, dict[str, Any]] = {
    "c3a": {"init_weights": True},
    "fourierft": {"init_weights": True},
    "ia3": {"feedforward_modules": []},
    "trainable_tokens": {"token_indices": [TCL]},
}


def adapt(
    encoder: UserEncoder, recipe: AdapterRecipe, *, readout: str, domains: int | None = None
) -> "UserEncoder | PeftModel":
    """Puts the recipe's tuner around `encoder` and freezes what it does not train; head only freezes it all.

    With tuner `full` every weight trains. `readout` is how the hidden states will be read, unless the recipe names a
    readout of its own: the TCL row trains only where it is read. `domains` is how many the data has, of which the
    tuner star keeps weights each; with more than one set, each call of the encoder wants `domain_ids`. Raises
    SettingsError naming the adapter where the recipe does not fit the encoder, the readout or the domains.
    """
    if recipe.tuner == "full":
        encoder.requires_grad_(True)
        return encoder
    encoder.requires_grad_(False)
    if recipe.tuner == "none":
        return encoder
    from peft import get_peft_model

    from peterrec.tuners.mixing import refuse_deaf_mixing

    try:
        config = _config(encoder, recipe, readout=_kind(encoder, recipe.readout or readout), domains=domains)
        with warnings.catch_warnings():
            # LN tuning copies whole modules; that they are ours and not torch's is no risk of the user's
            warnings.filterwarnings("ignore", message="Unsupported layer type '<class 'peterrec", category=UserWarning)
            model = get_peft_model(encoder, config)
    except (ValueError, AssertionError) as error:  # sizes that the method cannot give these weights
        raise SettingsError(f"adapter {recipe.name}: {error}") from error
    refuse_deaf_mixing(model)
    return model


def _kind(encoder: UserEncoder, readout: str) -> str:
    return encoder.reader.kind if readout == "encoder" else readout


def _config(encoder: UserEncoder, recipe: AdapterRecipe, *, readout: str, domains: int | None) -> "PeftConfig":
    trains_tcl = recipe.train_tcl and readout in TCL_BEHIND  # no other readout sees that row
    rows = {ITEMS: [TCL]} if trains_tcl else None
    if recipe.peft is not None:
        if recipe.peft.method == "trainable_tokens" and not trains_tcl:
            raise SettingsError(
                f"adapter {recipe.name}: it trains the TCL row alone, which the readout {readout!r} does not read. "
                'Set readout = "tcl" in the adapter or in the task.'
            )
        return _peft_config(encoder, recipe.peft, adapter=recipe.name, rows=rows)
    from peterrec import tuners

    if recipe.star is not None:
        star = recipe.star
        return tuners.StarConfig(
            num_domains=recipe.star_domains(domains),
            form=star.form,
            rank=star.rank or DEFAULT_RANK,
            norms=star.norms,
            layers_to_transform=_top(encoder, star.blocks, key=f"adapter {recipe.name}: star.blocks"),
            trainable_token_indices=rows,
        )
    patch = recipe.patch
    assert patch is not None
    return tuners.PatchConfig(
        placement=patch.placement,
        bottleneck=patch.width(encoder.config.hidden_size),
        activation=patch.activation,
        dropout=patch.dropout,
        train_norms=patch.train_norms,
        shortcut=patch.shortcut,
        layers_to_transform=_top(encoder, patch.blocks, key=f"adapter {recipe.name}: patch.blocks"),
        trainable_token_indices=rows,
    )


def _peft_config(
    encoder: UserEncoder, recipe: PeftRecipe, *, adapter: str, rows: dict[str, list[int]] | None
) -> "PeftConfig":
    from peft import TaskType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    arguments: dict[str, Any] = {
        "task_type": TaskType.FEATURE_EXTRACTION,  # without one, peft's Auto classes refuse the adapter
        "target_modules": _targets(encoder, recipe, adapter=adapter),
        **FIXED.get(recipe.method, {}),
        **recipe.options,
    }
    if rows is not None and recipe.method != "trainable_tokens":
        arguments["trainable_token_indices"] = rows
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[recipe.method.upper()]](**arguments)


def _targets(encoder: UserEncoder, recipe: PeftRecipe, *, adapter: str) -> list[str]:
    """The full names of the modules that a method adapts."""
    if recipe.where == "items":
        return [ITEMS]
    blocks = _top(encoder, recipe.blocks, key=f"adapter {adapter}: peft.blocks")
    # of a whole block its leaves: peft cannot unload, rename or swap the copy of a module with modules inside
    kinds = {"convolutions": (nn.Linear,), "norms": (nn.LayerNorm,), "blocks": (nn.Linear, nn.LayerNorm)}
    found = [
        f"blocks.{block}.{name}"
        for block in blocks
        for name, module in encoder.blocks[block].named_modules()
        if isinstance(module, kinds[recipe.where]) and (recipe.method != "beft" or module.bias is not None)
    ]
    if not found:
        raise SettingsError(
            f"adapter {adapter}: the method {recipe.method} stands on {recipe.where}, and the blocks of "
            f"{type(encoder).__name__} have none. Take another adapter, or another encoder."
        )
    return found


def _top(encoder: UserEncoder, blocks: Blocks, *, key: str) -> list[int]:
    """The indices of the top blocks; SettingsError where the encoder has fewer, or none."""
    total = len(encoder.blocks)
    if not total:
        raise SettingsError(
            f"{key}: a {type(encoder).__name__} encoder has no blocks. Take the adapter items, none or full, or "
            "another encoder."
        )
    count = total if blocks == "all" else blocks
    if count > total:
        raise SettingsError(f"{key} = {count}, but the encoder has {total} blocks.")
    return list(range(total - count, total))
