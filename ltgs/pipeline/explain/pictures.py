"""Pictures that show how a visit was judged: difference, change map, what left and what came, crops. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ltgs.core.decisions import Box
from ltgs.core.palette import object_colour
from ltgs.core.views import ComparedView

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
UNKNOWN_ALPHA = 0.6
"""Opacity of the render below which a pixel is not judged (change.evidence.EvidenceConfig.min_alpha)."""
DIFFERENCE_GAIN = 2.5
"""Contrast of the difference picture."""
SCORE_TOP = 2.0
"""Change score shown with the last colour of the scale; 1 is the decision level."""
OTHER = (225, 225, 232)
"""Colour of content that was not taken for an object."""


Kind = Literal["came", "left", "other"]


@dataclass(frozen=True)
class Label:
    """A tag on a picture."""

    x: float
    """Share of the width, 0 left."""
    y: float
    """Share of the height, 0 top."""
    text: str
    """Short enough for a small picture: the object's or the content's number."""
    colour: tuple[int, int, int]
    kind: Kind


def picture(rgb: NDArray[np.floating]) -> Picture:
    """[H, W, 3] colours in [0, 1] as 8-bit."""
    return (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def difference(view: ComparedView) -> Picture:
    """Photo minus harmonised render: mid-grey is equal, brighter is brighter in the photo. Unknown places are hatched."""
    out = picture(0.5 + DIFFERENCE_GAIN / 2 * (view.photo - view.shown))
    return _hatched(out, view.alpha < UNKNOWN_ALPHA, (96, 110, 130), 0.55)


def change_map(view: ComparedView) -> Picture:
    """The change score as heat over the dimmed photo, the decided mask outlined in white. Unknown places are hatched."""
    base = _dimmed(view.photo, 0.55)
    score = np.clip(view.score / SCORE_TOP, 0, 1)
    heat = cv2.applyColorMap((score * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = np.clip((view.score - 0.15) / 0.5, 0, 0.9)[..., None]
    out = (base * (1 - weight) + heat * weight).astype(np.uint8)
    out = _hatched(out, view.alpha < UNKNOWN_ALPHA, (96, 110, 130), 0.55)
    return outlined(out, view.mask, (255, 255, 255))


def instances(
    photo: NDArray[np.float32], left: Mapping[int, Mask], came: Mapping[int, Mask], other: Mapping[str, Box],
) -> tuple[Picture, list[Label]]:
    """What left (hatched, where it was) and what came (tinted, where it is), in the objects' colours; other content in boxes.

    Args:
        left, came: object id to its pixels [H, W].
        other: name to box of content that is no object.
    """
    out = _dimmed(photo, 0.6)
    height, width = photo.shape[:2]
    labels = []
    taken = np.logical_or.reduce([*left.values(), *came.values()]) if left or came else np.zeros((height, width), bool)
    for name, box in other.items():
        # Content that is mostly an object's is not marked a second time.
        if taken[box[1] : box[3], box[0] : box[2]].mean() > 0.2:
            continue
        out = _dotted_box(out, box, OTHER)
        labels.append(Label(box[0] / width, box[1] / height, name, OTHER, "other"))
    for object_id, mask in left.items():
        colour = object_colour(object_id)
        out = outlined(_hatched(out, mask, colour, 0.75), mask, colour, dashed=True)
        labels += _mask_label(mask, str(object_id), colour, "left")
    for object_id, mask in came.items():
        colour = object_colour(object_id)
        tinted = picture(0.75 * photo + 0.25 * np.array(colour, np.float32) / 255)
        out = np.where(mask[..., None], tinted, out)
        out = outlined(out, mask, colour)
        labels += _mask_label(mask, str(object_id), colour, "came")
    # Objects keep their labels close; other content makes room.
    return out, _apart(sorted(labels, key=lambda item: item.kind == "other"))


def outlined(image: Picture, mask: Mask, colour: tuple[int, int, int], *, dashed: bool = False) -> Picture:
    """A copy with the mask's outline drawn, about 0.25 % of the image wide."""
    out = np.ascontiguousarray(image).copy()
    if not mask.any():
        return out
    wide = max(1, round(0.0025 * max(mask.shape)))
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not dashed:
        cv2.drawContours(out, contours, -1, (0, 0, 0), wide + 2, cv2.LINE_AA)
        cv2.drawContours(out, contours, -1, colour, wide, cv2.LINE_AA)
        return out
    dash = 4 * wide + 4
    for contour in contours:
        points = contour[:, 0]
        for start in range(0, len(points), 2 * dash):
            cv2.polylines(out, [points[start : start + dash]], False, colour, wide, cv2.LINE_AA)
    return out


def mask_box(mask: Mask) -> Box | None:
    """The box that holds a mask, None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def crop_window(box: Box, width: int, height: int, *, margin: float = 0.35) -> Box:
    """A square around a box with a margin, moved into the image; smaller than asked only where the image is.

    Args:
        margin: relative to the box's longer side, on every side.
    """
    side = (1 + 2 * margin) * max(box[2] - box[0], box[3] - box[1])
    size = round(min(max(side, 0.08 * max(width, height)), width, height))
    left = round(min(max((box[0] + box[2] - size) / 2, 0), width - size))
    top = round(min(max((box[1] + box[3] - size) / 2, 0), height - size))
    return left, top, left + size, top + size


def crop(image: Picture, window: Box, side: int) -> Picture:
    """[side, side, 3] the window of an image, enlarged or reduced."""
    part = np.ascontiguousarray(image[window[1] : window[3], window[0] : window[2]])
    method = cv2.INTER_AREA if part.shape[0] > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (side, side), interpolation=method), np.uint8)


def with_box(image: Picture, box: Box, colour: tuple[int, int, int] = OTHER) -> Picture:
    """A copy with a dotted box."""
    return _dotted_box(image, box, colour)


def _dimmed(photo: NDArray[np.float32], level: float) -> Picture:
    """Nearly grey, its bright parts at `level`, so that colours on top are seen on dark photos as on bright ones."""
    grey = (photo @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    bright = max(float(np.quantile(grey, 0.97)), 0.05)
    return picture(level / bright * (0.8 * grey + 0.2 * photo))


def _hatched(image: Picture, mask: Mask, colour: tuple[int, int, int], strength: float) -> Picture:
    """Diagonal stripes of a colour where the mask is set, as wide as 0.6 % of the image."""
    pitch = max(4, round(0.0125 * max(mask.shape)))
    rows, columns = np.indices(mask.shape)
    stripe = mask & ((rows + columns) % pitch < pitch / 2)
    out = image.astype(np.float32)
    tone = np.array(colour, np.float32)
    out[mask] += 0.25 * strength * (tone - out[mask])
    out[stripe] += 0.75 * strength * (tone - out[stripe])
    return out.astype(np.uint8)


def _dotted_box(image: Picture, box: Box, colour: tuple[int, int, int]) -> Picture:
    edge = np.zeros(image.shape[:2], np.uint8)
    cv2.rectangle(edge, (box[0], box[1]), (box[2] - 1, box[3] - 1), 1, max(1, round(0.0025 * max(edge.shape))))
    rows, columns = np.indices(edge.shape)
    out = image.copy()
    out[(edge > 0)] = (20, 20, 24)
    out[(edge > 0) & ((rows + columns) % 6 < 3)] = colour
    return out


def _mask_label(mask: Mask, text: str, colour: tuple[int, int, int], kind: Kind) -> list[Label]:
    box = mask_box(mask)
    if box is None:
        return []
    return [Label((box[0] + box[2]) / 2 / mask.shape[1], box[1] / mask.shape[0], text, colour, kind)]


def _apart(labels: Sequence[Label]) -> list[Label]:
    """Labels moved up or down, as little as possible, until none covers another."""
    placed: list[Label] = []
    for label in labels:
        x, steps = min(max(label.x, 0.05), 0.95), [0.02 * k * sign for k in range(30) for sign in (1, -1)]
        free = [
            y for y in (label.y + step for step in steps)
            if 0.06 <= y <= 0.98 and not any(abs(x - p.x) < 0.085 and abs(y - p.y) < 0.075 for p in placed)
        ]
        y = free[0] if free else min(max(label.y, 0.06), 0.98)
        placed.append(Label(x, y, label.text, label.colour, label.kind))
    return placed
