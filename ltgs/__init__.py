"""LTGS: living 3-D Gaussian scenes with a timeline.

The names below load their module on first use (PEP 562), so that `import ltgs` is instant and loads no compiled kernel.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "Camera": "ltgs.core.cameras",
    "Cameras": "ltgs.core.cameras",
    "Chronology": "ltgs.core.chronology",
    "Event": "ltgs.core.chronology",
    "Gaussians": "ltgs.core.gaussians",
    "InputError": "ltgs.errors",
    "Job": "ltgs.pipeline.run",
    "LtgsError": "ltgs.errors",
    "RunConfig": "ltgs.pipeline.config",
    "Scene": "ltgs.core.scene",
    "SceneStore": "ltgs.io.scene_store",
    "add_visit": "ltgs.pipeline.run",
    "load_config": "ltgs.pipeline.config",
    "read_cameras": "ltgs.io.cameras_json",
    "reconstruct": "ltgs.pipeline.run",
    "write_ply": "ltgs.io.ply",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ltgs' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


if TYPE_CHECKING:
    from ltgs.core.cameras import Camera as Camera
    from ltgs.core.cameras import Cameras as Cameras
    from ltgs.core.chronology import Chronology as Chronology
    from ltgs.core.chronology import Event as Event
    from ltgs.core.gaussians import Gaussians as Gaussians
    from ltgs.core.scene import Scene as Scene
    from ltgs.errors import InputError as InputError
    from ltgs.errors import LtgsError as LtgsError
    from ltgs.io.cameras_json import read_cameras as read_cameras
    from ltgs.io.ply import write_ply as write_ply
    from ltgs.io.scene_store import SceneStore as SceneStore
    from ltgs.pipeline.config import RunConfig as RunConfig
    from ltgs.pipeline.config import load_config as load_config
    from ltgs.pipeline.run import Job as Job
    from ltgs.pipeline.run import add_visit as add_visit
    from ltgs.pipeline.run import reconstruct as reconstruct
