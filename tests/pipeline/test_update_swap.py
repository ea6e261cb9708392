"""Two things side by side that change places: each of them hides that the other one left."""

from __future__ import annotations

import numpy as np
from solids import at
from test_update import BOX, FLOOR, SMALL, advance, shots

from ltgs.core.chronology import Chronology
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord

FIRST = Gaussians.concatenate([FLOOR, at(BOX, 0.12, 0.0), at(SMALL, -0.17, 0.0)])
SWAPPED = Gaussians.concatenate([FLOOR, at(BOX, -0.14, 0.02), at(SMALL, 0.17, 0.0)])


def test_neighbours_that_change_places_are_two_that_moved() -> None:
    records = tuple(PhotoRecord(p.camera.name, 0, "", True, camera=p.camera) for p in shots(FIRST, 0, 8))
    scene, events = advance(Scene(Chronology.initial(FIRST), (VisitRecord(0, "0", None, records),)), shots(SWAPPED, 1))
    assert [e.kind for e in events] == ["moved", "moved"]
    tracks = [scene.chronology.tracks[e.object_id] for e in events]
    where = sorted(np.round(t.world_from_object[1, :2, 3], 2).tolist() for t in tracks)
    for found, true in zip(where, [[-0.14, 0.02], [0.17, 0.0]], strict=True):
        assert np.linalg.norm(np.subtract(found, true)) < 0.04
