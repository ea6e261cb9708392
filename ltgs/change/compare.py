"""Put captures next to renders of a scene: light, cues, score and mask for every photo of a visit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.change.earlier import EarlierConfig, Witness, cap_by_light, cap_cues
from ltgs.change.evidence import EvidenceConfig, PhotoNoise, agreement, change_mask, change_score, photo_noise, smoothing_px
from ltgs.change.harmonise import ColourFit, HarmoniseConfig, fit_colour
from ltgs.change.shade import ShadeConfig
from ltgs.core.cameras import Camera, stack_cameras
from ltgs.core.gaussians import Gaussians
from ltgs.core.parallel import in_parallel
from ltgs.core.views import ComparedView
from ltgs.imaging.boxes import Box, bounding_box, grown
from ltgs.imaging.cues import residual_cues
from ltgs.imaging.ssim import WINDOW
from ltgs.render import render

Image = NDArray[np.float32]


@dataclass(frozen=True)
class CompareConfig:
    """Comparison of captures and renders."""

    harmonise: HarmoniseConfig = field(default_factory=HarmoniseConfig)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    earlier: EarlierConfig = field(default_factory=EarlierConfig)
    shade: ShadeConfig = field(default_factory=ShadeConfig)
    light_rounds: int = 2
    """Fits of the light; from the second on, pixels found changed are left out."""


@dataclass(frozen=True)
class Shot:
    """One localised photo of the visit."""

    camera: Camera
    photo: NDArray[np.float32]
    """[H, W, 3] in [0, 1]"""


@dataclass(frozen=True)
class Ground:
    """What every hypothesis about one photo is judged on."""

    fit: ColourFit
    """The light."""
    witness: Witness | None = None
    """What the first visit's photos say, and another light; where they agree with the photo it shows no change."""
    noise: tuple[PhotoNoise, PhotoNoise] | None = None
    """The photo's own noise over what is expected, and over a perfect scene; None = fitted at the next comparison."""


def render_state(
    gaussians: Gaussians, expected: Tensor, camera: Camera, *, region: Tensor | None = None, backend: str = "auto"
) -> tuple[Image, Image, Image, Image]:
    """Render colour, alpha, depth and the expected residual statistics (`expected` [N, 4]: means, variances) at a camera.

    Args:
        region: [H, W] bool, the pixels wanted; the others are empty.
    """
    with torch.no_grad():
        out = render(gaussians, stack_cameras([camera]), backend=backend, features=expected, region=region)  # type: ignore[arg-type]
    alpha = out.alpha[0]
    statistics = out.feature_image()[0] / alpha.clamp_min(1e-3)
    return out.rgb[0].numpy(), alpha[..., 0].numpy(), out.depth[0, ..., 0].numpy(), statistics.numpy()


def compare(
    gaussians: Gaussians,
    expected: Tensor,  # [N, 4] means and variances of the colour and structure cue
    shots: Sequence[Shot],
    *,
    grounds: Sequence[Ground] | None = None,
    rescore: Callable[[ComparedView], ComparedView] | None = None,
    config: CompareConfig | None = None,
    backend: str = "auto",
) -> tuple[list[ComparedView], list[Ground]]:
    """Compare every photo with the render of a scene state.

    Args:
        grounds: of an earlier call for the same photos; given, the light is not fitted again, so that two scene hypotheses
            are judged under the same light.
        rescore: what else has a say in the finished views' scores and masks (see `change.learned`).

    Returns:
        the views, and what they were judged on.
    """
    config = config or CompareConfig()
    views, used = [], []
    for index, shot in enumerate(shots):
        drawn = render_state(gaussians, expected, shot.camera, backend=backend)
        if grounds is not None:
            view, ground = _compare_one(shot, drawn, grounds[index], config)
        else:
            changed = np.zeros(shot.photo.shape[:2], bool)
            for _ in range(max(1, config.light_rounds)):
                fit = fit_colour(drawn[0], shot.photo, (drawn[1] > 0.9) & ~changed, config=config.harmonise)
                view, ground = _compare_one(shot, drawn, Ground(fit), config)
                changed = view.mask
        views.append(rescore(view) if rescore else view)
        used.append(ground)
    return views, used


def compare_altered(
    views: Sequence[ComparedView],
    altered: Gaussians,
    gaussians: Gaussians,
    expected: Tensor,  # [N, 4] as for `compare`
    shots: Sequence[Shot],
    grounds: Sequence[Ground],
    *,
    config: CompareConfig | None = None,
    backend: str = "auto",
) -> list[ComparedView]:
    """The views of a state that differs a little from the one of `views`; only the pixels in reach of the difference cost time.

    Args:
        altered: the Gaussians that only one of the two states has.
        grounds: of every photo, with its noise.
    """
    config = config or CompareConfig()

    def again(photo: tuple[ComparedView, Shot, Ground]) -> ComparedView:
        view, shot, ground = photo
        box = bounding_box(footprint(altered, shot.camera, backend=backend))
        return view if box is None else _compare_box(view, box, gaussians, expected, shot, ground, config, backend)

    return in_parallel(again, list(zip(views, shots, grounds, strict=True)))


def footprint(gaussians: Gaussians, camera: Camera, *, above: float = 0.0, backend: str = "auto") -> NDArray[np.bool_]:
    """[H, W] the pixels that some Gaussians, drawn alone, cover more than `above`; by default all that they can contribute to."""
    if len(gaussians) == 0:
        return np.zeros((camera.height, camera.width), bool)
    with torch.no_grad():
        out = render(gaussians, stack_cameras([camera]), backend=backend, with_depth=False)  # type: ignore[arg-type]
    return (out.alpha[0, ..., 0] > above).numpy()


def _compare_box(
    view: ComparedView, box: Box, gaussians: Gaussians, expected: Tensor, shot: Shot, ground: Ground, config: CompareConfig, backend: str
) -> ComparedView:
    """A view with everything that depends on the pixels of a box computed again."""
    if ground.noise is None:
        raise ValueError("The photo's noise is not known yet: compare the whole photo first.")
    shape = view.mask.shape
    # A score looks at its surroundings twice: through the window of the structure cue and through its own smoothing.
    border = WINDOW // 2 + int(np.ceil(4 * smoothing_px(max(shape), config.evidence))) + 1
    target = grown(box, border, shape)
    wide = grown(target, border, shape)
    region = torch.zeros(shape, dtype=torch.bool)
    region[wide] = True
    drawn = render_state(gaussians, expected, shot.camera, region=region, backend=backend)
    rgb, alpha, depth, statistics = (image[wide] for image in drawn)
    seen = ground.witness and ground.witness.part(wide)
    shown, cues, lit = _cues(shot.photo[wide], rgb, depth, Ground(ground.fit.part(wide), seen), config)
    score, agreed = _judge(cues, lit, alpha, statistics, ground.noise, max(shape), config)
    inner = tuple(slice(t.start - w.start, t.stop - w.start) for t, w in zip(target, wide, strict=True))

    def patched(image: NDArray, fresh: NDArray) -> NDArray:
        out = image.copy()
        out[target] = fresh[inner]
        return out

    score = patched(view.score, score)
    return replace(
        view, shown=patched(view.shown, shown), alpha=patched(view.alpha, alpha), depth=patched(view.depth, depth),
        score=score, mask=change_mask(score, config=config.evidence), agreed=patched(view.agreed, agreed),
    )


def _cues(photo: Image, rgb: Image, depth: Image, ground: Ground, config: CompareConfig) -> tuple[Image, Image, Image]:
    """The render in the photo's light, its residual cues less what earlier photos excuse, and less what light explains too."""
    shown = ground.fit.apply(np.clip(rgb, 0, 1))
    cues = residual_cues(torch.from_numpy(shown), torch.from_numpy(np.ascontiguousarray(photo))).numpy()
    if ground.witness is None:
        return shown, cues, cues
    cues = cap_cues(cues, depth, ground.witness, config.earlier)
    return shown, cues, cap_by_light(cues, depth, ground.witness, config.earlier)


def _noise(cues: Image, alpha: Image, statistics: Image, config: CompareConfig) -> tuple[PhotoNoise, PhotoNoise]:
    nothing = np.zeros_like(cues)
    return (
        photo_noise(cues, statistics[..., :2], _std(statistics), alpha, config=config.evidence),
        photo_noise(cues, nothing, nothing, alpha, config=config.evidence),
    )


def _judge(
    cues: Image, lit: Image, alpha: Image, statistics: Image, noise: tuple[PhotoNoise, PhotoNoise], full_size: int, config: CompareConfig
) -> tuple[Image, NDArray[np.bool_]]:
    """Score and agreement of a photo, or of a crop of one whose longer side is `full_size` pixels.

    Light can excuse a difference (`lit`), but a place under another light does not prove that nothing stands there.
    """
    score = change_score(
        lit, statistics[..., :2], _std(statistics), alpha, noise=noise[0], full_size=full_size, config=config.evidence
    )
    return score, agreement(cues, alpha, noise=noise[1], full_size=full_size, config=config.evidence)


def _std(statistics: Image) -> Image:
    return np.sqrt(np.maximum(statistics[..., 2:4], 0))


def _compare_one(
    shot: Shot, drawn: tuple[Image, Image, Image, Image], ground: Ground, config: CompareConfig
) -> tuple[ComparedView, Ground]:
    """A view, and its ground with the photo's noise."""
    rgb, alpha, depth, statistics = drawn
    shown, cues, lit = _cues(shot.photo, rgb, depth, ground, config)
    noise = ground.noise or _noise(cues, alpha, statistics, config)
    score, agreed = _judge(cues, lit, alpha, statistics, noise, max(alpha.shape), config)
    fit = ground.fit
    return ComparedView(
        shot.camera, shot.photo, shown, fit.affine, fit.gain, alpha, depth, score,
        change_mask(score, config=config.evidence), agreed, fit.noise,
    ), replace(ground, noise=noise)


def with_mask(view: ComparedView, mask: NDArray[np.bool_]) -> ComparedView:
    """The same view with another mask."""
    return replace(view, mask=mask)
