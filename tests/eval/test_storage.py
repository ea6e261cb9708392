"""Bytes per visit of a stored scene against the sizes of what was stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.eval.storage import visit_bytes
from ltgs.io.scene_codec import tensors_to_bytes
from ltgs.io.scene_store import SceneStore


def gaussians(count: int) -> Gaussians:
    rng = torch.Generator().manual_seed(count)
    return Gaussians(
        torch.rand(count, 3, generator=rng), torch.rand(count, 4, generator=rng), torch.rand(count, 3, generator=rng),
        torch.rand(count, generator=rng), torch.rand(count, 4, 3, generator=rng),
    )


def visit(store: SceneStore, time: int) -> VisitRecord:
    """One photo of noise, different at every time."""
    blob = store.put_image(np.random.default_rng(time).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    camera = Camera(f"{time}/a.png", time, 32, 24, np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]), np.eye(4))
    return VisitRecord(time, str(time), None, (PhotoRecord(camera.name, time, "0" * 64, True, camera=camera, image_blob=blob),))


def test_every_visit_costs_what_it_wrote(tmp_path: Path) -> None:
    """An object cut out of the background moves (stored once), then moves again as it is (only a pose more)."""
    store = SceneStore.create(tmp_path / "scene")
    first = Chronology.initial(gaussians(300))
    scene = Scene(first, (visit(store, 0),))
    store.commit(scene)
    template = Template(1, "object", gaussians(20), 0)
    for time in (1, 2):
        pose = np.eye(4)
        pose[0, 3] = time
        track = ObjectTrack.start(1, time, pose)
        chronology = Chronology(
            first.background, torch.arange(20), {1: template}, {1: track}, (Appearance(),) * (time + 1),
            tuple(Event(t, "moved", 1) for t in range(1, time + 1)),
        )
        scene = replace(scene, chronology=chronology, visits=(*scene.visits, visit(store, time)))
        store.commit(scene)
    costs = visit_bytes(store, scene)
    template_size = len(tensors_to_bytes(template.gaussians.tensors()))
    assert [c.motions for c in costs] == [(), (template_size,), (0,)]
    blobs = tmp_path / "scene" / "blobs"
    assert sum(c.kept for c in costs) == sum(p.stat().st_size for p in blobs.iterdir())
    image = {t: len((blobs / scene.photos(time=t)[0].image_blob).read_bytes()) for t in (1, 2)}
    assert costs[1].kept == image[1] + template_size + len(tensors_to_bytes({"lifted": torch.arange(20)}))
    assert costs[2].kept == image[2]
    # The commit also made the manifest longer.
    assert costs[1].written is not None and costs[1].kept < costs[1].written < costs[1].kept + 5000
    assert costs[2].written is not None and image[2] < costs[2].written < image[2] + 5000


def test_only_the_commit_that_added_a_visit_counts(tmp_path: Path) -> None:
    """A correction of a stored visit, and a visit that was cut off and made anew, now without a photo."""
    store = SceneStore.create(tmp_path / "scene")
    first = Scene(Chronology.initial(gaussians(100)), (visit(store, 0),))
    store.commit(first)
    longer = replace(first, chronology=replace(first.chronology, appearance=(Appearance(),) * 2), visits=(*first.visits, visit(store, 1)))
    store.commit(longer)
    (before,) = (c.written for c in visit_bytes(store, longer)[1:])
    store.commit(replace(longer, chronology=replace(longer.chronology, metres_per_unit=2.0)))
    assert visit_bytes(store, longer)[1].written == before
    store.commit(first)
    other = replace(longer, visits=(*first.visits, replace(longer.visits[1], photos=())))
    store.commit(other)
    again = visit_bytes(store, other)[1].written
    assert again is not None and before is not None and again < before / 2


def test_a_log_that_does_not_say_gives_none(tmp_path: Path) -> None:
    store = SceneStore.create(tmp_path / "scene")
    scene = Scene(Chronology.initial(gaussians(10)), (visit(store, 0),))
    store.commit(scene)
    (tmp_path / "scene" / "log.jsonl").unlink()
    (cost,) = visit_bytes(store, scene)
    assert cost.written is None and cost.kept > 0
