"""Random scale, crop, colour and occlusion of photographs of a stereo pair; the truth follows."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ltgs.depth.synth.draw import Draw
from ltgs.depth.training.config import Augmentation
from ltgs.depth.training.datasets import StereoPair

Image = NDArray[np.float32]


def augmented_crop(pair: StereoPair, crop: tuple[int, int], how: Augmentation, *seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One training crop.

    Args:
        crop: height and width; smaller photographs are enlarged.
        seed: decides everything that is random.

    Returns:
        left and right [3, H, W] in 0..255, disparity [1, H, W] pixels (0 where unknown), valid [1, H, W] bool.
    """
    draw = Draw(*seed)
    left, right, disparity = scaled(pair, _scale(pair.disparity.shape, crop, how, draw))
    top = draw.integer(0, disparity.shape[0] - crop[0] + 1)
    start = draw.integer(0, disparity.shape[1] - crop[1] + 1)
    jitter = draw.integer(-how.row_jitter, how.row_jitter + 1)
    low = min(max(top + jitter, 0), right.shape[0] - crop[0])
    columns = slice(start, start + crop[1])
    left, disparity = left[top : top + crop[0], columns], disparity[top : top + crop[0], columns]
    right = right[low : low + crop[0], columns]
    left, right = _colored(left, right, how, draw)
    if draw.chance(how.erase):
        right = _erased(right, draw)
    valid = np.isfinite(disparity)
    truth = torch.from_numpy(np.where(valid, disparity, 0).astype(np.float32))[None]
    return _tensor(left), _tensor(right), truth, torch.from_numpy(valid)[None]


def scaled(pair: StereoPair, scale: float) -> tuple[Image, Image, Image]:
    """Images resized by interpolation, disparity by its nearest value times the horizontal scale actually used."""
    h, w = pair.disparity.shape
    size = (round(w * scale), round(h * scale))
    if size == (w, h):
        return pair.left.astype(np.float32), pair.right.astype(np.float32), pair.disparity
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, right = (cv2.resize(x.astype(np.float32), size, interpolation=how) for x in (pair.left, pair.right))
    # Averages across an edge, or with unknown neighbours, are disparities of nothing.
    disparity = cv2.resize(pair.disparity, size, interpolation=cv2.INTER_NEAREST_EXACT) * np.float32(size[0] / w)
    return left, right, disparity  # type: ignore[return-value]


def _scale(shape: tuple[int, ...], crop: tuple[int, int], how: Augmentation, draw: Draw) -> float:
    wanted = 2 ** draw.uniform(*how.scale)
    # One pixel more than the crop, so that rounding never makes the photograph too small.
    return max(wanted, (crop[0] + 1) / shape[0], (crop[1] + 1) / shape[1])


def _colored(left: Image, right: Image, how: Augmentation, draw: Draw) -> tuple[Image, Image]:
    saturation = draw.uniform(*how.saturation)
    changes = [(draw.uniform(0.6, 1.4), draw.uniform(0.8, 1.2)) for _ in range(2)]
    if not draw.chance(how.asymmetric):
        changes[1] = changes[0]
    out = []
    for image, (brightness, gamma) in zip((left, right), changes, strict=True):
        grey = image.mean(2, keepdims=True)
        value = np.clip((grey + saturation * (image - grey)) * brightness, 0, 255) / 255
        out.append((255 * value**gamma).astype(np.float32))
    return out[0], out[1]


def _erased(right: Image, draw: Draw) -> Image:
    """One or two rectangles of the mean colour: what they cover has no match (RAFT-Stereo)."""
    right = right.copy()
    mean = right.mean((0, 1))
    for _ in range(draw.integer(1, 3)):
        y, x = draw.integer(0, right.shape[0]), draw.integer(0, right.shape[1])
        right[y : y + draw.integer(50, 100), x : x + draw.integer(50, 100)] = mean
    return right


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
