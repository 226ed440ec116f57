"""Where and how precisely a training computes."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from peterrec.errors import SettingsError
from peterrec.training.launcher import processes_here
from peterrec.training.processes import Processes
from peterrec.training.settings import TrainingSettings


def open_accelerator(settings: TrainingSettings, *, processes: Processes) -> Accelerator:
    """The device and precision asked for; `SettingsError` if the device is not there.

    Of several processes on a machine each has a CUDA device of its own, or all compute on the CPU.
    """
    there = {"auto": True, "cpu": True, "cuda": torch.cuda.is_available()}
    there["mps"] = torch.backends.mps.is_available()
    if not there[settings.device]:
        raise SettingsError(
            f"device={settings.device}, but torch sees no such device here; use device=auto or device=cpu."
        )
    # accelerate keeps its choices for the whole process, and refuses others for a second training in it
    AcceleratorState._reset_state(reset_partial_state=True)
    cpu = settings.device == "cpu"
    if processes.count > 1:
        cpu = _share_cpu(settings)
    precise = settings.precision == "fp32" or (
        settings.precision == "auto" and (cpu or not there["cuda"] or not torch.cuda.is_bf16_supported())
    )
    return Accelerator(cpu=cpu, mixed_precision="no" if precise else "bf16")


def _share_cpu(settings: TrainingSettings) -> bool:
    """Whether several processes compute on the CPU; `SettingsError` where they would have to share another device."""
    if settings.device == "mps":
        raise SettingsError("device=mps serves one process; use device=cpu, or start the command without a launcher.")
    if not torch.cuda.is_available() or settings.device == "cpu":
        return True
    here = processes_here()
    if here > torch.cuda.device_count():
        raise SettingsError(
            f"{here} processes on this machine, but torch sees {torch.cuda.device_count()} CUDA device(s); start one "
            "process a device (--nproc-per-node), or use device=cpu."
        )
    return False
