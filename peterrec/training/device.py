"""Where and how precisely a training computes."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from peterrec.errors import SettingsError
from peterrec.training.settings import TrainingSettings


def open_accelerator(settings: TrainingSettings) -> Accelerator:
    """The device and precision asked for; `SettingsError` if the device is not there."""
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available()}
    there["mps"] = torch.backends.mps.is_available()
    if not there[settings.device]:
        raise SettingsError(
            f"device={settings.device}, but torch sees no such device here; use device=auto or device=cpu."
        )
    # accelerate keeps its choices for the whole process, and refuses others for a second training in it
    AcceleratorState._reset_state(reset_partial_state=True)
    cpu = settings.device == "cpu"
    precise = settings.precision == "fp32" or (
        settings.precision == "auto" and (cpu or not there["cuda"] or not torch.cuda.is_bf16_supported())
    )
    return Accelerator(cpu=cpu, mixed_precision="no" if precise else "bf16")
