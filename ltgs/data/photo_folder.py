"""Folders of photos to captures: one folder per visit, put in order by rules that are reported."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import yaml

from ltgs.core.captures import Capture, Frame
from ltgs.errors import InputError
from ltgs.io.images import looks_like_photo
from ltgs.io.photo_exif import exif_date

MAX_TIMES_BYTES = 1 << 20
TIMES_NAME = "times.yaml"
IMAGE_FOLDERS = ("images", "photos", "rgb")
"""A lone folder of this name is a part of the visit, not a visit of this name."""
COMPANIONS = re.compile(r"(masks?|depths?|normals?|images_\d+|sparse|dense|colmap|distorted|poses)$")
"""Folders that capture tools write beside `images`; they hold no photos of their own."""
CLUTTER = ("Thumbs.db", "desktop.ini", "ehthumbs.db")
OTHER_KINDS = {
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), "a raw photo; export it as JPEG or TIFF"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"), "a video; extract sharp frames as JPEG first"),
    ".gif": "a GIF; convert it to PNG",
}
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?:[-_ T]+([01]\d|2[0-3])[-_.:h]?([0-5]\d))?(?!\d)"
)


@dataclass(frozen=True)
class SkippedFile:
    """A file that is no usable photo."""

    name: str
    reason: str


@dataclass(frozen=True)
class CaptureListing:
    """The visits found in a folder, in time order."""

    captures: tuple[Capture, ...]
    order_rule: str
    """How the order was decided, in words."""
    skipped: tuple[SkippedFile, ...] = ()
    warnings: tuple[str, ...] = ()


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which IMG_2 comes before IMG_10; equal only for equal texts."""
    parts = re.findall(r"\d+|\D+", text)
    key = tuple((0, int(part)) if part.isdecimal() else (1, part.casefold()) for part in parts)
    return (*key, (2, text))


def parse_date(text: str) -> datetime | None:
    """The date (and time) written in a folder name such as 2024-01-05, 20240105 or 2024-01-05_10h30; None without one."""
    found = _DATE.search(text)
    if not found:
        return None
    year, month, day, hour, minute = (int(v) if v else 0 for v in found.groups())
    try:
        return datetime(year, month, day, hour, minute)
    except ValueError:
        return None


def read_captures(root: Path, *, times: Path | None = None) -> CaptureListing:
    """List the visits below a folder.

    Args:
        root: one folder per visit, or photos of a single visit (directly or in `images/`).
        times: YAML file that maps every visit folder to a date or an index; `root/times.yaml` is used if present.

    Raises:
        InputError: no such folder, no photos, or `times` does not fit the folders.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder. Pass the folder that holds one folder of photos per visit.")
    skipped: list[SkippedFile] = []
    warnings: list[str] = []
    visits: dict[Path, list[Path]] = {}
    for folder in sorted((p for p in root.iterdir() if _is_visit_folder(p)), key=lambda p: natural_key(p.name)):
        found = _photos_below(folder, root, skipped)
        if found:
            visits[folder] = found
    direct = _photos([p for p in root.iterdir() if p.is_file() and p.name != TIMES_NAME], root, root, skipped)
    in_folders = sum(map(len, visits.values()))
    if direct and len(direct) >= in_folders:
        if visits:
            warnings.append(
                f"{root} holds photos beside folders with photos. The {len(direct)} photos are taken as one visit, the folders "
                f"{_some(f.name for f in visits)} are left out. Move the photos to a folder of their own if they are one visit of several."
            )
        return _single(root, root, direct, skipped, warnings)
    images = [f for f in visits if f.name.casefold() in IMAGE_FOLDERS]
    if len(images) == 1 and not direct and all(f == images[0] or COMPANIONS.match(f.name.casefold()) for f in visits):
        inside: list[SkippedFile] = []
        return _single(root, images[0], _photos_below(images[0], images[0], inside), inside, warnings)
    if not visits:
        raise InputError(_listing(f"{root}: holds no photos. Supported are JPEG, PNG, TIFF, WebP, BMP and HEIC files", skipped))
    if direct:
        warnings.append(
            f"{root} holds folders of visits; the {len(direct)} photos beside them ({_some(p.name for p in direct)}) are left out. "
            "Move them to a folder of their own if they are a visit."
        )
        skipped += [SkippedFile(p.name, "lies beside the folders of the visits") for p in direct]
    captures = [Capture(0, f.name, _frames(files, root), _earliest(files)) for f, files in visits.items()]
    times = times or (root / TIMES_NAME if (root / TIMES_NAME).is_file() else None)
    ordered, rule = _ordered(captures, times)
    ordered = [replace(c, timestep=i) for i, c in enumerate(ordered)]
    return CaptureListing(tuple(ordered), rule, tuple(skipped), (*warnings, *_skip_warning(skipped)))


def read_visit_folder(path: Path, name: str | None = None) -> Capture:
    """The photos of one visit, named "<folder name>/<file>"; timestep 0 until it is put into a scene.

    Raises:
        InputError: no such folder or no photos in it.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: is not a folder. Pass the folder that holds the photos of one visit.")
    skipped: list[SkippedFile] = []
    files = _photos_below(path, path, skipped)
    if not files:
        raise InputError(_listing(f"{path}: holds no photos. Supported are JPEG, PNG, TIFF, WebP, BMP and HEIC files", skipped))
    label = name or path.resolve().name
    frames = tuple(Frame(f"{label}/{f.relative_to(path).as_posix()}", f) for f in files)
    return Capture(0, label, frames, parse_date(label) or _earliest(files))


def _is_visit_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"


def _photos_below(folder: Path, root: Path, skipped: list[SkippedFile]) -> list[Path]:
    """Photo files below a folder in natural order; names in `skipped` are relative to `root`."""
    files = [
        p for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") or part == "__MACOSX" for part in p.relative_to(folder).parts)
    ]
    return _photos(files, folder, root, skipped)


def _photos(files: Iterable[Path], folder: Path, root: Path, skipped: list[SkippedFile]) -> list[Path]:
    """Keep what looks like a photo; everything else that is not hidden is listed with a reason."""
    inside, photos = folder.resolve(), []
    for path in sorted(files, key=lambda p: natural_key(p.relative_to(folder).as_posix())):
        name = path.relative_to(root).as_posix()
        printable = name.encode("utf-8", "replace").decode()
        if path.name.startswith(".") or path.name in CLUTTER:
            continue
        if not looks_like_photo(path):
            kind = OTHER_KINDS.get(path.suffix.lower(), "not a photo by its name")
            skipped.append(SkippedFile(printable, kind))
        elif name != printable:
            skipped.append(SkippedFile(printable, "the file name is not valid UTF-8; rename the file"))
        elif not path.resolve().is_relative_to(inside):
            skipped.append(SkippedFile(name, "a link to a file outside of the folder; copy the photo instead"))
        else:
            photos.append(path)
    return photos


def _single(
    root: Path, base: Path, files: list[Path], skipped: list[SkippedFile], warnings: list[str]
) -> CaptureListing:
    name = root.resolve().name
    capture = Capture(0, name, _frames(files, base), parse_date(name) or _earliest(files))
    return CaptureListing((capture,), "a single visit", tuple(skipped), (*warnings, *_skip_warning(skipped)))


def _skip_warning(skipped: Sequence[SkippedFile]) -> list[str]:
    if not skipped:
        return []
    return [f"{len(skipped)} files are not used: {_some(f'{s.name} ({s.reason})' for s in skipped)}."]


def _some(names: Iterable[str], limit: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def _listing(text: str, skipped: Sequence[SkippedFile]) -> str:
    if not skipped:
        return text + "."
    return f"{text}; found only {_some(f'{s.name} ({s.reason})' for s in skipped)}."


def _frames(files: Sequence[Path], base: Path) -> tuple[Frame, ...]:
    return tuple(Frame(f.relative_to(base).as_posix(), f) for f in files)


def _earliest(files: Sequence[Path]) -> datetime | None:
    dates = [d for d in (exif_date(f) for f in files) if d is not None]
    return min(dates) if dates else None


def _ordered(captures: list[Capture], times: Path | None) -> tuple[list[Capture], str]:
    if times is not None:
        return _by_file(captures, times)
    if len(captures) == 1:
        only = captures[0]
        return [replace(only, captured_at=parse_date(only.name) or only.captured_at)], "a single visit"
    written = [parse_date(c.name) for c in captures]
    if all(written):
        dated = [replace(c, captured_at=d) for c, d in zip(captures, written, strict=True)]
        _refuse_equal(dated, "dates in the folder names")
        return sorted(dated, key=lambda c: c.captured_at or datetime.min), "dates in the folder names"
    taken = [c.captured_at for c in captures]
    if all(taken) and len(set(taken)) == len(taken):
        return sorted(captures, key=lambda c: c.captured_at or datetime.min), "EXIF dates of the photos"
    return captures, "natural order of the folder names"


def _refuse_equal(captures: Sequence[Capture], rule: str) -> None:
    seen: dict[datetime | None, str] = {}
    for capture in captures:
        if capture.captured_at in seen:
            raise InputError(
                f"{seen[capture.captured_at]} and {capture.name} have the same time by the {rule}. "
                "Merge the folders, or write a times.yaml that says which came first."
            )
        seen[capture.captured_at] = capture.name


def _by_file(captures: list[Capture], times: Path) -> tuple[list[Capture], str]:
    """Order by a YAML mapping of folder name to date or index; it must name every visit."""
    try:
        with times.open("rb") as stream:
            data = yaml.safe_load(stream.read(MAX_TIMES_BYTES))
    except OSError as error:
        raise InputError(f"{times}: cannot be read ({error.strerror}). Check the path.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{times}: is not valid YAML ({error}). Write one line `folder: 2024-01-05` per visit.") from error
    if not isinstance(data, dict):
        raise InputError(f"{times}: must hold one line `folder: date` or `folder: index` per visit.")
    table = {str(k): v for k, v in data.items()}
    names = {c.name for c in captures}
    missing, unknown = sorted(names - set(table)), sorted(set(table) - names)
    if missing or unknown:
        raise InputError(
            f"{times}: must name exactly the visit folders. Missing: {', '.join(missing) or 'none'}; "
            f"without a folder: {', '.join(unknown) or 'none'}."
        )
    values = {k: _time_value(times, k, v) for k, v in table.items()}
    if len({type(v) for v in values.values()}) > 1:
        raise InputError(f"{times}: use either dates or indices for all visits, not both.")
    if len(set(values.values())) != len(values):
        raise InputError(f"{times}: two visits have the same time; every visit needs its own.")
    ordered = sorted(captures, key=lambda c: values[c.name])
    dated = [replace(c, captured_at=v) if isinstance(v := values[c.name], datetime) else c for c in ordered]
    return dated, f"{times.name}"


def _time_value(path: Path, key: str, value: object) -> datetime | int:
    if isinstance(value, bool):
        raise InputError(f"{path}: {key}: {value!r} is neither a date nor an index.")
    if isinstance(value, int):
        return value
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    parsed = parse_date(str(value))
    if parsed is None:
        raise InputError(f"{path}: {key}: {value!r} is neither a date (2024-01-05) nor an index.")
    return parsed
