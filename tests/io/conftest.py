"""Small scenes for the tests of ltgs.io."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.light_detail import LightDetail
from ltgs.core.light_field import FACES, LightField
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.io import atomic
from ltgs.io.scene_store import SceneStore


def random_gaussians(n: int, seed: int = 0, degree: int = 1) -> Gaussians:
    g = torch.Generator().manual_seed(seed)
    shapes = ((n, 3), (n, 4), (n, 3), (n,), (n, (degree + 1) ** 2, 3))
    return Gaussians(*(torch.randn(*s, generator=g) for s in shapes))


def light_field() -> LightField:
    detail = LightDetail(torch.tensor([0.1, 0.2, 0.3]), 0.25, (5, 5, 9), torch.tensor([3, 8, 200]), torch.tensor([-0.5, 0.25, 1.0]))
    return LightField(torch.zeros(3), 1.0, torch.full((2, 2, 3, FACES, 3), 0.125), torch.ones(3), detail)


def scene_of(store: SceneStore, num_times: int = 2, *, seed: int = 0, shift: float = 1.0) -> Scene:
    """A scene of every kind of content: an object that is absent, present and unknown, NaNs, infinities, odd names."""
    pose = np.eye(4)
    pose[:3, 3] = shift
    track = ObjectTrack.start(1, min(1, num_times - 1), pose)
    while track.num_times < num_times:
        track = track.extended(Presence.UNKNOWN, error=0.1)
    visits = []
    for t in range(num_times):
        rgb = np.full((6, 8, 3), 40 * t + seed, np.uint8)
        name = f"visit {t}/Ünïcode 🙂 $(x) '-.jpg"
        camera = Camera(name, t, 8, 6, np.array([[5.0, 0, 4], [0, 5, 3], [0, 0, 1]]), np.eye(4), 1.0 + t / 3)
        covariance = np.full((6, 6), 1e-3 / 3)
        covariance[0, 0] = np.nan
        photo = PhotoRecord(
            name, t, "ab" * 32, True, camera=camera, image_blob=store.put_image(rgb), num_inliers=20, inlier_ratio=1 / 3,
            covariance=covariance, exposure=np.eye(3, 4) * 0.1,
        )
        lost = PhotoRecord(f"visit {t}/\udcff.jpg", t, "", False, reason="9 inliers, need 15")
        when = datetime(2024, 1, 1 + t, tzinfo=UTC) if t else datetime(2024, 1, 1, 12, 30, 5)
        visits.append(VisitRecord(
            t, f"visit {t}", when, (photo, lost), {"poses": "given"}, {"train": 0.1 + t}, {"psnr": float("inf"), "ssim": 0.1},
            ("object 1 may have been hidden",),
        ))
    chronology = Chronology(
        random_gaussians(50, seed), torch.tensor([3, 7]), {1: Template(1, "object", random_gaussians(9, 5), 1)}, {1: track},
        tuple(Appearance(np.eye(3, 4) * (1 + t / 10), bool(t), -0.1 * t, light_field() if t else None) for t in range(num_times)),
        (Event(num_times - 1, "appeared", 1, 0.5, 12.0, True, "note"),), 0.25,
    )
    side = {"map": {"half": torch.ones(2, 3, dtype=torch.float16), "bool": torch.tensor([True, False])}, "empty": {}}
    return Scene(chronology, tuple(visits), side, {"steps": 100, "nested": {"list": [1, 2.5, None, "x"]}})


def assert_same_scene(a: Scene, b: Scene) -> None:
    """Exact equality, NaN equal to NaN, by the sealed form plus tensors and timings."""
    from ltgs.io.atomic import sha256_bytes
    from ltgs.io.scene_codec import encode_scene, tensors_to_bytes

    def put(tensors: dict[str, torch.Tensor]) -> str:
        return sha256_bytes(tensors_to_bytes(tensors))

    assert encode_scene(a, put) == encode_scene(b, put)
    assert [dict(v.timing) for v in a.visits] == [dict(v.timing) for v in b.visits]


@pytest.fixture
def make_scene() -> Callable[..., Scene]:
    return scene_of


@pytest.fixture
def same_scene() -> Callable[[Scene, Scene], None]:
    return assert_same_scene


@pytest.fixture
def gaussians() -> Callable[..., Gaussians]:
    return random_gaussians


@pytest.fixture
def store(tmp_path: Path) -> SceneStore:
    return SceneStore.create(tmp_path / "scene")


@pytest.fixture
def two_generations(store: SceneStore) -> SceneStore:
    store.commit(scene_of(store, 1), message="first")
    store.commit(scene_of(store, 2), message="second")
    return store


@pytest.fixture(autouse=True)
def no_hook_left() -> Iterator[None]:
    yield
    atomic.on_step = None
