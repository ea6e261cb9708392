"""The optional networks: folders are checked, images prepared as published, distances and outlines behave."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from learned_folders import dino_folder, needs_transformers, sam_folder

from ltgs.change.learned import (
    LearnedConfig,
    LearnedCues,
    check_learned,
    choose_outline,
    combined_score,
    feature_score,
)
from ltgs.change.learned_models import (
    DINO_TYPES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SAM_TYPES,
    DinoFeatures,
    ModelFolder,
    SamMasks,
    bounding_box,
    feature_distance,
    innermost_pixel,
    open_folder,
    prepare_image,
)
from ltgs.core.cameras import Camera
from ltgs.core.views import ComparedView
from ltgs.errors import FormatError, InputError, MissingDependency, UsageError
from ltgs.io.weights import read_weights, write_weights


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours with some grain."""
    rng = np.random.default_rng(seed)
    coarse = torch.tensor(rng.random((1, 3, 9, 11)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    return np.clip(smooth.numpy() + rng.normal(0, 0.03, (height, width, 3)), 0, 1).astype(np.float32)


def repainted(image: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    out = image.copy()
    out[rows, columns] = 1 - out[rows, columns][::-1]
    return out


def view_of(photo: np.ndarray, shown: np.ndarray, score: np.ndarray | None = None) -> ComparedView:
    height, width = photo.shape[:2]
    k = np.array([[100.0, 0, width / 2], [0, 100.0, height / 2], [0, 0, 1]])
    ones = np.ones((height, width), np.float32)
    score = np.zeros((height, width), np.float32) if score is None else score
    return ComparedView(
        Camera("a.png", 1, width, height, k, np.eye(4)), photo, shown, np.eye(3, 4), np.ones_like(photo), ones, ones, score, score >= 1,
        score < 0.9, 0.01,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "dino": dino_folder(root / "dino"), "registers": dino_folder(root / "registers", registers=4),
        "sharded": dino_folder(root / "sharded", shard="40KB"), "sam": sam_folder(root / "sam"),
        "video": sam_folder(root / "video", video=True),
    }


@pytest.fixture
def dino(folders: dict[str, Path]) -> DinoFeatures:
    return DinoFeatures(open_folder(folders["dino"], DINO_TYPES, what="DINOv2"))


@pytest.fixture
def sam(folders: dict[str, Path]) -> SamMasks:
    return SamMasks(open_folder(folders["sam"], SAM_TYPES, what="SAM 2"))


def disc(height: int, width: int, row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


# What needs no network


def test_feature_score_is_relative_to_the_photos_own_unchanged_pixels() -> None:
    rng = np.random.default_rng(0)
    distance = np.abs(rng.normal(0.1, 0.02, (60, 80))).astype(np.float32)
    distance[20:30, 30:45] = 0.3
    unchanged = np.ones((60, 80), bool)
    unchanged[18:32, 28:47] = False
    score = feature_score(distance, unchanged)
    # The logarithms of the unchanged pixels vary by 0.2, less than the floor, so: log(0.3 / 0.1) / 0.5 / 3.
    assert score[20:30, 30:45].mean() == pytest.approx(np.log(3) / 0.5 / 3, rel=0.03)
    assert abs(float(np.median(score[unchanged]))) < 1e-5 and score[unchanged].max() < 0.5
    # Another network with ten times smaller distances says the same.
    np.testing.assert_allclose(feature_score(distance / 10, unchanged), score, atol=0.01)
    # A photo whose unchanged pixels differ by large factors, as those of a partly blurred render do, raises its own bar.
    uneven = (distance * np.exp(rng.normal(0, 1.2, distance.shape))).astype(np.float32)
    uneven[20:30, 30:45] = 0.3
    assert feature_score(uneven, unchanged)[20:30, 30:45].mean() < 0.5 * score[20:30, 30:45].mean()
    distance[20:30, 30:45] = 1.9
    assert feature_score(distance, unchanged, config=LearnedConfig(level=1.0)).max() == 1
    assert np.abs(feature_score(np.zeros((60, 80), np.float32), unchanged)).max() == 0


def test_features_can_confirm_and_doubt_but_not_reach_the_unknown() -> None:
    score = np.array([[0.9, 1.1, 0.0, 2.0]], np.float32)
    features = np.array([[1.0, -0.6, 1.0, 1.0]], np.float32)
    known = np.array([[True, True, True, False]])
    total = combined_score(score, features, known, 0.5)
    assert total[0, 0] > 1 and total[0, 1] < 1 and total[0, 2] < 0.6 and total[0, 3] == 0
    np.testing.assert_array_equal(combined_score(score, features, np.ones_like(known), 0.0), score)


def test_the_outline_nearest_to_the_mask_is_taken_or_none() -> None:
    mask = disc(60, 80, 30, 40, 12)
    part, whole, more = disc(60, 80, 30, 40, 5), disc(60, 80, 31, 41, 13), np.ones((60, 80), bool)
    chosen = choose_outline(mask, np.stack([part, whole, more]), 0.5)
    assert chosen.taken and np.array_equal(chosen.mask, whole) and 0.75 < chosen.iou < 1
    kept = choose_outline(mask, np.stack([part, more]), 0.5)
    assert not kept.taken and np.array_equal(kept.mask, mask) and kept.iou == pytest.approx(max(part.sum() / mask.sum(), mask.mean()))
    away = choose_outline(mask, disc(60, 80, 5, 5, 4)[None], 0.0)
    assert not away.taken and np.array_equal(away.mask, mask)


def test_prompts_lie_in_the_mask() -> None:
    mask = disc(50, 70, 20, 44, 11) | disc(50, 70, 40, 10, 4)
    column, row = innermost_pixel(mask)
    assert abs(column - 44) <= 1 and abs(row - 20) <= 1
    assert bounding_box(mask) == (6, 9, 55, 44)
    # An image filled to its border still has a middle.
    assert innermost_pixel(np.ones((21, 31), bool))[1] == 10


@pytest.mark.parametrize(("side", "size", "mode"), [((60, 90), (42, 56), "bicubic"), ((45, 30), (64, 64), "bilinear")])
def test_images_are_resampled_as_pillow_does(side: tuple[int, int], size: tuple[int, int], mode: str) -> None:
    pixels = (picture(*side) * 255).round().astype(np.uint8)
    folder = ModelFolder(Path("x"), "dinov2", {}, (), IMAGENET_MEAN, IMAGENET_STD)
    ours = prepare_image(pixels.astype(np.float32) / 255, size, mode, folder)[0].permute(1, 2, 0).numpy()
    method = PIL.Image.Resampling.BICUBIC if mode == "bicubic" else PIL.Image.Resampling.BILINEAR
    resized = np.asarray(PIL.Image.fromarray(pixels).resize(size[::-1], method), np.float32)
    theirs = (resized / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    # Pillow rounds to whole grey levels after each direction.
    assert ours.shape == (*size, 3) and np.abs(ours - theirs).max() < 1.6 / 255 / min(IMAGENET_STD)


def test_absent_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "transformers" else find(name, *a))
    with pytest.raises(MissingDependency, match=r"DINOv2 needs the transformers package\. Run: pip install transformers"):
        check_learned(LearnedConfig(dino=str(tmp_path)))
    with pytest.raises(MissingDependency, match="SAM 2 needs the transformers"):
        check_learned(LearnedConfig(sam=str(tmp_path)))
    check_learned(LearnedConfig())


def test_impossible_settings_are_refused() -> None:
    for bad in ({"dino": ""}, {"sam": ""}, {"share": -1.0}, {"share": 0.8}, {"level": 0.0}, {"floor": 0.0}, {"max_side": 8},
                {"min_iou": 1.5}):
        with pytest.raises(ValueError, match=r"update\.learned"):
            LearnedConfig(**bad)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            check_learned(LearnedConfig(device="cuda"))


# Folders


def broken(source: Path, target: Path, *, config: dict | None = None, drop: str = "", extra: bool = False) -> Path:
    """A copy of a model's folder with something wrong."""
    target.mkdir()
    settings = {**json.loads((source / "config.json").read_text()), **(config or {})}
    (target / "config.json").write_text(json.dumps(settings))
    tensors, header = read_weights(source / "model.safetensors")
    tensors = {n: v for n, v in tensors.items() if not drop or drop not in n}
    if extra:
        tensors["odd.weight"] = torch.ones(2)
    write_weights(target / "model.safetensors", tensors, header)
    return target


@needs_transformers
def test_foreign_and_pickled_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def load(path: Path) -> DinoFeatures:
        return DinoFeatures(open_folder(path, DINO_TYPES, what="DINOv2"))

    source = folders["dino"]
    with pytest.raises(InputError, match="nothing is downloaded"):
        load(tmp_path / "facebook" / "dinov2-small")
    with pytest.raises(FormatError, match="of type sam2, but DINOv2 is dinov2 or"):
        load(folders["sam"])
    with pytest.raises(FormatError, match="of type dinov2, but SAM 2 is"):
        open_folder(source, SAM_TYPES, what="SAM 2")
    with pytest.raises(FormatError, match=r"do not fit config.json \(4 missing, e.g. encoder.layer.0.norm1.bias"):
        load(broken(source, tmp_path / "lacks", drop="norm1"))
    with pytest.raises(FormatError, match=r"1 left over, e.g. odd.weight"):
        load(broken(source, tmp_path / "beyond", extra=True))
    with pytest.raises(FormatError, match="of another shape"):
        load(broken(source, tmp_path / "wide", config={"hidden_size": 64}))
    with pytest.raises(FormatError, match="cannot build this model"):
        load(broken(source, tmp_path / "odd", config={"hidden_act": "magic"}))
    with pytest.raises(FormatError, match="quantised"):
        load(broken(source, tmp_path / "small", config={"quantization_config": {"bits": 4}}))
    only_pickle = broken(source, tmp_path / "pickle")
    tensors = read_weights(only_pickle / "model.safetensors")[0]
    (only_pickle / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        load(only_pickle)
    torch.save(tensors, only_pickle / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"pytorch_model\.bin, a pickled checkpoint"):
        load(only_pickle)
    (only_pickle / "pytorch_model.bin").rename(only_pickle / "model.safetensors")
    with pytest.raises(FormatError, match="not a safetensors file"):
        load(only_pickle)


@needs_transformers
def test_no_file_outside_of_the_folder_is_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    path = broken(folders["dino"], tmp_path / "index")
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../dino/model.safetensors"}}))
    with pytest.raises(FormatError, match="no safetensors file of this folder"):
        open_folder(path, DINO_TYPES, what="DINOv2")


@needs_transformers
def test_code_beside_the_weights_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    code = {"auto_map": {"AutoModel": "evil.Model"}, "_attn_implementation": "someone/kernels", "return_dict": False}
    path = broken(folders["dino"], tmp_path / "code", config=code)
    (path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    image = picture(40, 50)
    ours = DinoFeatures(open_folder(path, DINO_TYPES, what="DINOv2")).features(image)
    plain = DinoFeatures(open_folder(folders["dino"], DINO_TYPES, what="DINOv2")).features(image)
    assert torch.equal(ours, plain) and not (tmp_path / "ran").exists() and "evil" not in sys.modules


@needs_transformers
def test_constants_come_from_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    path = broken(folders["dino"], tmp_path / "own")
    assert open_folder(path, DINO_TYPES, what="DINOv2").mean == IMAGENET_MEAN
    constants = {"image_mean": [0.5, 0.5, 0.25], "image_std": [0.5, 0.5, 0.5], "do_resize": True, "size": {"shortest_edge": 256}}
    (path / "preprocessor_config.json").write_text(json.dumps(constants))
    folder = open_folder(path, DINO_TYPES, what="DINOv2")
    x = prepare_image(np.full((14, 14, 3), 0.75, np.float32), (14, 14), "bicubic", folder)
    assert x[0, :, 3, 3].tolist() == pytest.approx([0.5, 0.5, 1.0])
    (path / "preprocessor_config.json").write_text(json.dumps({**constants, "image_std": [0.5, 0, 0.5]}))
    with pytest.raises(FormatError, match="image_std must be positive"):
        open_folder(path, DINO_TYPES, what="DINOv2")


# DINOv2


@needs_transformers
@pytest.mark.parametrize(("shape", "grid"), [((60, 84), (4, 6)), ((83, 41), (6, 3)), ((5, 9), (1, 1))])
def test_features_cover_portrait_and_odd_images(dino: DinoFeatures, shape: tuple[int, int], grid: tuple[int, int]) -> None:
    image = picture(*shape)
    features = dino.features(image)
    assert features.shape == (*grid, 32) and torch.equal(features, dino.features(image))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(grid))
    distance = feature_distance(features, dino.features(image), shape)
    assert distance.shape == shape and distance.dtype == np.float32 and distance.max() < 1e-6


@needs_transformers
def test_large_images_are_brought_down_to_whole_patches(folders: dict[str, Path]) -> None:
    small = DinoFeatures(open_folder(folders["dino"], DINO_TYPES, what="DINOv2"), max_side=70)
    assert small.grid(480, 640) == (4, 5) and small.grid(640, 480) == (5, 4) and small.grid(70, 14) == (5, 1)
    assert small.features(picture(120, 160)).shape == (4, 5, 32)


@needs_transformers
@pytest.mark.parametrize("name", ["dino", "registers", "sharded"])
def test_a_changed_place_differs_most(folders: dict[str, Path], name: str) -> None:
    dino = DinoFeatures(open_folder(folders[name], DINO_TYPES, what="DINOv2"))
    image = picture(112, 168)
    changed = repainted(image, slice(28, 56), slice(98, 140))
    distance = feature_distance(dino.features(image), dino.features(changed), (112, 168))
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    assert 28 <= row < 56 and 98 <= column < 140
    assert distance[35:49, 105:133].mean() > 5 * distance[70:, :84].mean()


@needs_transformers
def test_shards_hold_the_same_network(folders: dict[str, Path]) -> None:
    assert not (folders["sharded"] / "model.safetensors").exists()
    image = picture(60, 60)
    features = [DinoFeatures(open_folder(folders[n], DINO_TYPES, what="DINOv2")).features(image) for n in ("dino", "sharded")]
    assert torch.equal(*features)


@needs_transformers
def test_rescoring_finds_what_the_cues_missed_and_doubts_what_features_do_not_see(folders: dict[str, Path]) -> None:
    photo = picture(112, 168)
    shown = repainted(photo, slice(28, 56), slice(98, 140))
    score = np.zeros((112, 168), np.float32)
    score[28:56, 98:140] = 0.8
    score[80:100, 20:60] = 1.05
    cues = LearnedCues(LearnedConfig(dino=str(folders["dino"]), device="cpu"))
    view = view_of(photo, shown, score)
    after = cues.rescore(view)
    assert not view.mask[42, 119] and after.mask[42, 119] and view.mask[90, 40] and not after.mask[90, 40]
    assert np.array_equal(after.photo, photo) and after.score.dtype == np.float32 and np.array_equal(cues.rescore(view).score, after.score)
    same = cues.rescore(view_of(photo, photo))
    assert same.score.max() < 0.05 and not same.mask.any()
    hidden = cues.rescore(replace(view, alpha=np.zeros((112, 168), np.float32)))
    assert hidden.score.max() == 0


# SAM 2


@needs_transformers
def test_prompts_reach_the_network_in_its_own_pixels(sam: SamMasks) -> None:
    given: dict = {}
    # Copies, because older versions of the package shift boxes in place.
    sam.model.prompt_encoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: given.update({k: v.clone() for k, v in kwargs.items() if v is not None}), with_kwargs=True
    )
    image, mask = picture(48, 96), disc(48, 96, 24, 60, 7)
    other = disc(48, 96, 10, 20, 5)
    out = sam.candidates(sam.embed(image), [mask, other])
    # The image is stretched to 64 x 64: columns shrink to two thirds, rows grow by a third.
    assert given["input_points"].shape == (1, 2, 1, 2) and given["input_labels"].tolist() == [[[1], [1]]]
    np.testing.assert_allclose(given["input_points"][0, :, 0].numpy(), [[60 * 2 / 3, 24 * 4 / 3], [20 * 2 / 3, 10 * 4 / 3]], atol=1)
    boxes = [[53 * 2 / 3, 17 * 4 / 3, 67 * 2 / 3, 31 * 4 / 3], [15 * 2 / 3, 5 * 4 / 3, 25 * 2 / 3, 15 * 4 / 3]]
    np.testing.assert_allclose(given["input_boxes"][0].numpy(), boxes, rtol=1e-5)
    assert [o.shape for o in out] == [(3, 48, 96)] * 2 and all(o.dtype == bool for o in out)


@needs_transformers
@pytest.mark.parametrize("name", ["sam", "video"])
@pytest.mark.parametrize("shape", [(61, 83), (90, 47)])
def test_outlines_keep_shape_and_repeat(folders: dict[str, Path], name: str, shape: tuple[int, int]) -> None:
    sam = SamMasks(open_folder(folders[name], SAM_TYPES, what="SAM 2"))
    image, masks = picture(*shape), [disc(*shape, 30, 20, 9), disc(*shape, 50, 35, 6)]
    first, again = (sam.candidates(sam.embed(image), masks) for _ in range(2))
    assert all(np.array_equal(a, b) and a.shape == (3, *shape) for a, b in zip(first, again, strict=True))
    assert sam.candidates(sam.embed(image), []) == []
    # Even random weights answer to the prompt and to the image.
    other = sam.candidates(sam.embed(1 - image), masks)
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@needs_transformers
def test_an_outline_is_taken_only_where_it_agrees(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(60, 80)
    left, right, nothing = disc(60, 80, 30, 20, 10), disc(60, 80, 30, 44, 10), np.zeros((60, 80), bool)
    cues = LearnedCues(LearnedConfig(sam=str(folders["sam"]), device="cpu"))
    assert cues.rescore(view := view_of(image, image)) is view
    strict = LearnedCues(LearnedConfig(sam=str(folders["sam"]), device="cpu", min_iou=1.0))
    kept = strict.outlines(image, [left, nothing, right])
    assert [o.taken for o in kept] == [False] * 3 and all(o.mask is m for o, m in zip(kept, (left, nothing, right), strict=True))
    assert "0 of 2 masks, 2 stayed weight-free (overlap below 1)" in strict.method({"change": "c", "objects": "weight-free: o"})["objects"]
    # A network that proposes a ring too much for the left object, reaching into the right one.
    wide = np.stack([disc(60, 80, 30, 20, 3), disc(60, 80, 30, 25, 13), np.ones((60, 80), bool)])
    assert cues.sam is not None
    monkeypatch.setattr(cues.sam, "candidates", lambda embedding, masks: [wide, wide & False])
    taken, empty, refused = cues.outlines(image, [left, nothing, right])
    assert taken.taken and not (taken.mask & right).any() and taken.mask.sum() > left.sum() and taken.iou < 0.7
    assert not empty.taken and not refused.taken and refused.mask is right
    assert cues.method({"change": "weight-free: c", "objects": "weight-free: o"}) == {
        "change": "weight-free: c",
        "objects": "learned: o + SAM 2 outlines (sam): 1 of 2 masks, 1 stayed weight-free (overlap below 0.5)",
    }


@needs_transformers
def test_the_record_names_the_feature_cue(folders: dict[str, Path]) -> None:
    cues = LearnedCues(LearnedConfig(dino=str(folders["dino"]), device="cpu"))
    assert cues.method({"change": "weight-free: c", "objects": "weight-free: o"}) == {
        "change": "learned: c + DINOv2 feature distance (dino, 32 channels)", "objects": "weight-free: o",
    }
    assert cues.outlines(picture(20, 20), [np.ones((20, 20), bool)])[0].taken is False
