"""A ray-cast synthetic room with a known timeline: the sample capture and its ground truth.

Run `python -m ltgs.data.synthetic --out DIR` to write it in the layout of the rooms collection.
"""

from __future__ import annotations

from ltgs.data.synthetic.room import RoomModel, sample_room
from ltgs.data.synthetic.tracer import DRAFT, RenderConfig
from ltgs.data.synthetic.write import WriteConfig, write_room

__all__ = ["DRAFT", "RenderConfig", "RoomModel", "WriteConfig", "sample_room", "write_room"]
