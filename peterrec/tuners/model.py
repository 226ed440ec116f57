"""What peft drives for a tuner of ours: wrapping, mixed batches, refusals."""

import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from peterrec.tuners.config import TunerConfig
from peterrec.tuners.layer import BASE, RowNames, TunerLayer


class EncoderTuner(BaseTuner):
    """Base of our tuners. A subclass says which configuration it takes and wraps a module in `wrap`."""

    config_cls: type[TunerConfig]

    @abstractmethod
    def wrap(self, target: nn.Module, name: str, adapter_name: str, config: PeftConfig) -> TunerLayer:
        """The layer that takes the place of `target`, the module `name`; raises ValueError where it cannot be one."""

    def check_target(self, target: nn.Module, name: str, config: PeftConfig) -> None:
        """Raises ValueError where `target`, the module `name` before any wrapping, cannot take such an adapter.

        Called for all modules that a configuration names before the first of them is touched.
        """

    def _prepare_model(self, peft_config: PeftConfig, model: nn.Module) -> None:
        """Refuses what cannot be built while nothing has been changed yet."""
        assert isinstance(peft_config, TunerConfig)
        _check_blocks(peft_config, model)
        wrappers: list[str] = []  # modules that carry adapters, and now also the modules that will
        for key, module in model.named_modules():
            within = next((name for name in wrappers if key.startswith(f"{name}.")), None)
            name = key.replace(".base_layer", "")  # as the module was called before it was wrapped
            wrapped_itself = key.endswith(".base_layer")
            targeted = not wrapped_itself and bool(self._check_target_module_exists(peft_config, name))
            if targeted and within is not None:
                # peft would pass over it in silence
                raise ValueError(
                    f"{name} lies inside {within}, which is wrapped itself. Target either a module or what is inside "
                    "it, not both; adapters that target the two cannot be in one model."
                )
            saved = any(f".{name}".endswith(f".{own}") for own in peft_config.modules_to_save or ())
            if saved and within is not None and not wrapped_itself:
                raise ValueError(
                    f"modules_to_save names {name}, which lies inside {within}, and that carries an adapter: "
                    "it would not be found. Leave it out of modules_to_save."
                )
            if targeted:
                self.check_target(module.base_layer if isinstance(module, TunerLayer) else module, name, peft_config)
                if not isinstance(module, TunerLayer):
                    self._check_empty(module, name)
            if targeted or isinstance(module, TunerLayer):
                wrappers.append(key)

    def _check_empty(self, target: nn.Module, name: str) -> None:
        """Raises ValueError where an adapter of some kind is on the module, or inside it."""
        for key, module in target.named_modules():
            if not isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
                continue
            if not key:
                raise ValueError(f"{name} already carries an adapter of another kind, {type(module).__name__}.")
            raise ValueError(
                f"{name} cannot be wrapped: {name}.{key} inside it already is. Target either a module or what is "
                "inside it, not both; adapters that target the two cannot be in one model."
            )

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, TunerLayer) and isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config)
            return
        self._check_empty(target, current_key)
        layer = self.wrap(target, current_key, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft would copy `.weight` between the two, which a convolution or a unit does not have;
        # devices are the layer's own business.
        setattr(parent, child_name, new_module)

    def delete_adapter(self, adapter_name: str) -> None:
        """Takes an adapter out of the model, and wrappers away that hold no other.

        Where it was the only active one, the first of the others becomes active, with a warning. (peft leaves that
        choice to each layer, and layers that hold different adapters would choose differently.)
        """
        others = [name for name in self.peft_config if name != adapter_name]
        if others and self.active_adapters == [adapter_name]:
            warnings.warn(
                f"Adapter {adapter_name} was active which is now deleted. Setting active adapter to {others[0]}.",
                stacklevel=3,
            )
            self.set_adapter(others[0])
        active = [name for name in self.active_adapters if name != adapter_name]
        super().delete_adapter(adapter_name)
        self.active_adapter = active
        for parent in list(self.model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, TunerLayer) and not child._all_available_adapter_names():
                    setattr(parent, name, child.base_layer)

    @contextmanager
    def _enable_peft_forward_hooks(
        self, *_: Any, adapter_names: Sequence[str] | None = None, **__: Any
    ) -> Iterator[None]:
        """While it is open, every wrapped module is told which row belongs to which adapter."""
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError(
                "adapter_names is for evaluation: call model.eval() first, or train one adapter at a time."
            )
        unknown = sorted(set(adapter_names) - set(self.peft_config) - {BASE})
        if unknown:
            known = ", ".join([*self.peft_config, BASE])
            raise ValueError(f"There is no adapter {unknown[0]!r} in this model; it holds {known}.")

        rows = RowNames(adapter_names)

        def name_rows(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            if not isinstance(module, AuxiliaryTrainingWrapper):
                return args, {**kwargs, "adapter_names": rows}
            # peft's own wrappers look every name up
            held = module._get_available_adapters()
            return args, {**kwargs, "adapter_names": [name if name in held else BASE for name in rows.names]}

        handles = [
            module.register_forward_pre_hook(name_rows, with_kwargs=True)
            for module in self.modules()
            if isinstance(module, TunerLayer | AuxiliaryTrainingWrapper)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        super()._check_new_adapter_config(config)
        if not isinstance(config, self.config_cls):
            raise ValueError(f"Expected a {self.config_cls.__name__}, got {type(config).__name__}.")


def _check_blocks(config: TunerConfig, model: nn.Module) -> None:
    """Raises ValueError where `layers_to_transform` names a block that the model does not have."""
    if config.layers_to_transform is None:
        return
    wanted = config.layers_to_transform
    patterns = [config.layers_pattern] if isinstance(config.layers_pattern, str) else config.layers_pattern or []
    keys = [
        re.search(rf"(?:^|\.){re.escape(pattern)}\.(\d+)$", key)
        for pattern in patterns
        for key, _ in model.named_modules()
    ]
    indices = sorted({int(match[1]) for match in keys if match})
    for index in [wanted] if isinstance(wanted, int) else wanted:
        if indices and index not in indices:
            raise ValueError(
                f"layers_to_transform names block {index}, but this encoder has the blocks 0 to {indices[-1]}."
            )
