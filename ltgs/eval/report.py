"""Evaluations as JSON values and as table rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ltgs.core.scene import Scene
from ltgs.eval.protocol import Evaluation, ImageScore

METRICS = ("psnr", "ssim", "psnr_colour_fit", "ssim_colour_fit")


def evaluation_json(evaluation: Evaluation, scene: Scene) -> dict[str, Any]:
    """The whole evaluation as plain values: means per time and over all images, every image, what was skipped."""
    times = sorted({i.time for i in evaluation.images})
    return {
        "kind": evaluation.kind,
        "num_images": len(evaluation.images),
        "metric_notes": {
            "psnr": "dB, render in the visit's light against the photo",
            "ssim": "Gaussian window 11, sigma 1.5, whole windows only, mean over RGB",
            "colour_fit": "after the best 3x4 colour affine per image",
            "lpips": "not computed: it needs pretrained weights",
        },
        "mean": mean_metrics(evaluation.images),
        "times": [
            {
                "time": t, "visit": scene.visits[t].name, "num_images": sum(i.time == t for i in evaluation.images),
                "num_gaussians": _count(scene, t), **mean_metrics([i for i in evaluation.images if i.time == t]),
            }
            for t in times
        ],
        "images": [
            {"name": i.name, "time": i.time, "width": i.width, "height": i.height, **i.metrics} for i in evaluation.images
        ],
        "skipped": dict(evaluation.skipped),
        "warnings": list(evaluation.warnings),
    }


class Scored(Protocol):
    """Anything with metrics by name."""

    @property
    def metrics(self) -> dict[str, float]: ...


def mean_metrics(images: Sequence[Scored]) -> dict[str, float | None]:
    """Mean and standard deviation of every metric; None without images."""
    out: dict[str, float | None] = {}
    for name in METRICS:
        values = [i.metrics[name] for i in images if name in i.metrics]
        out[name] = float(np.mean(values)) if values else None
        out[f"{name}_std"] = float(np.std(values)) if values else None
    return out


def evaluation_rows(evaluation: Evaluation, scene: Scene) -> list[dict[str, str]]:
    """One row per visit and one for all, for a table."""
    groups = [(str(t), scene.visits[t].name, [i for i in evaluation.images if i.time == t])
              for t in sorted({i.time for i in evaluation.images})]
    if len(groups) > 1:
        groups.append(("all", "", list(evaluation.images)))
    rows = []
    for time, visit, images in groups:
        mean = mean_metrics(images)
        rows.append({
            "time": time, "visit": visit, "images": str(len(images)), "resolution": _resolutions(images),
            "PSNR": _number(mean["psnr"], 2), "SSIM": _number(mean["ssim"], 4),
            "PSNR colour fit": _number(mean["psnr_colour_fit"], 2), "SSIM colour fit": _number(mean["ssim_colour_fit"], 4),
        })
    return rows


def _resolutions(images: Sequence[ImageScore]) -> str:
    sizes = sorted({(i.width, i.height) for i in images})
    return f"{sizes[0][0]}x{sizes[0][1]}" + (f" and {len(sizes) - 1} more" if len(sizes) > 1 else "")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _count(scene: Scene, time: int) -> int:
    chronology = scene.chronology
    drawn = len(chronology.background) - len(chronology.lifted)
    return drawn + sum(len(chronology.templates[k].gaussians) for k in chronology.present_ids(time))
