"""What peft drives for a tuner of ours: wrapping, mixed batches, refusals."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from peterrec.tuners.layer import BASE, TunerLayer


class EncoderTuner(BaseTuner):
    """Base of our tuners. A subclass says which configuration it takes and wraps a module in `wrap`."""

    config_cls: type[PeftConfig]

    @abstractmethod
    def wrap(self, target: nn.Module, name: str, adapter_name: str, config: PeftConfig) -> TunerLayer:
        """The layer that takes the place of `target`, the module `name`; raises ValueError where it cannot be one."""

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
        if isinstance(target, BaseTunerLayer):
            raise ValueError(f"{current_key} already carries an adapter of another kind, {type(target).__name__}.")
        nested = next((name for name, module in target.named_modules() if isinstance(module, BaseTunerLayer)), None)
        if nested is not None:
            raise ValueError(
                f"{current_key} cannot be wrapped: {current_key}.{nested} inside it already is. Target either a module "
                "or what is inside it, not both."
            )
        layer = self.wrap(target, current_key, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft would copy `.weight` between the two, which a convolution or a unit does not have;
        # devices are the layer's own business.
        setattr(parent, child_name, new_module)

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

        def name_rows(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            return args, {**kwargs, "adapter_names": adapter_names}

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
