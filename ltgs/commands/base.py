"""What commands share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass
class Command:
    """What all commands share."""

    debug: bool = field(default=False, kw_only=True)
    """Show a traceback for errors of any kind."""


@dataclass
class SceneCommand(Command):
    """What all commands that use a stored scene share."""

    scene: Annotated[Positional[Path], arg(metavar="SCENE")]
    """Scene folder."""
