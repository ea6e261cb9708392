"""Where training runs, and how photos get there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ltgs.core.cameras import Cameras, stack_cameras
from ltgs.errors import UsageError
from ltgs.optim.initialize import TrainingPhoto
from ltgs.render import gsplat_is_installed

DEVICES = ("auto", "cpu", "cuda")


def training_device(requested: str = "auto", backend: str = "auto") -> tuple[torch.device, str]:
    """The device of a training run and the reason for it.

    Args:
        requested: "auto" (CUDA where torch sees a device, gsplat is installed and the rasteriser is free to choose), "cpu" or
            "cuda" (the current CUDA device).
        backend: rasteriser asked for, as for `ltgs.render.render`.

    Raises:
        UsageError: unknown name, a device that is not usable here, or one that the rasteriser cannot serve.
    """
    if requested not in DEVICES:
        raise UsageError(f"train.device must be one of {', '.join(DEVICES)}, got {requested!r}.")
    if (requested, backend) in (("cpu", "gsplat"), ("cuda", "cpu")):
        raise UsageError(f"train.device={requested} and the rasteriser {backend!r} contradict each other; leave one of them at auto.")
    lacking = ""
    if not torch.cuda.is_available():
        lacking = "torch sees no CUDA device"
    elif backend != "reference" and not gsplat_is_installed():
        lacking = "gsplat is not installed (pip install gsplat)"
    if (requested == "cuda" or backend == "gsplat") and lacking:
        raise UsageError(f"Training on CUDA was asked for, but {lacking}. Leave train.device and --backend at auto.")
    if requested == "cuda" or backend == "gsplat":
        return torch.device("cuda"), "requested"
    if requested == "cpu" or backend != "auto":
        return torch.device("cpu"), "requested"
    return (torch.device("cpu"), lacking) if lacking else (torch.device("cuda"), "torch sees a CUDA device")


def training_view(
    photo: TrainingPhoto, divisor: int = 1, device: torch.device | str = "cpu"
) -> tuple[Cameras, Tensor, Tensor | None]:
    """Camera [1], uint8 target [H, W, 3] and optional weight [H, W] of a photo, reduced by an integer divisor, on a device."""
    rgb, weight, camera = photo.rgb, photo.weight, photo.camera
    if divisor > 1:
        import cv2

        size = (max(1, rgb.shape[1] // divisor), max(1, rgb.shape[0] // divisor))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
        if weight is not None:
            weight = np.asarray(cv2.resize(weight, size, interpolation=cv2.INTER_AREA), np.float32)
        # The filter stays as it is: with one for the reduced size the objects of `desk` came out 0.4 dB worse in the end.
        camera = replace(camera.resized(*size), sampling=camera.sampling)
    target = moved(torch.from_numpy(rgb.copy()), device)
    return stack_cameras([camera]).to(device), target, None if weight is None else moved(torch.from_numpy(weight.copy()), device)


def moved(host: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on a device; to CUDA from pinned memory, so that the copy overlaps with what runs there."""
    if torch.device(device).type == "cuda":
        return host.pin_memory().to(device, non_blocking=True)
    return host.to(device)
