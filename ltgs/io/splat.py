"""The 32-byte .splat format of antimatter15's viewer: position, size, 8-bit colour and rotation, no view dependence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ltgs.core.gaussians import Gaussians
from ltgs.core.sh import rgb_to_dc
from ltgs.errors import FormatError
from ltgs.io.atomic import explained, write_file

_ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def write_splat(path: Path | str, gaussians: Gaussians) -> None:
    """Write Gaussians, the most visible (opacity times volume) first, as viewers expect that load while drawing.

    Raises:
        InputError: the file cannot be written.
    """
    path, g = Path(path), gaussians.detach().to("cpu")
    importance = g.log_scales.double().sum(1) + torch.nn.functional.logsigmoid(g.opacity_logits.double())
    g = g[torch.argsort(-importance, stable=True)]
    rows = np.zeros(len(g), dtype=_ROW)
    rows["position"], rows["scale"] = g.means.numpy(), g.scales.numpy()
    rgba = torch.cat([g.base_rgb, g.opacities[:, None]], dim=1)
    rows["rgba"] = (rgba.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    quats = g.quats / g.quats.norm(dim=1, keepdim=True).clamp_min(1e-12)
    rows["rotation"] = (quats * 128 + 128).round().clamp(0, 255).to(torch.uint8).numpy()
    with explained("write", path, rows.nbytes):
        write_file(path, rows.tobytes())


def read_splat(path: Path | str) -> Gaussians:
    """Read a .splat file as degree-0 Gaussians, in file order.

    Raises:
        FormatError: the length is no multiple of 32 bytes, or numbers are not finite or sizes not positive.
        InputError: the file cannot be read.
    """
    path = Path(path)
    with explained("read", path):
        data = path.read_bytes()
    if len(data) % _ROW.itemsize:
        raise FormatError(f"{path}: {len(data)} bytes are no multiple of 32. The file is truncated or no .splat file.")
    rows = np.frombuffer(data, dtype=_ROW)
    if not (np.isfinite(rows["position"]).all() and np.isfinite(rows["scale"]).all() and (rows["scale"] > 0).all()):
        raise FormatError(f"{path}: positions or sizes are not usable numbers. Export the scene again.")
    rgba = torch.from_numpy(rows["rgba"].astype(np.float32)) / 255
    return Gaussians(
        means=torch.from_numpy(rows["position"].copy()),
        quats=(torch.from_numpy(rows["rotation"].astype(np.float32)) - 128) / 128,
        log_scales=torch.from_numpy(rows["scale"].copy()).log(),
        # An 8-bit opacity of 0 or 1 has no finite logit; a quarter of a step inside is as near as it can be known.
        opacity_logits=torch.logit(rgba[:, 3].clamp(0.25 / 255, 1 - 0.25 / 255)),
        sh=rgb_to_dc(rgba[:, None, :3]),
    )
