"""Import of `hloc_results.json`, what the LTGS localisation stage writes: poses of update photos as lists of numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltgs.core.captures import Localization
from ltgs.core.se3 import make_rigid, quat_to_matrix
from ltgs.errors import FormatError
from ltgs.io.camera_codec import checked_photo_name
from ltgs.io.json_files import need, need_array, need_int, need_number, read_json
from ltgs.io.posed import MODEL_PARAMS, PosedPhoto

_MODELS_BY_ID = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")


def read_hloc_results(path: Path) -> tuple[tuple[PosedPhoto, ...], tuple[Localization, ...]]:
    """Read the list of `{name, model, width, height, rotation, translation, params, num_inliers}`.

    Convention: `rotation` is a quaternion in the order x, y, z, w (that of pycolmap), `translation` maps world to camera.

    Returns:
        Photos with poses, and the same as localisations; both in file order.

    Raises:
        InputError: the file cannot be read.
        FormatError: an entry is missing, not a rigid motion, or a name occurs twice.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise FormatError(f"{path}: must be a list of localised photos. Check that this is the right file.")
    photos, results = [], []
    seen: set[str] = set()
    for index, record in enumerate(content):
        photo = _photo(record, f"{path}, entry {index}")
        if photo.name in seen:
            raise FormatError(f"{path}: {photo.name} is listed twice. Remove one entry.")
        seen.add(photo.name)
        inliers = int(need_number(record, "num_inliers", f"{path}, entry {index}", 0.0))
        flags = record.get("inliers")
        ratio = inliers / len(flags) if isinstance(flags, list) and flags else 0.0
        photos.append(photo)
        results.append(
            Localization(photo.name, photo.cam_from_world, inliers, ratio, None, "imported from hloc_results.json")
        )
    return tuple(photos), tuple(results)


def _photo(record: Any, where: str) -> PosedPhoto:
    name = checked_photo_name(need(record, "name", str, where).replace("\\", "/").removeprefix("./"), where)
    model: Any = need(record, "model", (str, int), where)
    if isinstance(model, int):
        model = _MODELS_BY_ID[model] if 0 <= model < len(_MODELS_BY_ID) else str(model)
    # pycolmap prints an enumeration as "CameraModelId.PINHOLE" in some versions.
    model = model.rsplit(".", 1)[-1]
    if model not in MODEL_PARAMS:
        raise FormatError(f"{where}: the camera model {model[:40]!r} is not supported, only {', '.join(MODEL_PARAMS)}.")
    x, y, z, w = need_array(need(record, "rotation", list, where), (4,), f"{where}, rotation")
    norm = float(np.sqrt(x * x + y * y + z * z + w * w))
    if not 0.9 < norm < 1.1:
        raise FormatError(f"{where}: the quaternion has norm {norm:.3g} instead of 1. Run the localisation again.")
    rotation = quat_to_matrix(torch.tensor([w, x, y, z], dtype=torch.float64)).numpy()
    translation = need_array(need(record, "translation", list, where), (3,), f"{where}, translation")
    params = need_array(need(record, "params", list, where), (MODEL_PARAMS[model],), f"{where}, params")
    width, height = (need_int(record, key, where, 1, 1 << 17) for key in ("width", "height"))
    try:
        return PosedPhoto(
            name, width, height, model, tuple(float(p) for p in params), make_rigid(rotation, translation)
        )
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error
