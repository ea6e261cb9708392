"""Reader of the LTGS release layout: dense first visit, sparse updates named in `changes.txt`, COLMAP poses.

Reference: LTGS (arXiv 2510.09881). Two pose modes exist: one COLMAP model over all visits (`<scene>/sparse/0`, "sfm_all"),
or a model of the first visit alone (`<scene>/hloc/sparse/0`, "hloc"), to which update photos have to be localised.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ltgs.core.captures import Capture, Frame, Localization
from ltgs.data.ltgs_hloc import read_hloc_results
from ltgs.data.ltgs_split import Split, choose_split
from ltgs.data.photo_folder import natural_key, parse_date
from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, read_capped
from ltgs.io.camera_codec import checked_photo_name
from ltgs.io.colmap import find_colmap_model, read_colmap
from ltgs.io.images import looks_like_photo
from ltgs.io.posed import PosedPhoto

log = logging.getLogger("ltgs.data")

PoseMode = Literal["sfm_all", "hloc"]
FIRST_VISIT = "IMG_0000"
"""The release's fixed name of the dense capture; other names are accepted if they are unambiguous."""
MAX_LIST_BYTES = 16 << 20
FAR_FACTOR = 10.0
"""An imported pose farther from the first visit than this many of its radii is a failed localisation, not a view."""


@dataclass(frozen=True)
class LtgsRelease:
    """A scene of the release, ready to be reconstructed and evaluated."""

    captures: tuple[Capture, ...]
    """Timestep 0, then one per folder of changes.txt in natural order; held-out photos are among the frames."""
    posed: Mapping[str, PosedPhoto]
    """Photos with a known pose, by name; `time` is set."""
    update_names: tuple[tuple[str, ...], ...]
    """[T] photos to learn from: the training views of timestep 0, the photos of changes.txt later."""
    test_names: tuple[tuple[str, ...], ...]
    """[T] held-out photos, never to be trained on."""
    pose_mode: PoseMode
    split_rule: str
    """How test photos were told from the others, in words."""
    warnings: tuple[str, ...] = ()
    localizations: tuple[Localization, ...] = ()
    """Imported results of the authors' localisation (hloc mode)."""

    @property
    def holdout(self) -> frozenset[str]:
        """All held-out names."""
        return frozenset(n for names in self.test_names for n in names)


def read_ltgs_release(
    root: Path | str, *, split: Path | None = None, pose_mode: PoseMode | None = None, hloc_results: Path | None = None
) -> LtgsRelease:
    """Read one scene, e.g. `ltgs_dataset/livingroom` or `ltgs_dataset/livingroom/hloc`.

    Args:
        split: text file with one held-out photo per line; overrides every other rule.
        pose_mode: which model to use if the scene has both; None = "hloc" if `root` is the hloc folder, else the joint one.
        hloc_results: JSON of the authors' localisation; `hloc_results.json` in the scene or its hloc folder if None.

    Raises:
        InputError: no images, no changes.txt, no COLMAP model, or nothing left to use.
        FormatError: a file contradicts the layout.
    """
    scene = Path(root)
    if scene.name == "hloc" and not (scene / "images").is_dir():
        scene, pose_mode = scene.parent, pose_mode or "hloc"
    images = scene / "images"
    if not images.is_dir():
        raise InputError(f"{scene}: has no folder images/. Pass the folder of one scene of the release.")
    warnings: list[str] = []
    mode, model = _find_model(scene, pose_mode, warnings)
    posed = {p.name: p for p in read_colmap(model)}
    disk = _Disk(images)
    changes = _read_names(images / "changes.txt", posed, disk)
    folders = _timestep_folders(changes, {*posed, *disk.names}, warnings)
    time_of = {folder: t for t, folder in enumerate(folders)}
    localizations: tuple[Localization, ...] = ()
    if mode == "hloc":
        posed, localizations = _add_localised(scene, posed, hloc_results, warnings)
    names = _names_per_time(folders, posed, changes, disk, mode, warnings)
    found = choose_split(names, changes, model / "test.txt", split, posed=posed)
    warnings += found.warnings
    posed = {n: dataclasses.replace(p, time=time_of[_folder(n)]) for n, p in posed.items() if _folder(n) in time_of}
    captures = _captures(folders, names, disk, warnings)
    _check_result(captures, found, posed, mode, warnings)
    for text in warnings:
        log.warning("%s: %s", scene.name, text)
    on_disk = {f.name for c in captures for f in c.frames}
    return LtgsRelease(
        captures,
        {n: p for n, p in posed.items() if n in on_disk},
        _only(found.update, on_disk),
        _only(found.test, on_disk),
        mode,
        found.rule,
        tuple(warnings),
        localizations,
    )


def _find_model(scene: Path, wanted: PoseMode | None, warnings: list[str]) -> tuple[PoseMode, Path]:
    joint, first = find_colmap_model(scene), find_colmap_model(scene / "hloc")
    if wanted is None and joint is not None and first is not None:
        warnings.append(
            'the scene has both pose modes; the joint model (sfm_all) is used. Pass pose_mode="hloc" for the other one.'
        )
    mode: PoseMode = wanted or ("sfm_all" if joint is not None else "hloc")
    model = joint if mode == "sfm_all" else first
    if model is None:
        place = (
            "sparse/0" if wanted == "sfm_all" else "hloc/sparse/0" if wanted == "hloc" else "sparse/0 or hloc/sparse/0"
        )
        raise InputError(
            f"{scene}: no COLMAP model in {place}. Unpack the whole archive, or choose the other pose mode."
        )
    return mode, model


class _LooseNames:
    """Names that are also found if case or extension differ, as long as the match is unique."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._loose: dict[str, list[str]] = {}
        for name in sorted(self._names):
            for key in {name.casefold(), _stem(name)}:
                self._loose.setdefault(key, []).append(name)

    def find(self, name: str) -> str | None:
        """The name as it is spelt here; None if it is missing or the choice is not unique."""
        if name in self._names:
            return name
        for key in (name.casefold(), _stem(name)):
            if len(self._loose.get(key, ())) == 1:
                return self._loose[key][0]
        return None


class _Disk(_LooseNames):
    """Photo files below images/, keyed by their relative name."""

    def __init__(self, images: Path) -> None:
        files = (p for p in images.rglob("*") if p.is_file() and looks_like_photo(p))
        self.names = {p.relative_to(images).as_posix(): p for p in files}
        super().__init__(self.names)


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0].casefold()


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _read_names(path: Path, posed: Mapping[str, PosedPhoto], disk: _Disk) -> list[str]:
    """Photo names of changes.txt, spelt as in the model (else as on disk), in natural order, each once.

    The authors separate names by any blank; a line that is a known name as a whole is kept whole, so that names with
    blanks work too.
    """
    if not path.is_file():
        raise InputError(f"{path}: is missing. It lists the update photos, one per line, relative to images/.")
    with explained("read", path):
        data = read_capped(path, MAX_LIST_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not a text file ({error.reason}). Restore it from the archive.") from error
    model, known = _LooseNames(posed), {*posed, *disk.names}
    names: set[str] = set()
    for line in text.splitlines():
        whole = line.strip().replace("\\", "/")
        for name in [whole] if whole in known else whole.split():
            name = checked_photo_name(name.removeprefix("./").removeprefix("images/"), str(path))
            if "/" not in name:
                raise FormatError(
                    f"{path}: {name} is in no folder, but the folder tells the visit. Write FOLDER/{name}."
                )
            names.add(model.find(name) or disk.find(name) or name)
    if not names:
        raise FormatError(f"{path}: names no photo. List the update photos, one per line, relative to images/.")
    return sorted(names, key=natural_key)


def _timestep_folders(changes: Sequence[str], known: set[str], warnings: list[str]) -> list[str]:
    """The first visit's folder, then the folders of changes.txt in natural order (IMG_9 before IMG_10)."""
    listed = {_folder(n) for n in changes}
    others = {_folder(n) for n in known} - listed
    if FIRST_VISIT in listed:
        warnings.append(
            f"changes.txt lists photos of {FIRST_VISIT}, which is the first visit; they are not taken as updates."
        )
        listed.discard(FIRST_VISIT)
        first = FIRST_VISIT
    elif FIRST_VISIT in others:
        first = FIRST_VISIT
    elif others:
        first = min(others, key=natural_key)
    else:
        raise InputError(
            "every folder is named in changes.txt, so no folder is left for the first visit. Check images/ and changes.txt."
        )
    unused = sorted(others - {first}, key=natural_key)
    if unused:
        warnings.append(
            f"{first} is taken as the first visit; changes.txt names no photo of {', '.join(unused[:5])}, left out."
        )
    return [first, *sorted(listed, key=natural_key)]


def _names_per_time(
    folders: Sequence[str],
    posed: Mapping[str, PosedPhoto],
    changes: Sequence[str],
    disk: _Disk,
    mode: PoseMode,
    warnings: list[str],
) -> list[list[str]]:
    """Names that belong to each timestep: posed ones, those of changes.txt and, without a joint model, all other files."""
    # Under sfm_all an unregistered file that changes.txt does not name has no pose and no role. Under hloc later visits
    # are expected to be unregistered, so every file counts.
    per_time: list[list[str]] = []
    dropped = 0
    for t, folder in enumerate(folders):
        names = {n for n in posed if _folder(n) == folder} | {n for n in changes if _folder(n) == folder}
        taken = {disk.find(n) for n in names}
        rest = {n for n in disk.names if _folder(n) == folder} - taken
        if mode == "hloc" and t > 0:
            names |= rest
        else:
            dropped += len(rest)
        per_time.append(sorted(names, key=natural_key))
    if dropped:
        warnings.append(
            f"{dropped} photos are neither registered in the COLMAP model nor named in changes.txt; left out."
        )
    return per_time


def _add_localised(
    scene: Path, posed: dict[str, PosedPhoto], given: Path | None, warnings: list[str]
) -> tuple[dict[str, PosedPhoto], tuple[Localization, ...]]:
    """Poses of the authors' localisation, if its result file is there; absurd ones are refused."""
    places = [given] if given else [scene / "hloc_results.json", scene / "hloc" / "hloc_results.json"]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        if given:
            raise InputError(f"{given}: no such file. Pass the hloc_results.json of this scene.")
        return posed, ()
    photos, localizations = read_hloc_results(path)
    centers = np.array([p.pinhole().center for p in posed.values()])
    middle = np.median(centers, axis=0)
    radius = float(np.linalg.norm(centers - middle, axis=1).max())
    out = dict(posed)
    checked = []
    for photo, result in zip(photos, localizations, strict=True):
        distance = float(np.linalg.norm(photo.pinhole().center - middle))
        if radius > 0 and distance > FAR_FACTOR * radius:
            reason = f"imported pose is {distance / radius:.3g} radii away from the first visit"
            warnings.append(f"{photo.name}: {reason}; it is treated as not localised.")
            checked.append(Localization(photo.name, None, result.num_inliers, result.inlier_ratio, None, reason))
            continue
        out.setdefault(photo.name, photo)
        checked.append(result)
    return out, tuple(checked)


def _captures(
    folders: Sequence[str], names: Sequence[Sequence[str]], disk: _Disk, warnings: list[str]
) -> tuple[Capture, ...]:
    """Frames keep the model's names, so that they meet their cameras; missing files are reported and left out."""
    captures, missing, renamed = [], [], []
    for t, folder in enumerate(folders):
        frames = []
        for name in names[t]:
            file = disk.find(name)
            if file is None:
                missing.append(name)
                continue
            if file != name:
                renamed.append(f"{name} -> {file}")
            frames.append(Frame(name, disk.names[file]))
        captures.append(Capture(t, folder, tuple(frames), parse_date(folder)))
    if missing:
        warnings.append(f"{len(missing)} listed photos are not on disk, the first is {missing[0]}; left out.")
    if renamed:
        warnings.append(
            f"{len(renamed)} photos have another extension or case on disk than in the lists, e.g. {renamed[0]}."
        )
    return tuple(captures)


def _check_result(
    captures: Sequence[Capture], split: Split, posed: Mapping[str, PosedPhoto], mode: PoseMode, warnings: list[str]
) -> None:
    if not captures[0].frames:
        raise InputError(
            f"none of the photos of the first visit ({captures[0].name}) is on disk. Unpack the whole archive."
        )
    for capture in captures[1:]:
        present = {f.name for f in capture.frames}
        if not present & set(split.update[capture.timestep]):
            warnings.append(f"timestep {capture.timestep} ({capture.name}) has no update photo left to learn from.")
    unposed = [n for names in split.update for n in names if n not in posed]
    if unposed and mode == "sfm_all":
        warnings.append(
            f"{len(unposed)} update photos are not in the COLMAP model, the first is {unposed[0]}; they need localisation."
        )
    tests = [n for names in split.test for n in names if n not in posed]
    if tests:
        warnings.append(
            f"{len(tests)} held-out photos have no pose in the release; they count only once they are localised."
        )


def _only(names: Sequence[Sequence[str]], allowed: set[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(n for n in group if n in allowed) for group in names)
