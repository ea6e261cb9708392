"""Ray-cast synthetic rooms with a known timeline: the sample capture and rooms drawn from a seed, with ground truth.

Run `python -m ltgs.data.synthetic --out DIR` for the sample room, with `--random SEED` for another one; both are
written in the layout of the rooms collection.
"""

from __future__ import annotations

from ltgs.data.synthetic.random_room import random_room
from ltgs.data.synthetic.room import RoomModel, sample_room
from ltgs.data.synthetic.tracer import DRAFT, SWIFT, RenderConfig
from ltgs.data.synthetic.write import WriteConfig, write_room

__all__ = [
    "DRAFT",
    "SWIFT",
    "RenderConfig",
    "RoomModel",
    "WriteConfig",
    "random_room",
    "sample_room",
    "write_room",
]
