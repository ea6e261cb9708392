"""Folders of a visit's photos, altered: fewer, smaller, in another light, under another date."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ltgs.io.images import looks_like_photo

EVENING = (0.62, 0.52, 0.38)
"""Linear gains per channel of a light that is dimmer by about a stop and warmer."""
SRGB_POWER = 2.2


def photos_in(folder: Path) -> list[Path]:
    """Photo files of a visit in order of their names."""
    return sorted(p for p in folder.iterdir() if looks_like_photo(p))


def copied(folder: Path, to: Path, *, first: int | None = None) -> Path:
    """The same photos, or only the first few, in a folder of another name."""
    to.mkdir(parents=True)
    for path in photos_in(folder)[:first]:
        shutil.copy2(path, to / path.name)
    return to


def halved(folder: Path, to: Path) -> Path:
    """Photos at half their size; EXIF keeps the size at which they were taken."""
    return _altered(folder, to, lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX))


def relit(folder: Path, to: Path, gains: tuple[float, float, float] = EVENING) -> Path:
    """Photos under a light of other strength and colour; nothing else changes, not even shadows."""
    def light(image: Image.Image) -> Image.Image:
        linear = (np.asarray(image.convert("RGB"), np.float64) / 255) ** SRGB_POWER * gains
        return Image.fromarray(np.rint(255 * linear.clip(0, 1) ** (1 / SRGB_POWER)).astype(np.uint8))

    return _altered(folder, to, light)


def _altered(folder: Path, to: Path, change: Callable[[Image.Image], Image.Image]) -> Path:
    to.mkdir(parents=True)
    for path in photos_in(folder):
        with Image.open(path) as image:
            change(image).save(to / path.name, quality=95, exif=image.getexif())
    return to
