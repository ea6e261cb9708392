"""Light against content: a shadow that moves over a surface is explained by light, a flat new thing on it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from ltgs.change.earlier import EarlierConfig, Witness, cap_by_light
from ltgs.change.evidence import agreement, change_mask, change_score
from ltgs.change.shade import ShadeConfig, is_relit, light_cues, light_factor, light_share, new_edge_share
from ltgs.core.cameras import Camera
from ltgs.core.views import ComparedView
from ltgs.imaging.cues import residual_cues
from ltgs.objects.hull import hull_instances

WIDTH, HEIGHT, FOCAL, DISTANCE = 160, 120, 150.0, 2.0
NOISE = 0.01
Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Places x, y [H, W] on a surface to colours [H, W, 3]."""


def camera(angle_deg: float) -> Camera:
    """Looks at the origin from `DISTANCE`, turned about the vertical."""
    turn = np.deg2rad(angle_deg)
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    pose[2, 3] = DISTANCE
    return Camera("a.jpg", 1, WIDTH, HEIGHT, np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]), pose)


def on_plane(cam: Camera, height: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the pixels' rays meet the plane `height` in front of z = 0: x, y and depth, [H, W] each."""
    u, v = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(cam.K).T @ cam.cam_from_world[:3, :3]
    depth = (-height - cam.center[2]) / rays[..., 2]
    points = cam.center + rays * depth[..., None]
    return points[..., 0], points[..., 1], depth


def plain(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.array([0.7, 0.6, 0.45]), (*x.shape, 3))


def printed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(3).random((40, 60, 3)).astype(np.float32) * 0.6 + 0.2
    picture = cv2.resize(noise, (600, 400), interpolation=cv2.INTER_CUBIC)
    places = [((a + b) * s).astype(np.float32) for a, b, s in ((x, 1.5, 200), (y, 1.0, 200))]
    return cv2.remap(picture, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[H, W] a slanted patch of about a tenth of the photo."""
    return (np.abs(x + 0.3 * y) < 0.25) & (np.abs(y - 0.1 * x) < 0.22)


def visit(ground: Paint, paint: Callable[[np.ndarray, Camera], np.ndarray]) -> list[ComparedView]:
    """Three views of a ground, changed in the photos by `paint`; its change is known exactly."""
    views, rng = [], np.random.default_rng(5)
    for angle in (-35.0, 0.0, 30.0):
        cam = camera(angle)
        x, y, depth = on_plane(cam, 0.0)
        shown = ground(x, y).astype(np.float32)
        changed = paint(shown.astype(np.float64), cam)
        mask = cv2.dilate((np.abs(changed - shown).max(-1) > 0.05).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        photo = np.clip(changed + rng.normal(0, NOISE, shown.shape), 0, 1).astype(np.float32)
        ones = np.ones(depth.shape, np.float32)
        views.append(ComparedView(
            cam, photo, shown, np.eye(3, 4), np.ones_like(shown), ones, depth.astype(np.float32), 2 * mask.astype(np.float32), mask,
            ~mask, NOISE,
        ))
    return views


def share(views: list[ComparedView]) -> float | None:
    return light_share([v.mask for v in views], light_cues(views))


def shadow(strength: float, tint: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Callable[[np.ndarray, Camera], np.ndarray]:
    def paint(shown: np.ndarray, cam: Camera) -> np.ndarray:
        x, y, _ = on_plane(cam, 0.0)
        return np.where(inside(x, y)[..., None], shown * strength * np.array(tint), shown)

    return paint


def plate(height: float, colour: Paint) -> Callable[[np.ndarray, Camera], np.ndarray]:
    def paint(shown: np.ndarray, cam: Camera) -> np.ndarray:
        x, y, _ = on_plane(cam, height)
        return np.where(inside(x, y)[..., None], colour(x, y), shown)

    return paint


@pytest.mark.parametrize("ground", [plain, printed])
@pytest.mark.parametrize("strength", [0.5, 0.75, 1.3])
def test_a_shadow_or_a_patch_of_light_is_light(ground: Paint, strength: float) -> None:
    explained = share(visit(ground, shadow(strength)))
    assert explained is not None and explained > 0.9


def test_light_of_another_tint_is_light() -> None:
    explained = share(visit(printed, shadow(0.6, (1.05, 1.0, 0.95))))
    assert explained is not None and explained > 0.9


@pytest.mark.parametrize("height", [0.005, 0.03])
def test_a_flat_thing_that_hides_a_print_is_content(height: float) -> None:
    explained = share(visit(printed, plate(height, lambda x, y: plain(x, y) * 0.6)))
    assert explained is not None and explained < 0.3


def test_a_flat_thing_of_another_colour_is_content() -> None:
    explained = share(visit(plain, plate(0.005, lambda x, y: plain(x, y) * 0 + [0.2, 0.3, 0.6])))
    assert explained is not None and explained < 0.3


def test_a_grey_thing_in_front_of_a_grey_wall_is_content() -> None:
    explained = share(visit(plain, plate(0.5, lambda x, y: plain(x, y) * 0.5)))
    assert explained is not None and explained < 0.6


def test_nothing_is_said_of_what_a_single_photo_shows() -> None:
    assert share(visit(plain, shadow(0.5))[:1]) is None


def test_the_factor_leaves_out_the_surfaces_texture() -> None:
    view = visit(printed, shadow(0.5))[1]
    x, y, _ = on_plane(view.camera, 0.0)
    factor, kernel = light_factor(view, ShadeConfig()), np.ones((9, 9), np.uint8)
    inner = cv2.erode(inside(x, y).astype(np.uint8), kernel) > 0
    outer = cv2.dilate(inside(x, y).astype(np.uint8), kernel) == 0
    assert factor[inner] == pytest.approx(0.5, abs=0.06)
    assert factor[outer] == pytest.approx(1.0, abs=0.06)


def found(views: list[ComparedView], *, ask_light: bool = True) -> int:
    """Instances of new content in views whose masks are judged again, with light as a witness or without."""
    nothing = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    judged = []
    for view, light in zip(views, light_cues(views), strict=True):
        cues = residual_cues(torch.from_numpy(view.shown), torch.from_numpy(view.photo)).numpy()
        lit = cap_by_light(cues, view.depth, Witness(nothing + np.inf, view.depth, light if ask_light else None), EarlierConfig())
        score = change_score(lit, nothing, nothing, view.alpha)
        judged.append(replace(view, score=score, mask=change_mask(score), agreed=agreement(cues, view.alpha)))
    return len(hull_instances(judged))


@pytest.mark.parametrize("ground", [plain, printed])
def test_a_shadow_is_no_object(ground: Paint) -> None:
    views = visit(ground, shadow(0.5))
    assert found(views) == 0
    assert found(views, ask_light=False) > 0


@pytest.mark.parametrize("ground", [plain, printed])
@pytest.mark.parametrize("height", [0.01, 0.08])
def test_a_flat_object_is_one(ground: Paint, height: float) -> None:
    assert found(visit(ground, plate(height, lambda x, y: printed(y, x)))) > 0


def dark_patch(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A plain ground with a known darker thing on it."""
    return np.where(inside(x, y)[..., None], plain(x, y) * 0.4, plain(x, y))


def brighter_patch(shown: np.ndarray, cam: Camera) -> np.ndarray:
    """The known thing in stronger light; its outline is a pixel off from where it is known to be."""
    x, y, _ = on_plane(cam, 0.0)
    moved = cv2.warpAffine(shown, np.float32([[1, 0, 1], [0, 1, 1]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    return np.where(inside(x, y)[..., None], moved * 1.5, shown)


def test_a_known_thing_in_another_light_is_not_new() -> None:
    views = visit(dark_patch, brighter_patch)
    masks = [v.mask for v in views]
    assert new_edge_share(views, masks) < ShadeConfig().new_edges
    assert is_relit(views, masks)


@pytest.mark.parametrize("ground", [plain, printed])
def test_a_plain_thing_has_an_outline_of_its_own(ground: Paint) -> None:
    views = visit(ground, plate(0.01, lambda x, y: plain(x, y) * 0.5))
    masks = [v.mask for v in views]
    assert new_edge_share(views, masks) > ShadeConfig().new_edges
    assert not is_relit(views, masks)
