"""Stereo samples from scenes: two images, exact disparity, occlusion, and a simulated prior."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ltgs.depth.synth.draw import Draw
from ltgs.depth.synth.faulty_prior import PriorFaults, faulty_prior
from ltgs.depth.synth.photometric import CameraLook, develop, random_looks
from ltgs.depth.synth.raycast import cast, first_distance, pixel_rays
from ltgs.depth.synth.scene import Rig, Scene, random_rig, random_scene
from ltgs.depth.synth.shading import trace


@dataclass(frozen=True)
class SynthConfig:
    """What samples look like."""

    width: int = 448
    height: int = 256
    objects: tuple[int, int] = (5, 31)
    """Number of things: from the first up to, not including, the second."""
    supersample: int = 2
    """Rays per pixel along each side."""
    photometric: bool = True
    """Different cameras: exposure, gamma, vignette, blur, noise."""
    row_jitter: float = 1.0
    """Largest vertical misalignment of the right image, pixels; half of the samples have none."""
    faults: PriorFaults = field(default_factory=PriorFaults)


@dataclass(frozen=True)
class SynthSample:
    """One pair."""

    left: Tensor
    """[3, H, W] whole numbers 0..255, float32."""
    right: Tensor
    disparity: Tensor
    """[1, H, W] pixels at pixel centres of the left view; of the front surface for glass and mirrors."""
    occluded: Tensor
    """[1, H, W] bool: the right camera does not see the left pixel's point."""
    prior: Tensor
    """[1, H, W] simulated relative inverse depth."""
    index: Tensor
    """[H, W] primitive at each left pixel."""


def make_sample(config: SynthConfig, *seed: int, device: torch.device | str = "cpu") -> SynthSample:
    """A random sample; equal seeds give equal samples on one device."""
    draw = Draw(*seed)
    rig, near, far = random_rig(draw, config.width, config.height)
    scene = random_scene(draw, rig, near, far, objects=config.objects)
    looks = random_looks(draw) if config.photometric else (CameraLook(), CameraLook())
    jitter = config.row_jitter * draw.uniform(-1, 1) * draw.chance(0.5)
    return render_sample(scene.to(device), rig, draw, looks, row_jitter=jitter, supersample=config.supersample, faults=config.faults)


@torch.no_grad()
def render_sample(
    scene: Scene, rig: Rig, draw: Draw, looks: tuple[CameraLook, CameraLook], *, row_jitter: float = 0.0, supersample: int = 2,
    faults: PriorFaults | None = None,
) -> SynthSample:
    """Render a scene with a rig.

    Args:
        row_jitter: the right image shows rows that lie this many pixels lower.
    """
    device = scene.center.device
    left = render_view(scene, rig, 0.0, 0.0, supersample)
    right = render_view(scene, rig, rig.baseline, row_jitter, supersample)
    origin = torch.zeros(3, device=device)
    rays = pixel_rays(rig, *_grid(rig, 1, device)).view(-1, 3)
    hits = cast(scene, origin.expand_as(rays), rays)
    shape = (rig.height, rig.width)
    depth, index = hits.t.view(shape), hits.index.view(shape)
    disparity = rig.disparity(depth)
    occluded = occlusion(scene, rig, hits.point).view(shape)
    without_thin = cast(scene, origin.expand_as(rays), rays, only=~scene.thin).t.view(shape) if bool(scene.thin.any()) else depth
    prior = faulty_prior(depth, without_thin, index, draw, faults or PriorFaults())
    return SynthSample(
        develop(left, looks[0], draw), develop(right, looks[1], draw), disparity[None], occluded[None], prior, index,
    )


def render_view(scene: Scene, rig: Rig, x: float, row_shift: float, supersample: int) -> Tensor:
    """Linear RGB [H, W, 3] of a camera at (x, 0, 0), averaged over supersample^2 rays per pixel."""
    device = scene.center.device
    u, v = _grid(rig, supersample, device)
    rays = pixel_rays(rig, u, v + row_shift).view(-1, 3)
    color, _ = trace(scene, torch.tensor([x, 0.0, 0.0], device=device).expand_as(rays), rays)
    return color.view(rig.height, supersample, rig.width, supersample, 3).mean((1, 3))


def occlusion(scene: Scene, rig: Rig, points: Tensor) -> Tensor:
    """[R] bool: points that the right camera does not see, because something is in front or they lie outside of its image."""
    eye = torch.tensor([rig.baseline, 0.0, 0.0], device=points.device)
    direction = points - eye
    u = rig.focal * direction[:, 0] / direction[:, 2] + rig.width / 2
    # The point itself is at t = 1; a thousandth covers rounding.
    hidden = first_distance(scene, eye.expand_as(points), direction) < 1 - 1e-3
    return hidden | (u < 0) | (u > rig.width)


def _grid(rig: Rig, supersample: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of all rays, [H s, W s] each, pixels."""
    v = (torch.arange(rig.height * supersample, device=device) + 0.5) / supersample
    u = (torch.arange(rig.width * supersample, device=device) + 0.5) / supersample
    grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
    return grid_u, grid_v
