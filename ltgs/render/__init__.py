"""Differentiable rendering of Gaussians: one function, three interchangeable backends."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.native import KernelsUnavailable, kernels
from ltgs.render.gsplat_cuda import gsplat_is_installed
from ltgs.render.low_pass import low_pass
from ltgs.render.output import RenderOutput
from ltgs.render.queries import gaussian_weights, top_contributors

__all__ = ["RenderOutput", "choose_backend", "gaussian_weights", "gsplat_is_installed", "render", "top_contributors"]

BACKENDS = ("auto", "cpu", "reference", "gsplat")


def choose_backend(device: torch.device | str, requested: str = "auto") -> tuple[str, str]:
    """Decide which renderer serves tensors on `device`.

    Returns:
        The backend's name and the reason, worth logging: it says so when the slow reference has to stand in.

    Raises:
        ValueError: unknown name, or the requested backend cannot serve that device.
    """
    kind = torch.device(device).type
    if requested not in BACKENDS:
        raise ValueError(f"unknown backend {requested!r}; choose one of {', '.join(BACKENDS)}.")
    if requested == "reference":
        return "reference", "requested; plain torch, hundreds of times slower than the native kernels"
    if requested == "gsplat" or (requested == "auto" and kind == "cuda"):
        if kind != "cuda":
            raise ValueError(f"backend='gsplat' needs tensors on a CUDA device, got {kind}.")
        if not torch.cuda.is_available():
            raise ValueError("backend='gsplat' needs a CUDA device, and torch sees none.")
        return "gsplat", "tensors are on a CUDA device"
    if requested == "cpu" and kind != "cpu":
        raise ValueError(f"backend='cpu' needs tensors on the CPU, got {kind}.")
    if kind != "cpu":
        return "reference", f"no fast renderer for {kind} tensors: using the plain torch reference, which is very slow"
    try:
        return "cpu", f"native kernels ({kernels().isa})"
    except KernelsUnavailable as error:
        if requested == "cpu":
            raise ValueError(f"backend='cpu' is not usable: {error}") from error
        return "reference", f"SLOW plain torch reference (hundreds of times slower), because {error}"


def _check_arguments(
    gaussians: Gaussians, cameras: Cameras, features: Tensor | None, background: Tensor | None, sh_degree: int | None,
    near: float, far: float, region: Tensor | None,
) -> int:
    """Validate what the dataclasses do not; returns the SH degree to use."""
    count = len(gaussians)
    if features is not None and (features.ndim != 2 or features.shape[0] != count):
        raise ValueError(f"features must have shape [{count}, D], got {list(features.shape)}.")
    if background is not None and tuple(background.shape) not in ((3,), (len(cameras), 3)):
        raise ValueError(f"background must have shape [3] or [{len(cameras)}, 3], got {list(background.shape)}.")
    if not 0 < near < far:
        raise ValueError(f"need 0 < near < far, got near={near}, far={far}.")
    if sh_degree is not None and not 0 <= sh_degree <= 3:
        raise ValueError(f"sh_degree must be 0..3, got {sh_degree}.")
    size = (cameras.height, cameras.width)
    if region is not None and (region.dtype != torch.bool or tuple(region.shape) not in (size, (len(cameras), *size))):
        raise ValueError(
            f"region must be bool of shape {list(size)} or {[len(cameras), *size]}, got {region.dtype} {list(region.shape)}."
        )
    if gaussians.device.type != "cpu":
        return gaussians.sh_degree if sh_degree is None else min(sh_degree, gaussians.sh_degree)  # looking at values would wait
    for name, value in (("features", features), ("background", background)):
        if value is not None and not bool(value.detach().isfinite().all()):
            raise ValueError(f"{name} contains a value that is not finite.")
    # Few numbers: Python checks them in a tenth of the time of a handful of tensor operations.
    for name, value in (("K", cameras.K), ("cam_from_world", cameras.cam_from_world)):
        if not all(map(isfinite, value.detach().flatten().tolist())):
            raise ValueError(f"{name} contains a value that is not finite.")
    if any(K[0][0] <= 0 or K[1][1] <= 0 or abs(K[0][1]) > 1e-6 * K[0][0] for K in cameras.K.detach().tolist()):
        raise ValueError("K must have positive focal lengths and no skew.")
    return gaussians.sh_degree if sh_degree is None else min(sh_degree, gaussians.sh_degree)


def _inside(out: RenderOutput, region: Tensor | None) -> RenderOutput:
    """Empty the pixels outside the region [C, H, W], for backends that render them all the same."""
    if region is None:
        return out
    images = {"rgb": out.rgb, "alpha": out.alpha, "depth": out.depth}
    if out.features is not None:
        images["features"] = out.features
    emptied: dict[str, Any] = {k: torch.where(region[..., None], v, torch.zeros_like(v)) for k, v in images.items()}
    return replace(out, **emptied)


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    backend: Literal["auto", "cpu", "reference", "gsplat"] = "auto",
    features: Tensor | None = None,  # [N, D]
    background: Tensor | None = None,  # [3] or [C, 3]
    sh_degree: int | None = None,
    near: float = 0.01,
    far: float = 1e10,
    with_depth: bool = True,
    antialiased: bool = False,
    region: Tensor | None = None,  # [H, W] or [C, H, W] bool
) -> RenderOutput:
    """Render Gaussians with every camera.

    Args:
        gaussians: N Gaussians; may require gradients, as may `cameras.cam_from_world` and `features`.
        cameras: C cameras of one size.
        backend: "auto" picks the native kernels on the CPU and gsplat on CUDA (see `choose_backend`).
        features: extra channels, composited like colour but without background.
        background: colour behind everything; None = black.
        sh_degree: use only the bands up to this one; None = all stored.
        near, far: Gaussians whose centre is nearer or farther (z, scene units) are skipped.
        with_depth: False leaves `depth` zero and saves its cost.
        antialiased: lower the opacity of splats smaller than the pixel blur (gsplat's "antialiased" mode).
        region: pixels wanted; the others are empty (alpha 0, so they show the background) and pass no gradient. With the
            native kernels, tiles of 16x16 pixels without a wanted one cost nothing after the projection.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, naming the argument.

    Convention: as gsplat 1.5.3: blur of 0.3 px^2 (with a camera's `sampling` other than 1 see `low_pass`), contributions below
    1/255 skipped, alpha at most 0.999, a pixel stops at transmittance 1e-4. The camera centre behind the view direction is
    -R^T t, so the gradient of `cam_from_world` is that of its entries taken as independent numbers.
    """
    degree = _check_arguments(gaussians, cameras, features, background, sh_degree, near, far, region)
    name, _ = choose_backend(gaussians.device, backend)
    if backend == "auto" and name == "cpu" and gaussians.means.dtype != torch.float32:
        name = "reference"
    if region is not None:
        region = region.expand(len(cameras), cameras.height, cameras.width)
    options: dict[str, Any] = {
        "features": features, "sh_degree": degree, "near": near, "far": far, "with_depth": with_depth,
        "blur": low_pass(cameras.sampling, antialiased=antialiased),
    }
    if name == "cpu":
        from ltgs.render.cpu import render_cpu

        out = render_cpu(gaussians, cameras, region=region, **options)
    elif name == "reference":
        from ltgs.render.reference import render_reference

        out = _inside(render_reference(gaussians, cameras, **options), region)
    else:
        from ltgs.render.gsplat_cuda import render_gsplat

        out = _inside(render_gsplat(gaussians, cameras, **options), region)
    if background is None:
        return out
    behind = background.to(out.rgb).reshape(-1, 1, 1, 3)
    return replace(out, rgb=out.rgb + (1 - out.alpha) * behind)
