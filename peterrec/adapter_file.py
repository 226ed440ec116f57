"""Adapter folders in peft's format that name their encoder: saving, loading with every check, swapping weights.

Two files: adapter_config.json and adapter_model.safetensors. The second also holds a task's head, under `head.`, what
its readout learned, under `readout.`, and in its metadata the revision of the encoder, the fingerprint of its item
vocabulary and what the readout is. Plain peft loads the folder on the bare encoder and passes over the rest; only the
functions here compare encoder and adapter.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peterrec.adapter_config import (
    CONFIG,
    check_beside,
    config_text,
    difference,
    read_adapter_config,
    refusing_misfits,
    settings_digest,
)
from peterrec.adapter_weights import (
    WEIGHTS,
    Pairing,
    check_pairing,
    check_readout,
    check_settings,
    fill,
    fill_module,
    goes_on,
    paired,
    read_weights,
    write_weights,
)
from peterrec.atomic import atomic_file, sync
from peterrec.encoders.loading import open_encoder
from peterrec.encoders.readout import Readout
from peterrec.errors import RefusedError, SettingsError
from peterrec.tuners.mixing import refuse_deaf_mixing

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

HEAD = "head."
READOUT = "readout."
_PAIRED = "_peterrec_pairing"  # attribute of a PeftModel: which encoder is in it


def adapter_weights(model: "PeftModel", *, adapter_name: str = "default") -> dict[str, Tensor]:
    """The tensors of an adapter under the names of its file; they share memory with the model."""
    from peft import get_peft_model_state_dict
    from peft.utils.other import AuxiliaryTrainingWrapper

    state = dict(model.state_dict())
    nothing = torch.empty(0)  # where another adapter trains rows and this one does not, peft would miss its tensor
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            for name in module.adapter_state_dict_load_map(adapter_name).values():
                state.setdefault(f"{path}.{name}", nothing)
    # the item table belongs to the encoder, whatever is targeted
    found = get_peft_model_state_dict(model, state_dict=state, adapter_name=adapter_name, save_embedding_layers=False)
    return {name: tensor.detach() for name, tensor in found.items() if tensor is not nothing}


def save_adapter(
    encoder: "PeftModel",
    folder: Path,
    *,
    encoder_revision: str,
    vocabulary_fingerprint: str,
    head: nn.Module | None = None,
    readout: Readout | None = None,
    base_model: str = "",
    adapter_name: str = "default",
) -> None:
    """Writes an adapter, and the head and the readout of its task if given, into `folder`; other files there stay.

    `base_model` is where peft's Auto classes will look for the encoder: its folder, or its name on the hub. A crash
    leaves the old adapter, the new one, or one without configuration, which nothing loads. Raises ResourceError.
    """
    folder = Path(folder)
    tensors = adapter_weights(encoder, adapter_name=adapter_name)
    for prefix, module in ((HEAD, head), (READOUT, readout)):
        tensors |= {} if module is None else {f"{prefix}{name}": own for name, own in module.state_dict().items()}
    text = config_text(encoder.peft_config[adapter_name], base_model=base_model)
    with atomic_file(folder / CONFIG) as config_file, atomic_file(folder / WEIGHTS) as weights_file:
        config_file.write_text(text, encoding="utf-8")
        pairing = Pairing(encoder_revision, vocabulary_fingerprint)
        write_weights(tensors, weights_file, pairing=pairing, settings=settings_digest(text), readout=readout)
        sync(config_file)
        sync(weights_file)
        (folder / CONFIG).unlink(missing_ok=True)  # old settings must not meet new weights


def load_adapter(
    folder: Path,
    *,
    encoder: Path | None = None,
    adapter_name: str = "default",
    unchecked: bool = False,
    continued: bool = False,
) -> "PeftModel":
    """The encoder with the adapter of `folder` around it, in evaluation mode.

    The encoder is the one in the folder `encoder`, else the one that the adapter's configuration names. `unchecked`
    takes an adapter that names no encoder, as plain peft writes them; one that names another is refused all the same,
    unless the encoder was continued from that one: with `continued`, or where that one stands in it to the bit.
    Raises SettingsError where adapter or encoder are not there, RefusedError where they do not fit or are damaged.
    """
    folder = Path(folder)
    config, tensors, wanted = _read(folder)
    found, given = paired(folder, config, wanted, encoder=encoder, unchecked=unchecked, continued=continued)
    from peft import get_peft_model

    config.base_model_name_or_path = None  # peft warns where it is not what the encoder calls itself
    with torch.random.fork_rng(devices=[]):  # loading draws weights before it overwrites them
        bare, _ = open_encoder(found)
        with refusing_misfits(folder):
            model: Any = get_peft_model(bare, config, adapter_name=adapter_name)
    config.base_model_name_or_path = str(found)
    refuse_deaf_mixing(model)
    remember(model, given)
    _fill(model, tensors, adapter_name=adapter_name, path=folder / WEIGHTS, more_items=goes_on(given, wanted))
    _check_settings(folder)  # last: what does not fit the encoder at all has a better message
    return model.eval()


def load_head(
    folder: Path, *, head: nn.Module, encoder: Path | None = None, unchecked: bool = False, continued: bool = False
) -> None:
    """Puts the head that was saved with the adapter of `folder` into `head`, a module of the same shape.

    `encoder`, `unchecked`, `continued` and what is raised are as for `load_adapter`: a head reads one encoder's
    vectors.
    """
    path, given = _weights_for(Path(folder), encoder=encoder, unchecked=unchecked, continued=continued)
    fill_module(head, path, prefix=HEAD, given=given)


def load_readout(
    folder: Path,
    *,
    readout: Readout,
    encoder: Path | None = None,
    unchecked: bool = False,
    continued: bool = False,
) -> None:
    """Puts what the readout learned that was saved with the adapter of `folder` into `readout`; as `load_head`.

    Raises RefusedError as well for a readout of another kind, of other layers, or with item weights or without.
    """
    path, given = _weights_for(Path(folder), encoder=encoder, unchecked=unchecked, continued=continued)
    check_readout(path, readout)
    fill_module(readout, path, prefix=READOUT, given=given)


def add_adapter_from(
    model: "PeftModel",
    folder: Path,
    *,
    adapter_name: str,
    encoder: Path | None = None,
    unchecked: bool = False,
    continued: bool = False,
) -> None:
    """Adds the adapter of `folder` to a model beside those it holds, under a name of its own; it is not made active.

    `encoder` is the folder that the model's encoder came from; models of `load_adapter` and `load_task` know it.
    Raises SettingsError for a name in use or an encoder not named, RefusedError as `load_adapter` does.
    """
    folder = Path(folder)
    if adapter_name in model.peft_config:
        raise SettingsError(f"The model already holds an adapter {adapter_name!r}; choose another name.")
    config, tensors, grown = _checked(model, folder, encoder=encoder, unchecked=unchecked, continued=continued)
    check_beside(model, config, folder)
    config.inference_mode = True
    training = model.training
    with torch.random.fork_rng(devices=[]):
        try:
            with refusing_misfits(folder):
                model.add_adapter(adapter_name, config)
            _fill(model, tensors, adapter_name=adapter_name, path=folder / WEIGHTS, more_items=grown)
            _check_settings(folder)
        except RefusedError:
            if adapter_name in model.peft_config:
                model.delete_adapter(adapter_name)
            raise
    model.train(training)


def hot_swap(
    model: "PeftModel",
    folder: Path,
    *,
    adapter_name: str = "default",
    encoder: Path | None = None,
    unchecked: bool = False,
    continued: bool = False,
) -> None:
    """Copies the weights of another adapter with the same configuration over those of `adapter_name`, in place.

    Nothing is built and a compiled model is not compiled again. `encoder`: as for `add_adapter_from`. Raises
    SettingsError for a name that the model does not hold, RefusedError for other settings and as `load_adapter` does.
    """
    folder = Path(folder)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    if adapter_name not in model.peft_config:
        raise SettingsError(f"The model holds no adapter {adapter_name!r}, but {', '.join(model.peft_config)}.")
    config, tensors, grown = _checked(model, folder, encoder=encoder, unchecked=unchecked, continued=continued)
    odd = difference(model.peft_config[adapter_name], config)
    if odd is not None:
        raise RefusedError(
            f"{folder} cannot take the place of {adapter_name!r}: {odd} is {getattr(config, odd, None)!r}, not "
            f"{getattr(model.peft_config[adapter_name], odd, None)!r}. Add it with add_adapter_from instead."
        )
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise RefusedError(f"{folder} cannot be swapped in: the model's adapters are merged. Call unmerge_adapter().")
    _check_settings(folder)
    _fill(model, tensors, adapter_name=adapter_name, path=folder / WEIGHTS, more_items=grown)


def remember(model: "PeftModel", pairing: Pairing) -> None:
    """Notes on a model which encoder is in it, for the adapters that are added or swapped in later."""
    setattr(model, _PAIRED, pairing)


def _read(folder: Path) -> tuple["PeftConfig", dict[str, Tensor], Pairing | None]:
    config = read_adapter_config(folder)
    tensors, wanted = read_weights(folder / WEIGHTS)
    return config, tensors, wanted


def _check_settings(folder: Path) -> None:
    """Raises RefusedError where adapter_config.json was changed since the weights were saved."""
    check_settings(folder / WEIGHTS, settings_digest((folder / CONFIG).read_text("utf-8")))


def _weights_for(folder: Path, *, encoder: Path | None, unchecked: bool, continued: bool) -> tuple[Path, Pairing]:
    """The file of an adapter's weights, once the encoder given or named is theirs, and that encoder."""
    config, _, wanted = _read(folder)
    _, given = paired(folder, config, wanted, encoder=encoder, unchecked=unchecked, continued=continued)
    return folder / WEIGHTS, given


def _checked(
    model: "PeftModel", folder: Path, *, encoder: Path | None, unchecked: bool, continued: bool
) -> tuple["PeftConfig", dict[str, Tensor], bool]:
    """What is in an adapter folder, once its encoder is that of the model, and whether that has gone on since."""
    config, tensors, wanted = _read(folder)
    given = getattr(model, _PAIRED, None) if encoder is None else Pairing.of(Path(encoder))
    if given is None:
        raise SettingsError(
            f"{folder}: nothing says which encoder the model was made with; give encoder=FOLDER, where it was loaded "
            "from."
        )
    name = f"the model's encoder {encoder or ''}".rstrip()
    check_pairing(folder / WEIGHTS, wanted, given, encoder=name, unchecked=unchecked, continued=continued)
    return config, tensors, goes_on(given, wanted)


def _fill(
    model: "PeftModel", tensors: Mapping[str, Tensor], *, adapter_name: str, path: Path, more_items: bool
) -> None:
    """Puts the tensors of a file, but for those of head and readout, into an adapter of the model."""
    mine = {name: tensor for name, tensor in tensors.items() if not name.startswith((HEAD, READOUT))}
    fill(adapter_weights(model, adapter_name=adapter_name), mine, path=path, more_items=more_items)
