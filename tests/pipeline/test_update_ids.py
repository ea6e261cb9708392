"""Ids over many visits: whatever an absent object is tried against in vain is something else, with an id of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from solids import FACES, at, box, standing
from test_update import BOX, CONFIG, FLOOR, advance, shots

from ltgs.core.chronology import Appearance, Chronology, Event, ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.scene import PhotoRecord, Scene, VisitRecord
from ltgs.optim.complete import CompleteConfig
from ltgs.optim.refine import RefineConfig
from ltgs.optim.sharpen import SharpenConfig

QUICK = replace(
    CONFIG,
    register=replace(CONFIG.register, upright=12, free_rotations=8, num_scouted=2, scout_px=32, scout_steps=(3, 5), num_refined=1),
    associate=replace(CONFIG.associate, sweep_floor=-9, scout_floor=-9, unlike=0.5),
    refine=RefineConfig(steps=8, steps_new=24, steps_surface=8), complete=CompleteConfig(steps=8), sharpen=SharpenConfig(steps=8),
    stereo_seeds=False, hull=replace(CONFIG.hull, min_score=0.95),
)
"""Nothing is fitted well, so that more must differ; but everything is decided, and every registration goes to its end."""
OTHER_HUES = FACES[:, [2, 0, 1]]
"""Like enough to the colours of the box that it is tried."""
STRANGERS = (
    ((0.16, 0.16, 0.3), (0.28, 0.12, 30.0)), ((0.2, 0.2, 0.14), (0.05, -0.45, 20.0)), ((0.12, 0.3, 0.12), (-0.2, 0.35, 80.0)),
)
"""Their sizes, and where they stand: x, y, degrees."""
STAYS = at(box((0.14, 0.14, 0.24), 8, faces=np.tile([0.1, 0.15, 0.8], (6, 1))), -0.3, -0.2)
"""Blue all over, as nothing else is."""


def stranger(index: int) -> Gaussians:
    """One that no known object can be."""
    size, place = STRANGERS[index]
    return at(box(size, 16 + index, faces=OTHER_HUES), *place)


def without_the_box() -> Scene:
    """Two visits: object 1 has left at the second one; something else stays and is part of the background."""
    place = Gaussians.concatenate([FLOOR, STAYS])
    track = ObjectTrack.start(1, 0, standing(0.28, 0.12)).extended(Presence.ABSENT)
    chronology = replace(
        Chronology.initial(place), templates={1: Template(1, "object", BOX, 0)}, tracks={1: track}, appearance=(Appearance(),) * 2,
        events=(Event(1, "removed", 1),),
    )
    visits = []
    for time in (0, 1):
        records = tuple(PhotoRecord(p.camera.name, time, "", True, camera=p.camera) for p in shots(place, time))
        visits.append(VisitRecord(time, str(time), None, records))
    return Scene(chronology, tuple(visits))


def assert_kept(before: Chronology, after: Chronology) -> None:
    """Whoever had an id still has it, and is still the same thing; where it stands, new photos may mend how it looks."""
    for k, template in before.templates.items():
        assert (after.templates[k].kind, after.templates[k].created_at) == (template.kind, template.created_at)
        if template.kind == "object":
            torch.testing.assert_close(after.templates[k].gaussians.means, template.gaussians.means, atol=0.02, rtol=0)


def test_three_strangers_in_a_row_get_ids_of_their_own() -> None:
    """The first one stands where the object stood; when the last one comes, a thing leaves that had no id before."""
    scene, seen = without_the_box(), list[int]()
    for time in (2, 3, 4):
        before = scene.chronology
        now = [FLOOR, *([STAYS] if time < 4 else []), *(stranger(i) for i in range(time - 1))]
        scene, events = advance(scene, shots(Gaussians.concatenate(now), time, 2), QUICK)
        assert [e.kind for e in events] == (["appeared"] if time < 4 else ["removed", "appeared"])
        fresh = [e.object_id for e in events]
        assert min(fresh) > max(before.templates) and len({*fresh, *seen}) == len(fresh) + len(seen), "no id is given twice"
        seen += fresh
        assert_kept(before, scene.chronology)
        place = scene.chronology.tracks[fresh[-1]].world_from_object[time, :2, 3]
        np.testing.assert_allclose(place, STRANGERS[time - 2][1][:2], atol=0.08)
        tried = [p for p in scene.visits[time].decisions.pairs if p.object_id == 1]  # type: ignore[union-attr]
        assert any(p.gain is not None for p in tried) and not any(p.chosen for p in tried)
    assert scene.chronology.tracks[1].presence.tolist() == [Presence.PRESENT] + [Presence.ABSENT] * 4
    assert [e.time for e in scene.chronology.events if e.object_id == 1] == [1]
