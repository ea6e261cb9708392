"""The gsplat backend for CUDA tensors; the only file that imports gsplat.

It could not be run on the machine it was written on, which has no GPU: there its arguments and shapes are tested with a
stand-in for gsplat, and ``tests/gpu`` compares its images with the CPU backend wherever a CUDA device exists. Only keyword
arguments that gsplat 1.5.3 and 1.6 share are used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.errors import MissingDependency
from ltgs.render.output import RenderOutput
from ltgs.render.reference import BLUR


def _gsplat() -> Any:
    try:
        import gsplat
    except ImportError as error:
        raise MissingDependency(
            f"rendering on CUDA needs gsplat, which cannot be imported ({error}). "
            "Install it with `pip install gsplat`, or move the tensors to the CPU."
        ) from error
    return gsplat


def _finite(gaussians: Gaussians) -> Tensor:
    """[N] bool: gsplat does not skip a Gaussian with a non-finite parameter, and one of them can spoil a whole image."""
    flat = torch.cat([t.detach().unsqueeze(-1).flatten(1) for t in gaussians.tensors().values()], 1)
    return flat.isfinite().all(1) & (gaussians.quats.detach().norm(dim=-1) > 0)


def _empty(gaussians: Gaussians, cameras: Cameras, features: Tensor | None, dropped: int) -> RenderOutput:
    shape = (len(cameras), cameras.height, cameras.width)
    new = gaussians.means.new_zeros
    image = None if features is None else new(*shape, features.shape[1])
    visible = torch.zeros(len(cameras), len(gaussians), dtype=torch.bool, device=gaussians.device)
    return RenderOutput(new(*shape, 3), new(*shape, 1), new(*shape, 1), image, "gsplat", visible, dropped)


def _reached(meta: dict[str, Any], num_cameras: int, count: int, device: torch.device) -> Tensor:
    """[C, count] bool from gsplat's radii: [C, N] in early versions, [C, N, 2] since the radius differs in x and y."""
    radii = meta.get("radii")
    if radii is None:
        return torch.ones(num_cameras, count, dtype=torch.bool, device=device)
    return radii > 0 if radii.ndim == 2 else (radii > 0).all(-1)


def render_gsplat(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    features: Tensor | None,
    sh_degree: int,
    near: float,
    far: float,
    with_depth: bool,
    antialiased: bool,
) -> RenderOutput:
    """Render without background; arguments are validated by `ltgs.render.render`.

    Raises:
        MissingDependency: gsplat cannot be imported.

    Convention: features are rendered by a second call without spherical harmonics, so they cost a second rasterisation.
    """
    gsplat = _gsplat()
    finite = _finite(gaussians)
    kept, dropped = gaussians, int((~finite).sum())
    if dropped:
        kept = Gaussians(**{name: tensor[finite] for name, tensor in gaussians.tensors().items()})
    if len(kept) == 0 or len(cameras) == 0:
        return _empty(gaussians, cameras, features, dropped)
    common = {
        "means": kept.means, "quats": torch.nn.functional.normalize(kept.quats, dim=-1), "scales": kept.scales,
        "opacities": kept.opacities, "viewmats": cameras.cam_from_world, "Ks": cameras.K, "width": cameras.width,
        "height": cameras.height, "near_plane": near, "far_plane": far, "packed": False, "eps2d": BLUR,
        "rasterize_mode": "antialiased" if antialiased else "classic",
    }  # fmt: skip
    image, alpha, meta = gsplat.rasterization(
        colors=kept.sh, sh_degree=sh_degree, render_mode="RGB+ED" if with_depth else "RGB", **common
    )
    depth = torch.zeros_like(alpha)
    if with_depth:
        depth = torch.where(alpha > 0, image[..., 3:4], depth)
    extra = None
    if features is not None:
        extra = image.new_zeros(*image.shape[:3], 0)
        if features.shape[1]:
            colors = features[finite] if dropped else features
            extra = gsplat.rasterization(colors=colors, sh_degree=None, render_mode="RGB", **common)[0]
    visible = torch.zeros(len(cameras), len(gaussians), dtype=torch.bool, device=gaussians.device)
    visible[:, finite] = _reached(meta, len(cameras), len(kept), gaussians.device)
    stats = {"num_visible": int(visible.sum())}
    return RenderOutput(image[..., :3], alpha, depth, extra, "gsplat", visible, dropped, stats)
