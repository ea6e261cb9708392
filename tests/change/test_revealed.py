"""The ground where something stood: told from what stands there now by what the photos of one visit agree about on its plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_shade import HEIGHT, NOISE, WIDTH, Paint, camera, inside, on_plane, plain, printed

from ltgs.change.revealed import PlanePatch, Revealed, find_revealed
from ltgs.core.views import ComparedView

ANGLES = (-18.0, 0.0, 18.0)
PLANE = PlanePatch(np.array([0.0, 0.0, -1.0, 0.0]), np.zeros(3), 1.5)
AFFINE = np.array([[0.9, 0.05, 0, 0.02], [0, 1.0, 0, 0.0], [0, 0, 0.85, 0.04]])


def label(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A print of blue and white patches."""
    patches = np.random.default_rng(7).random((40, 40)) > 0.5
    rows, columns = (np.clip(np.floor(a / 0.04).astype(int) + 20, 0, 39) for a in (y, x))
    return np.where(patches[rows, columns][..., None], [0.9, 0.9, 0.9], [0.1, 0.2, 0.7])


def look(
    angle: float, ground: Paint, thing: Paint | None, *, light: np.ndarray | None = None
) -> tuple[ComparedView, np.ndarray, np.ndarray]:
    """A photo of the ground with a thing 0.2 above it, beside a scene that is dark where something stood; and both outlines."""
    cam = camera(angle)
    x, y, depth = on_plane(cam, 0.0)
    matrix = np.eye(3, 4) if light is None else light
    photo, hole = ground(x, y), inside(x, y)
    shown = np.where(hole[..., None], 0.12, photo)
    occupied = np.zeros(hole.shape, bool)
    if thing is not None:
        tx, ty, _ = on_plane(cam, 0.2)
        occupied = (np.abs(tx) < 0.1) & (np.abs(ty) < 0.1)
        photo = np.where(occupied[..., None], thing(tx, ty), photo)
    noise = np.random.default_rng(int(angle) + 40).normal(0, NOISE, photo.shape)
    photo, shown = (np.clip(i @ matrix[:, :3].T + matrix[:, 3], 0, 1) for i in (photo + noise, shown))
    mask = hole | occupied
    view = ComparedView(
        cam, photo.astype(np.float32), shown.astype(np.float32), matrix, np.ones((HEIGHT, WIDTH, 3), np.float32),
        np.ones((HEIGHT, WIDTH), np.float32), depth.astype(np.float32), 2.0 * mask.astype(np.float32), mask, ~mask, NOISE,
    )
    return view, hole | occupied, occupied


@pytest.mark.parametrize("ground", [printed, plain], ids=["print", "plain"])
def test_bare_ground_is_found_and_nothing_else_is_claimed(ground: Paint) -> None:
    shots = [look(a, ground, None, light=AFFINE if a > 0 else None) for a in ANGLES]
    found = find_revealed([s[0] for s in shots], [s[1] for s in shots], [PLANE])
    for (view, hole, _), bare in zip(shots, found, strict=True):
        assert bare.mask[hole].mean() > 0.9 and not bare.mask[~hole].any()
        assert not bare.other.any()
        np.testing.assert_allclose(bare.depth[bare.mask], view.depth[bare.mask], rtol=1e-4)
        known = bare.shown_in(view, 0.03)
        assert not known.mask[bare.mask].any() and known.agreed[bare.mask].all() and (known.score[bare.mask] == 0).all()


@pytest.mark.parametrize("ground", [printed, plain], ids=["print", "plain"])
def test_a_thing_that_stands_there_now_is_not_taken_for_ground(ground: Paint) -> None:
    shots = [look(a, ground, label) for a in ANGLES]
    found = find_revealed([s[0] for s in shots], [s[1] for s in shots], [PLANE])
    for (_, hole, occupied), bare in zip(shots, found, strict=True):
        assert bare.mask[occupied].mean() < 0.05 and bare.other[occupied].mean() > 0.9
        assert bare.mask[hole & ~occupied].mean() > 0.5


def test_a_plain_thing_of_another_colour_agrees_on_every_plane_but_is_none_of_the_ground() -> None:
    def blue(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array([0.1, 0.15, 0.95]), (*x.shape, 3))

    shots = [look(a, printed, blue) for a in ANGLES]
    for (_, _, occupied), bare in zip(shots, find_revealed([s[0] for s in shots], [s[1] for s in shots], [PLANE]), strict=True):
        assert bare.mask[occupied].mean() < 0.25, "at most its rim"


def test_one_photo_and_planes_elsewhere_prove_nothing() -> None:
    view, hole, _ = look(0.0, printed, None)
    assert not find_revealed([view], [hole], [PLANE])[0].mask.any()
    assert not find_revealed([view, view], [hole, hole], [])[0].mask.any()
    shots = [look(a, printed, None) for a in ANGLES]
    for plane in (np.array([0.0, 0, -1, -0.3]), np.array([0.0, 0, -1, 0.3])):
        found = find_revealed([s[0] for s in shots], [s[1] for s in shots], [replace(PLANE, plane=plane)])
        assert all(f.mask.mean() < 0.1 * s[1].mean() for f, s in zip(found, shots, strict=True))


def test_what_is_drawn_before_the_ground_stays_drawn() -> None:
    view, hole, _ = look(0.0, printed, None)
    bare = Revealed(hole, np.where(hole, view.depth, 0).astype(np.float32), np.zeros_like(hole))
    near = replace(view, depth=0.8 * view.depth)
    assert bare.shown_in(near, 0.03) is near
    np.testing.assert_array_equal(bare.shown_in(view, 0.03).shown[hole], view.photo[hole])
