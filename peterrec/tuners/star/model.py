"""Gives the linear maps and norms of an encoder weights a domain, and takes them away again."""

import copy
from collections.abc import Sequence
from typing import Any

from peft import PeftConfig
from torch import nn

from peterrec.tuners.model import EncoderTuner
from peterrec.tuners.star.batch_norm import StarBatchNorm
from peterrec.tuners.star.config import NAME, StarConfig
from peterrec.tuners.star.domain_layer import DomainLayer
from peterrec.tuners.star.layer import StarLayer
from peterrec.tuners.star.norm import StarNorm


class StarModel(EncoderTuner):
    """The tuner that peft drives for a `StarConfig`."""

    prefix = f"{NAME}_"
    tuner_layer_cls = DomainLayer
    config_cls = StarConfig

    def check_target(self, target: nn.Module, name: str, config: PeftConfig) -> None:
        if isinstance(target, nn.LayerNorm):
            if len(target.normalized_shape) != 1:
                raise ValueError(f"{name} normalises {len(target.normalized_shape)} axes; star takes norms over one.")
        elif isinstance(target, nn.BatchNorm1d):
            if target.running_mean is None:
                raise ValueError(f"{name} keeps no running statistics, which domains would start from.")
        elif not isinstance(target, nn.Linear):
            raise ValueError(f"Star goes on linear maps, layer and batch norms, but {name} is {type(target).__name__}.")

    def wrap(self, target: nn.Module, name: str, adapter_name: str, config: PeftConfig) -> DomainLayer:
        self.check_target(target, name, config)
        assert isinstance(config, StarConfig)
        if isinstance(target, nn.Linear):
            return StarLayer(target, adapter_name, config)
        if isinstance(target, nn.BatchNorm1d):
            return StarBatchNorm(target, adapter_name, config)
        assert isinstance(target, nn.LayerNorm)
        return StarNorm(target, adapter_name, config)

    def export_domain(self, domain: int, *, adapter_name: str | None = None) -> nn.Module:
        """A copy of the encoder with the weights of one domain in place of the shared ones; the model stays as it is.

        `adapter_name`: by default all that are active. Raises ValueError where it has no such domain.
        """
        names = self.active_adapters if adapter_name is None else [adapter_name]
        for name in names:
            config = self.peft_config.get(name)
            if not isinstance(config, StarConfig):
                raise ValueError(f"There is no adapter {name!r} in this model; it holds {', '.join(self.peft_config)}.")
            if isinstance(domain, bool) or not isinstance(domain, int) or not 0 <= domain < config.num_domains:
                raise ValueError(
                    f"Adapter {name!r} has the domains 0 to {config.num_domains - 1}, got {domain!r}. "
                    "unload() gives the encoder that unknown domains see."
                )
        copied = copy.deepcopy(self)
        for layer in copied._layers():
            layer.unmerge()
            layer.fold([name for name in names if layer.holds(name)], domain=domain)
        EncoderTuner._unload_and_optionally_merge(copied, merge=True, adapter_names=list(names))
        return copied.model

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Folds adapters of one domain into the frozen weights until `unmerge_adapter`.

        Raises ValueError, before anything has changed, for several domains, or where a norm has no weights of its own.
        """
        self._check_mergeable(adapter_names, safe_merge=safe_merge)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            self._check_mergeable(adapter_names, safe_merge=safe_merge)
        else:
            for layer in self._layers():
                layer.unmerge()  # unload gives the frozen encoder back
        return super()._unload_and_optionally_merge(
            merge=merge, progressbar=progressbar, safe_merge=safe_merge, adapter_names=adapter_names
        )

    def _check_mergeable(self, adapter_names: Sequence[str] | None, *, safe_merge: bool) -> None:
        for layer in self._layers():
            names = layer.mergeable(adapter_names)
            if names:
                layer.folded(names, domain=0, check=safe_merge)

    def _layers(self) -> list[DomainLayer]:
        return [module for module in self.model.modules() if isinstance(module, DomainLayer)]
