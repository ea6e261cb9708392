"""DINOv2 (Oquab et al., 2023) and SAM 2 (Ravi et al., 2024) from local folders, through the optional transformers package.

A folder is what Hugging Face publishes for a model: config.json, the weights as safetensors, perhaps preprocessor_config.json.
Nothing is downloaded, no pickled file is opened, no code from a folder runs, and of config.json only numbers that describe the
network are used. The image processors of the package need torchvision for SAM 2, so their steps are done here in torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ltgs.errors import FormatError, InputError, MissingDependency
from ltgs.io.json_files import need, need_array, read_json
from ltgs.io.weights import read_weights

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
DINO_TYPES = ("dinov2", "dinov2_with_registers")
SAM_TYPES = ("sam2", "sam2_video")
"""Published SAM 2 folders call themselves sam2_video; their image part is all that is used."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Both models' published preprocessor_config.json names these; they stand in where a folder lacks that file."""
_GROUPS: dict[str, dict[str, str]] = {
    "vision_config": {"model_type": "sam2_vision_model"}, "backbone_config": {"model_type": "sam2_hiera_det_model"},
    "prompt_encoder_config": {}, "mask_decoder_config": {},
}
"""Parts of SAM 2 in a config.json, and the types they must have; another type is found out by its weights."""
_OUTPUTS = ("return_dict", "output_attentions", "output_hidden_states")
"""Entries of a config.json that say what a call returns; they are no part of the network."""
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, looked at but without its weights."""

    path: Path
    kind: str
    """model_type of config.json."""
    config: dict[str, Any]
    """config.json's description of the network: numbers, lists of numbers, and groups of them."""
    weights: tuple[Path, ...]
    mean: tuple[float, ...]
    """[3] subtracted from colours in [0, 1]."""
    std: tuple[float, ...]
    """[3] that they are divided by then."""

    @property
    def name(self) -> str:
        """The folder's own name, for reports."""
        return self.path.resolve().name

    def tensors(self) -> dict[str, Tensor]:
        """All weights.

        Raises:
            InputError, FormatError: a file cannot be read or is no safetensors file.
        """
        return {name: value for path in self.weights for name, value in read_weights(path)[0].items()}


def open_folder(folder: Path | str, kinds: Sequence[str], *, what: str) -> ModelFolder:
    """Check a model's folder and read everything but the weights.

    Args:
        kinds: values of model_type that will do.
        what: the model's name for messages.

    Raises:
        MissingDependency: transformers is not installed.
        InputError: there is no such folder or it lacks a file.
        FormatError: another model, or only pickled weights, or a malformed file.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingDependency(f"{what} needs the transformers package. Run: pip install transformers")
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise InputError(
            f"{path}: no folder with a config.json. Give the local folder of {what} with config.json and model.safetensors, "
            "as published on Hugging Face; nothing is downloaded."
        )
    where = str(path / "config.json")
    config = read_json(path / "config.json")
    kind = need(config, "model_type", str, where)
    if kind not in kinds:
        raise FormatError(f"{where}: a model of type {kind}, but {what} is {' or '.join(kinds)}. Check the folder.")
    if "quantization_config" in config:
        raise FormatError(f"{where}: quantised weights are not supported. Use the published 32-bit or 16-bit model.")
    mean, std = _colour_constants(path / "preprocessor_config.json")
    return ModelFolder(path, kind, _network_part(config), _weight_files(path), mean, std)


def _network_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a config.json. Names of code, of devices, of attention kernels and of labels are left behind."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            if key in _GROUPS:
                out[key] = _network_part(value) | _GROUPS[key]
        elif key not in _OUTPUTS and not key.startswith("_") and (key == "hidden_act" or _numeric(value)):
            out[key] = value
    return out


def _numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(_numeric(v) for v in value)
    return isinstance(value, (bool, int, float))


def _weight_files(path: Path) -> tuple[Path, ...]:
    single, index = path / "model.safetensors", path / _INDEX
    if single.is_file():
        return (single,)
    if index.is_file():
        names = sorted({str(v) for v in need(read_json(index), "weight_map", dict, str(index)).values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise FormatError(f"{index}: names the file {name!r}, which is no safetensors file of this folder. Download it again.")
        return tuple(path / name for name in names)
    pickled = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickled:
        raise FormatError(
            f"{path}: only {pickled[0]}, a pickled checkpoint that could run code. Use the model's safetensors file instead."
        )
    raise InputError(f"{path}: no model.safetensors. Download the whole folder.")


def _colour_constants(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not path.is_file():
        return IMAGENET_MEAN, IMAGENET_STD
    record = read_json(path)
    mean = need_array(need(record, "image_mean", list, str(path)), (3,), f"{path}: image_mean")
    std = need_array(need(record, "image_std", list, str(path)), (3,), f"{path}: image_std")
    if (std <= 0).any():
        raise FormatError(f"{path}: image_std must be positive. Download the file again.")
    return tuple(mean.tolist()), tuple(std.tolist())


def prepare_image(image: Image, size: tuple[int, int], mode: str, folder: ModelFolder) -> Tensor:
    """[H, W, 3] in [0, 1] -> [1, 3, h, w] resampled with antialiasing (as Pillow does) and normalised."""
    x = torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)[None]
    if x.shape[-2:] != size:
        x = F.interpolate(x, size, mode=mode, align_corners=False, antialias=True)
    mean, std = (x.new_tensor(v).view(1, 3, 1, 1) for v in (folder.mean, folder.std))
    return (x.clamp(0, 1) - mean) / std


class DinoFeatures:
    """Frozen DINOv2, with or without register tokens: one unit feature per patch of an image."""

    def __init__(self, folder: ModelFolder, *, device: str = "cpu", max_side: int = 1036) -> None:
        """Load the weights.

        Args:
            max_side: images are brought to at most this many pixels on the long side, never enlarged by more than half a patch.

        Raises:
            InputError, FormatError: the weights cannot be read or are another network's.
        """
        self.folder, self.device, self.max_side = folder, torch.device(device), max_side
        import transformers

        prefix = "Dinov2WithRegisters" if folder.kind == "dinov2_with_registers" else "Dinov2"
        model_class, config_class = getattr(transformers, f"{prefix}Model"), getattr(transformers, f"{prefix}Config")
        self.model = _load(folder, model_class, config_class, folder.config).to(self.device)
        self.patch = int(self.model.config.patch_size)
        self.skip = 1 + int(getattr(self.model.config, "num_register_tokens", 0))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an image: whole patches, the nearest number on each side."""
        scale = min(1.0, self.max_side / max(height, width)) / self.patch
        return max(1, round(height * scale)), max(1, round(width * scale))

    @torch.inference_mode()
    def features(self, image: Image) -> Tensor:
        """[H, W, 3] in [0, 1] -> [rows, columns, D] features of length 1; the patches cover the image evenly."""
        rows, columns = self.grid(*image.shape[:2])
        x = prepare_image(image, (rows * self.patch, columns * self.patch), "bicubic", self.folder)
        tokens = self.model(pixel_values=x.to(self.device)).last_hidden_state[0, self.skip :]
        return F.normalize(tokens.float(), dim=-1).reshape(rows, columns, -1).cpu()


def feature_distance(a: Tensor, b: Tensor, shape: tuple[int, int]) -> Image:
    """[rows, columns, D] unit features twice -> [H, W] cosine distance in [0, 2], interpolated between the patches' centres."""
    distance = (1 - (a * b).sum(-1)).clamp_min(0)
    return F.interpolate(distance[None, None], shape, mode="bilinear", align_corners=False)[0, 0].numpy()


class SamMasks:
    """Frozen SAM 2, image part: outlines proposed for masks that are roughly right."""

    def __init__(self, folder: ModelFolder, *, device: str = "cpu") -> None:
        """Load the weights.

        Raises:
            InputError, FormatError: the weights cannot be read or are another network's.
        """
        self.folder, self.device = folder, torch.device(device)
        from transformers import Sam2Config, Sam2Model

        groups = {key: value for key, value in folder.config.items() if key in _GROUPS}
        self.model = _load(folder, Sam2Model, Sam2Config, groups).to(self.device)
        self.side = int(self.model.prompt_encoder.input_image_size)

    @torch.inference_mode()
    def embed(self, image: Image) -> list[Tensor]:
        """[H, W, 3] in [0, 1] -> the encoder's feature maps. The image is stretched to a square, as SAM 2 was trained."""
        x = prepare_image(image, (self.side, self.side), "bilinear", self.folder)
        return self.model.get_image_embeddings(x.to(self.device))

    @torch.inference_mode()
    def candidates(self, embedding: Sequence[Tensor], masks: Sequence[Mask]) -> list[NDArray[np.bool_]]:
        """Outlines for every mask from its bounding box and its innermost pixel.

        Args:
            embedding: `embed` of the image.
            masks: [H, W] each, none empty.

        Returns:
            [3, H, W] per mask: SAM 2's readings of an ambiguous prompt, usually part, whole and more.
        """
        if not masks:
            return []
        height, width = masks[0].shape
        scale = np.array([self.side / width, self.side / height])
        points = np.array([[[innermost_pixel(m)]] for m in masks]).reshape(1, len(masks), 1, 2) * scale
        boxes = np.array([bounding_box(m) for m in masks]).reshape(1, len(masks), 4) * np.tile(scale, 2)
        out = self.model(
            image_embeddings=list(embedding), multimask_output=True,
            input_points=torch.tensor(points, dtype=torch.float32, device=self.device),
            input_labels=torch.ones(points.shape[:3], dtype=torch.int32, device=self.device),
            input_boxes=torch.tensor(boxes, dtype=torch.float32, device=self.device),
        )
        # Full size is made mask by mask: all at once would be large.
        return [
            (F.interpolate(logits[None].float(), (height, width), mode="bilinear", align_corners=False)[0] > 0).cpu().numpy()
            for logits in out.pred_masks[0]
        ]


def innermost_pixel(mask: Mask) -> tuple[int, int]:
    """(column, row) of the pixel farthest from the mask's outline."""
    inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inside.argmax()), mask.shape)
    return int(column), int(row)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """(first column, first row, last column, last row)."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def _load(folder: ModelFolder, model_class: Any, config_class: Any, settings: Mapping[str, Any]) -> Any:
    """A frozen model of the package, filled with a folder's weights without remainder.

    Raises:
        InputError, FormatError: the weights cannot be read, or some are missing, left over or of another shape.
    """
    tensors = folder.tensors()
    try:
        with _quiet():
            config = config_class(**settings)
            # Without a path the package opens no file and asks no server; names of older versions are still translated.
            model, report = model_class.from_pretrained(
                None, config=config, state_dict=tensors, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
            )
    except Exception as error:
        # The package has many kinds of errors for a config.json from which no network can be built.
        raise FormatError(f"{folder.path}: transformers cannot build this model ({type(error).__name__}: {error}). Check it.") from error
    problems = [
        f"{len(keys)} {title}, e.g. {sorted(str(k) for k in keys)[0]}"
        for title, keys in (("missing", report["missing_keys"]), ("left over", report["unexpected_keys"]),
                            ("of another shape", report["mismatched_keys"]))
        if keys
    ]
    if problems:
        raise FormatError(f"{folder.path}: the weights do not fit config.json ({'; '.join(problems)}). Download the folder again.")
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and reports of the package while a model is made; this program reports for itself."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
