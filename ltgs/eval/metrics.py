"""Image quality: PSNR and SSIM, optionally on a mask and after the best colour affine per image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ltgs.core.checks import check_shape
from ltgs.imaging.ssim import ssim, ssim_map

Image = NDArray[np.float64]
MAX_PSNR = 100.0
"""dB reported for identical images, where the formula is infinite; JSON has no infinity."""


def psnr(render: Image, photo: Image, mask: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB of [H, W, 3] images in [0, 1]; the render is clamped first.

    Args:
        mask: [H, W], pixels that count; None = all.

    Raises:
        ValueError: shapes differ, or the mask is empty.
    """
    error = _squared_error(render, photo)
    if mask is not None:
        check_shape("mask", mask, f"{photo.shape[0]} {photo.shape[1]}")
        if not mask.any():
            raise ValueError("psnr needs at least one pixel inside of the mask.")
        error = error[mask]
    mean = float(error.mean())
    return MAX_PSNR if mean <= 10 ** (-MAX_PSNR / 10) else float(-10 * np.log10(mean))


def structural_similarity(render: Image, photo: Image, mask: NDArray[np.bool_] | None = None) -> float:
    """SSIM of [H, W, 3] images in [0, 1]: Gaussian window 11, sigma 1.5, only windows that lie wholly inside the image.

    With a mask, the mean of the map over the mask's pixels (windows then reach over its border and the image's).

    Raises:
        ValueError: shapes differ, the image is smaller than the window, or the mask is empty.
    """
    _check_pair(render, photo)
    if min(photo.shape[:2]) < 11:
        raise ValueError(f"SSIM needs images of at least 11x11 pixels, got {photo.shape[1]}x{photo.shape[0]}.")
    a = torch.as_tensor(np.ascontiguousarray(np.clip(render, 0, 1)), dtype=torch.float32)
    b = torch.as_tensor(np.ascontiguousarray(photo), dtype=torch.float32)
    if mask is None:
        return float(ssim(a, b, padding="valid"))
    check_shape("mask", mask, f"{photo.shape[0]} {photo.shape[1]}")
    if not mask.any():
        raise ValueError("structural_similarity needs at least one pixel inside of the mask.")
    values = ssim_map(a, b).reshape(photo.shape)
    return float(values[torch.as_tensor(mask)].mean())


def fit_colour(render: Image, photo: Image, mask: NDArray[np.bool_] | None = None) -> Image:
    """[3, 4] affine that brings the render's colours closest to the photo's in the least-squares sense.

    Exposure and white balance are the camera's choice, not the scene's; metrics after this fit do not punish them.
    """
    _check_pair(render, photo)
    source = np.clip(render, 0, 1).reshape(-1, 3)
    target = np.asarray(photo).reshape(-1, 3)
    if mask is not None:
        source, target = source[mask.reshape(-1)], target[mask.reshape(-1)]
    # A slight pull to the identity keeps the fit determined for images of one colour.
    rows = np.concatenate([source, np.ones((len(source), 1))], 1)
    pull = 1e-4 * max(len(source), 1)
    left = rows.T @ rows + pull * np.eye(4)
    right = rows.T @ target + pull * np.eye(4, 3)
    return np.linalg.solve(left, right).T


def apply_colour(affine: Image, render: Image) -> Image:
    """[H, W, 3] colours mapped by a [3, 4] affine and clamped to [0, 1]."""
    return np.clip(np.clip(render, 0, 1) @ affine[:, :3].T + affine[:, 3], 0, 1)


def image_metrics(render: Image, photo: Image, mask: NDArray[np.bool_] | None = None) -> dict[str, float]:
    """psnr, ssim, and both after the best colour affine (psnr_colour_fit, ssim_colour_fit)."""
    fitted = apply_colour(fit_colour(render, photo, mask), render)
    out = {"psnr": psnr(render, photo, mask), "psnr_colour_fit": psnr(fitted, photo, mask)}
    if min(photo.shape[:2]) >= 11:
        out["ssim"] = structural_similarity(render, photo, mask)
        out["ssim_colour_fit"] = structural_similarity(fitted, photo, mask)
    return out


def _squared_error(render: Image, photo: Image) -> Image:
    _check_pair(render, photo)
    return (np.clip(render, 0, 1).astype(np.float64) - np.asarray(photo, np.float64)) ** 2


def _check_pair(render: Image, photo: Image) -> None:
    check_shape("photo", photo, "H W 3")
    check_shape("render", render, f"{photo.shape[0]} {photo.shape[1]} 3")
