"""What a camera writes about a photo, reduced to what is used here and checked for plausibility."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image

_ORIENTATION, _MAKE, _MODEL, _DATETIME = 0x0112, 0x010F, 0x0110, 0x0132
_EXIF_IFD, _DATETIME_ORIGINAL, _FOCAL, _FOCAL_35MM = 0x8769, 0x9003, 0x920A, 0xA405
_PLANE_X, _PLANE_UNIT, _PIXEL_X, _PIXEL_Y = 0xA20E, 0xA210, 0xA002, 0xA003
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0}
_FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
_PLAUSIBLE_FOCAL = (0.25, 20.0)
"""Focal length over the long side: a 127 degree fisheye to a 500 mm telephoto lens on full frame with margin."""


@dataclass(frozen=True)
class PhotoExif:
    """What EXIF says; every field has a value that means "not known"."""

    focal_px: float | None = None
    """Focal length in pixels of the full-size photo; None if the file gives none that is plausible."""
    captured_at: datetime | None = None
    """Local time of the camera's clock, without a time zone."""
    orientation: int = 1
    """EXIF orientation 1..8 as stored; `read_photo` has already applied it."""
    make_model: str = ""


def read_exif(image: Image.Image) -> PhotoExif:
    """Read the EXIF block of an opened image; broken blocks count as absent, for they say nothing about the pixels."""
    try:
        exif = image.getexif()
        main: dict[int, Any] = dict(exif)
        detail: dict[int, Any] = dict(exif.get_ifd(_EXIF_IFD))
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError):
        return PhotoExif()
    orientation = main.get(_ORIENTATION, 1)
    names = [_text(main.get(tag)) for tag in (_MAKE, _MODEL)]
    return PhotoExif(
        focal_px=_focal_px(detail, image.width, image.height),
        captured_at=_time(detail.get(_DATETIME_ORIGINAL)) or _time(main.get(_DATETIME)),
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        make_model=" ".join(n for n in names if n),
    )


def _focal_px(detail: Mapping[int, Any], width: int, height: int) -> float | None:
    """Focal length in pixels from the 35 mm equivalent, else from the sensor's pixel density.

    The equivalent relates diagonals (CIPA DCG-001), so the photo's own aspect ratio does not matter. The density is given
    for the photo as taken; a photo reduced later is accounted for by its recorded original size.
    """
    long_side = max(width, height)
    candidates = []
    equivalent = _number(detail.get(_FOCAL_35MM))
    if equivalent:
        candidates.append(equivalent / _FULL_FRAME_DIAGONAL_MM * math.hypot(width, height))
    focal_mm, density = _number(detail.get(_FOCAL)), _number(detail.get(_PLANE_X))
    unit = _UNIT_MM.get(int(_number(detail.get(_PLANE_UNIT)) or 2))
    if focal_mm and density and unit:
        taken = max(_number(detail.get(_PIXEL_X)) or 0.0, _number(detail.get(_PIXEL_Y)) or 0.0)
        candidates.append(focal_mm * density / unit * (long_side / taken if taken >= 1 else 1.0))
    low, high = _PLAUSIBLE_FOCAL
    return next((f for f in candidates if low * long_side <= f <= high * long_side), None)


def _number(value: Any) -> float:
    """A positive finite number, or 0 for anything else (EXIF rationals may divide by zero or hold text)."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0


def _time(value: Any) -> datetime | None:
    """EXIF's "YYYY:MM:DD HH:MM:SS"; clocks that were never set read 0000 or 1970 and earlier and are ignored."""
    try:
        moment = datetime.strptime(_text(value)[:19], "%Y:%m:%d %H:%M:%S")  # The camera's clock has no time zone.
    except ValueError:
        return None
    return moment if moment.year > 1980 else None


def _text(value: Any) -> str:
    """Printable text of at most 100 characters; EXIF strings end in NULs and may hold anything."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return "".join(c for c in value if c.isprintable()).strip()[:100] if isinstance(value, str) else ""


def exif_date(path: Path) -> datetime | None:
    """When a photo was taken by its own EXIF, from the header alone; None if the file does not say or cannot be read."""
    try:
        with Image.open(path) as image:
            return read_exif(image).captured_at
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
