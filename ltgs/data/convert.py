"""Collections as inputs of a reconstruction: visits, given cameras, held-out names."""

from __future__ import annotations

from typing import NamedTuple

from ltgs.core.captures import Capture
from ltgs.data.ltgs_release import LtgsRelease
from ltgs.data.rooms import Room
from ltgs.io.posed import PosedPhoto


class PhotoFolder(NamedTuple):
    """What `ltgs reconstruct` gets from a folder, a cameras file and a hold-out rule."""

    captures: list[Capture]
    cameras: list[PosedPhoto]
    """Known poses, names as in the captures; photos without one are localised by the pipeline."""
    holdout: frozenset[str]
    """Photos that are registered but never trained on."""


def as_photo_folder(source: LtgsRelease | Room) -> PhotoFolder:
    """The visits, cameras and held-out names of a collection.

    Photos that are neither learned from nor held out are left out. A room's held-out views lie in a folder of their own,
    so none of its captures' photos is held out; evaluate them with `--test`.
    """
    if isinstance(source, Room):
        cameras = [
            PosedPhoto(
                p.name,
                p.camera.width,
                p.camera.height,
                "PINHOLE",
                tuple(float(v) for v in (p.camera.K[0, 0], p.camera.K[1, 1], p.camera.K[0, 2], p.camera.K[1, 2])),
                p.camera.cam_from_world,
                p.time,
            )
            for p in source.photos
        ]
        return PhotoFolder(source.captures(), cameras, frozenset())
    used = source.holdout | {n for names in source.update_names for n in names}
    captures = [
        Capture(c.timestep, c.name, tuple(f for f in c.frames if f.name in used), c.captured_at)
        for c in source.captures
    ]
    return PhotoFolder(captures, [source.posed[n] for n in sorted(used & source.posed.keys())], source.holdout)
