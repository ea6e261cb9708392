"""Folders of photos to captures: one folder per visit, put in order by rules that are reported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import yaml

from ltgs.core.captures import Capture, Frame
from ltgs.errors import InputError
from ltgs.io.images import looks_like_photo
from ltgs.io.photo_exif import exif_date

MAX_TIMES_BYTES = 1 << 20
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
    """Sort key under which IMG_2 comes before IMG_10."""
    return tuple((0, int(part)) if part.isdigit() else (1, part.casefold()) for part in re.findall(r"\d+|\D+", text))


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
    folders = sorted(
        (p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and _photos_below(p)),
        key=lambda p: natural_key(p.name),
    )
    direct = [p for p in root.iterdir() if p.is_file() and looks_like_photo(p)]
    warnings: list[str] = []
    skipped: list[SkippedFile] = []
    if direct or (len(folders) == 1 and folders[0].name.casefold() in ("images", "photos", "rgb")):
        base = root if direct else folders[0]
        if direct and folders:
            warnings.append(
                f"{root} holds photos and folders with photos; the photos beside the folders are taken as one visit and the "
                f"folders {', '.join(f.name for f in folders[:5])} are left out. Move the photos to a folder of their own."
            )
        files = sorted(direct, key=lambda p: natural_key(p.name)) if direct else _photos_below(base)
        capture = Capture(0, root.resolve().name, _frames(files, base), _earliest(files))
        return CaptureListing((capture,), "a single visit", tuple(skipped), tuple(warnings))
    if not folders:
        raise InputError(f"{root}: holds no photos. Supported are JPEG, PNG, TIFF, WebP and HEIC files.")
    captures = [Capture(0, f.name, _frames(_photos_below(f), root), _earliest(_photos_below(f))) for f in folders]
    times = times or (root / "times.yaml" if (root / "times.yaml").is_file() else None)
    ordered, rule = _ordered(captures, times)
    return CaptureListing(
        tuple(replace(c, timestep=i) for i, c in enumerate(ordered)), rule, tuple(skipped), tuple(warnings)
    )


def read_visit_folder(path: Path, name: str | None = None) -> Capture:
    """The photos of one visit, named "<folder name>/<file>"; timestep 0 until it is put into a scene.

    Raises:
        InputError: no such folder or no photos in it.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: is not a folder. Pass the folder that holds the photos of one visit.")
    files = _photos_below(path)
    if not files:
        raise InputError(f"{path}: holds no photos. Supported are JPEG, PNG, TIFF, WebP and HEIC files.")
    label = name or path.resolve().name
    frames = tuple(Frame(f"{label}/{f.relative_to(path).as_posix()}", f) for f in files)
    return Capture(0, label, frames, parse_date(label) or _earliest(files))


def _photos_below(folder: Path) -> list[Path]:
    """Photo files below a folder, hidden ones left out, in natural order; links that leave the folder are not followed."""
    inside = folder.resolve()
    found = [
        p for p in folder.rglob("*")
        if p.is_file() and looks_like_photo(p) and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and p.resolve().is_relative_to(inside)
    ]
    return sorted(found, key=lambda p: natural_key(p.relative_to(folder).as_posix()))


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
