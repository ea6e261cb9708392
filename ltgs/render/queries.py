"""Which Gaussians a picture is made of, without rendering it: weights per Gaussian and the strongest one per pixel.

The weight of a Gaussian in a pixel is T alpha, the factor of its colour there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.native import KernelsUnavailable, kernels
from ltgs.render.low_pass import LowPass, low_pass
from ltgs.render.reference import View, view_of


def _native(gaussians: Gaussians) -> bool:
    if gaussians.device.type != "cpu" or gaussians.means.dtype != torch.float32:
        return False
    try:
        kernels()
    except KernelsUnavailable:
        return False
    return True


def _session(gaussians: Gaussians, cameras: Cameras, index: int, near: float, far: float, blur: LowPass) -> Any:
    """The kernels' tile lists of one camera."""
    tensors = [t.detach().contiguous() for t in gaussians.tensors().values()]
    K, pose = (t[index].detach().float().contiguous() for t in (cameras.K, cameras.cam_from_world))
    visible = torch.empty(len(gaussians), dtype=torch.uint8)
    return kernels().forward(
        *tensors, K, pose, cameras.width, cameras.height, 0, near, far, blur.total, blur.fitted, None, None, None, None, None, None,
        visible, torch.get_num_threads(),
    )


def _view(gaussians: Gaussians, cameras: Cameras, index: int, near: float, far: float, blur: LowPass) -> View:
    return view_of(gaussians, cameras, index, sh_degree=0, near=near, far=far, blur=blur)


@torch.no_grad()
def gaussian_weights(
    gaussians: Gaussians,
    cameras: Cameras,
    pixel_values: Tensor | None = None,
    *,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = False,
) -> Tensor:
    """Sum over all pixels of all cameras of a Gaussian's weight times the pixel's value: [N, D].

    Args:
        gaussians: N Gaussians.
        cameras: C cameras of one size.
        pixel_values: [C, H, W, D]; None = 1 everywhere, D = 1.
        near, far, antialiased: as in `ltgs.render.render`.

    Convention: no gradient. On CPU float32 tensors the native kernels do it in one pass without colours (about the time of
    a forward pass); elsewhere plain torch does, slowly.

    Raises:
        ValueError: `pixel_values` does not fit the cameras.
    """
    size = (len(cameras), cameras.height, cameras.width)
    values = gaussians.means.new_ones(*size, 1) if pixel_values is None else pixel_values.detach().to(gaussians.means)
    if values.ndim != 4 or tuple(values.shape[:3]) != size:
        raise ValueError(f"pixel_values must have shape {[*size]} + [D], got {list(values.shape)}.")
    total = gaussians.means.new_zeros(len(gaussians), values.shape[3])
    native, blur = _native(gaussians), low_pass(cameras.sampling, antialiased=antialiased)
    for c in range(len(cameras)):
        if native:
            _session(gaussians, cameras, c, near, far, blur).weight_sums(values[c].contiguous(), total, torch.get_num_threads())
            continue
        view, flat, at = _view(gaussians, cameras, c, near, far, blur), values[c].flatten(0, 1), 0
        for weights, _, _ in view.weights() if len(view.index) else ():
            total[view.index] += weights.T @ flat[at : at + len(weights)]
            at += len(weights)
    return total


@torch.no_grad()
def top_contributors(
    gaussians: Gaussians, cameras: Cameras, *, near: float = 0.01, far: float = 1e10, antialiased: bool = False
) -> tuple[Tensor, Tensor]:
    """The Gaussian with the largest weight in every pixel: its number [C, H, W] int32, -1 where there is none, and that
    weight [C, H, W].

    Convention: of equal weights the nearer Gaussian wins; no gradient. Native kernels on CPU float32 tensors, plain torch
    elsewhere.
    """
    size = (len(cameras), cameras.height, cameras.width)
    ids = torch.full(size, -1, dtype=torch.int32, device=gaussians.device)
    largest = gaussians.means.new_zeros(size)
    native, blur = _native(gaussians), low_pass(cameras.sampling, antialiased=antialiased)
    for c in range(len(cameras)):
        if native:
            _session(gaussians, cameras, c, near, far, blur).top_contributors(ids[c], largest[c], torch.get_num_threads())
            continue
        view, at = _view(gaussians, cameras, c, near, far, blur), 0
        for weights, _, _ in view.weights() if len(view.index) else ():
            best, where = weights.max(1)
            part = slice(at, at + len(weights))
            largest[c].view(-1)[part] = best
            ids[c].view(-1)[part] = torch.where(best > 0, view.index[where].to(torch.int32), ids.new_full((), -1))
            at += len(weights)
    return ids, largest
