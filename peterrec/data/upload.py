"""From the host to a device without waiting for either."""

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`.

    To CUDA it goes by way of page-locked memory: only from there does a copy run beside what the host does next. Torch
    keeps that memory for the next one, and until the copy is made.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
