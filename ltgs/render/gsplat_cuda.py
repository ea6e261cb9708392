"""The gsplat backend for CUDA tensors; the only file that imports gsplat.

Where there is no CUDA device its arguments and shapes are tested with a stand-in for gsplat; where there is one, ``tests/gpu``
compares its images with the CPU backend (docs/benchmarks.md says on which card that was done). Only keyword arguments of
`rasterization` that gsplat 1.5.3 and 1.6 share are used; `spherical_harmonics` was read in 1.5.3 only.

Nothing here waits for the device. What is left is inside gsplat: it reads the number of (Gaussian, tile) pairs once per call.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ltgs.core.cameras import Cameras
from ltgs.core.gaussians import Gaussians
from ltgs.errors import MissingDependency
from ltgs.render.low_pass import LowPass
from ltgs.render.output import RenderOutput


def _gsplat() -> Any:
    try:
        import gsplat
    except ImportError as error:
        raise MissingDependency(
            f"rendering on CUDA needs gsplat, which cannot be imported ({error}). "
            "Install it with `pip install gsplat`, or move the tensors to the CPU."
        ) from error
    return gsplat


def gsplat_is_installed() -> bool:
    """Whether gsplat can be found; it is not imported."""
    return find_spec("gsplat") is not None


def _finite(gaussians: Gaussians) -> Tensor:
    """[N] bool: gsplat does not skip a Gaussian with a non-finite parameter, and one of them can spoil a whole image."""
    flat = torch.cat([t.detach().unsqueeze(-1).flatten(1) for t in gaussians.tensors().values()], 1)
    # Zero times what is not finite is NaN: fewer launches than isfinite() and all().
    return ((flat * 0).sum(1) == 0) & gaussians.quats.detach().any(-1)


def _neutral(gaussians: Gaussians, finite: Tensor) -> Gaussians:
    """The same with every Gaussian that is not finite made an empty one, which gsplat skips; its gradients are zero.

    Leaving them out would need their number on the host. The values are replaced before any function is applied to them,
    because the gradient of a NaN that is masked afterwards is NaN.
    """
    instead = {"means": 0.0, "quats": 1.0, "log_scales": 0.0, "opacity_logits": -float("inf"), "sh": 0.0}
    return Gaussians(**{
        name: torch.where(finite.view(-1, *[1] * (tensor.ndim - 1)), tensor, instead[name])
        for name, tensor in gaussians.tensors().items()
    })


def _colours(gsplat: Any, gaussians: Gaussians, cameras: Cameras, sh_degree: int) -> Tensor:
    """[C, N, 3] colour of every Gaussian as each camera sees it.

    gsplat would do the same, but with a matrix inverse that waits for the device to report singular matrices.
    """
    directions = gaussians.means[None] - cameras.centers[:, None]
    coefficients = gaussians.sh[None].expand(len(cameras), -1, -1, -1)
    return (gsplat.spherical_harmonics(sh_degree, directions, coefficients) + 0.5).clamp_min(0)


def _empty(gaussians: Gaussians, cameras: Cameras, features: Tensor | None) -> RenderOutput:
    shape = (len(cameras), cameras.height, cameras.width)
    new = gaussians.means.new_zeros
    image = None if features is None else new(*shape, features.shape[1])
    visible = torch.zeros(len(cameras), len(gaussians), dtype=torch.bool, device=gaussians.device)
    return RenderOutput(new(*shape, 3), new(*shape, 1), new(*shape, 1), image, "gsplat", visible)


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
    blur: LowPass,
) -> RenderOutput:
    """Render without background; arguments are validated by `ltgs.render.render`.

    Colours, depth and features are channels of one rasterisation. `num_dropped` is a tensor on the device.

    Raises:
        MissingDependency: gsplat cannot be imported.
    """
    gsplat = _gsplat()
    if len(gaussians) == 0 or len(cameras) == 0:
        return _empty(gaussians, cameras, features)
    finite = _finite(gaussians)
    kept = _neutral(gaussians, finite)
    channels = _colours(gsplat, kept, cameras, sh_degree)
    if features is not None:
        clean = torch.where(finite[:, None], features, 0.0)
        channels = torch.cat([channels, clean[None].expand(len(cameras), -1, -1)], -1)
    image, alpha, meta = gsplat.rasterization(
        means=kept.means, quats=kept.quats, scales=kept.scales, opacities=kept.opacities,
        colors=channels, sh_degree=None, viewmats=cameras.cam_from_world, Ks=cameras.K, width=cameras.width,
        height=cameras.height, near_plane=near, far_plane=far, packed=False, eps2d=blur.plain,
        render_mode="RGB+ED" if with_depth else "RGB", rasterize_mode="classic" if blur.fitted else "antialiased",
    )
    depth = torch.zeros_like(alpha)
    if with_depth:
        depth = torch.where(alpha > 0, image[..., -1:], depth)
    extra = None if features is None else image[..., 3 : 3 + features.shape[1]]
    visible = _reached(meta, len(cameras), len(gaussians), gaussians.device) & finite
    return RenderOutput(image[..., :3], alpha, depth, extra, "gsplat", visible, (~finite).sum())
