from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltgs.data.photo_folder import natural_key, parse_date, read_captures, read_visit_folder
from ltgs.errors import InputError


def photo(path: Path, taken: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
    exif = Image.Exif()
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    image.save(path, format="JPEG", exif=exif)
    return path


def names(listing) -> list[str]:
    return [c.name for c in listing.captures]


def test_folders_with_dates_are_ordered_by_them(tmp_path: Path) -> None:
    for folder in ("visit 2024-03-01", "20231224", "2024-01-05_10h30", "2024-01-05 09:15", "2024.02.29"):
        photo(tmp_path / folder / "a.jpg")
    listing = read_captures(tmp_path)
    assert names(listing) == ["20231224", "2024-01-05 09:15", "2024-01-05_10h30", "2024.02.29", "visit 2024-03-01"]
    assert listing.order_rule == "dates in the folder names"
    assert [c.timestep for c in listing.captures] == [0, 1, 2, 3, 4]
    assert listing.captures[2].captured_at == datetime(2024, 1, 5, 10, 30)
    assert listing.captures[0].frames[0].name == "20231224/a.jpg"


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2024-01-05", datetime(2024, 1, 5)), ("20240105", datetime(2024, 1, 5)), ("2024_01_05", datetime(2024, 1, 5)),
        ("garden 2024-01-05 14.45 east", datetime(2024, 1, 5, 14, 45)), ("2024-01-05T0930", datetime(2024, 1, 5, 9, 30)),
        ("2024-13-05", None), ("2024-02-30", None), ("t0", None), ("IMG_4520240105", None), ("1234567890", None), ("", None),
    ],
)
def test_dates_in_names(text: str, date: datetime | None) -> None:
    assert parse_date(text) == date


def test_exif_dates_order_folders_without_dates(tmp_path: Path) -> None:
    photo(tmp_path / "after" / "x.jpg", "2024:05:02 10:00:00")
    photo(tmp_path / "before" / "y.jpg", "2024:05:01 10:00:00")
    photo(tmp_path / "before" / "z.jpg", "2024:05:01 09:00:00")
    listing = read_captures(tmp_path)
    assert names(listing) == ["before", "after"] and listing.order_rule == "EXIF dates of the photos"
    assert listing.captures[0].captured_at == datetime(2024, 5, 1, 9)


def test_equal_or_missing_exif_dates_leave_natural_order(tmp_path: Path) -> None:
    for i, taken in ((10, "2024:05:01 10:00:00"), (2, "2024:05:01 10:00:00"), (1, None)):
        photo(tmp_path / f"t{i}" / "x.jpg", taken)
    listing = read_captures(tmp_path)
    assert names(listing) == ["t1", "t2", "t10"] and listing.order_rule == "natural order of the folder names"


NUMBERED = [f"visit-{i}" for i in range(1, 13)]
DATED = [f"{letter} 2024-{month:02}-05" for letter, month in zip("lkjihgfedcba", range(1, 13), strict=True)]
TAKEN = ["ten", "two", "one", "t9", "t10", "t8", "b", "a", "z", "11", "2", "12"]


@pytest.mark.parametrize(("in_order", "taken"), [(NUMBERED, False), (DATED, False), (TAKEN, True)], ids=["number", "date", "EXIF"])
def test_a_dozen_visits_and_many_photos_keep_their_order_and_own_names(tmp_path: Path, in_order: list[str], taken: bool) -> None:
    for i, folder in sorted(enumerate(in_order, 1), key=lambda item: item[1]):
        photo(tmp_path / folder / "a.jpg", f"2024:{i:02}:01 10:00:00" if taken else None)
    for i in sorted(range(1, 58), key=str):
        photo(tmp_path / in_order[10] / f"img{i}.jpg")
    listing = read_captures(tmp_path)
    assert names(listing) == in_order and [c.timestep for c in listing.captures] == list(range(12))
    many = in_order[10]
    assert [f.name for f in listing.captures[10].frames] == [f"{many}/a.jpg", *(f"{many}/img{i}.jpg" for i in range(1, 58))]
    every = [f.name for c in listing.captures for f in c.frames]
    assert len(set(every)) == len(every) == 12 + 57, "each visit has an a.jpg, yet no two photos have one name"


def test_times_file_wins_and_accepts_dates_or_indices(tmp_path: Path) -> None:
    photo(tmp_path / "2024-01-01" / "a.jpg")
    photo(tmp_path / "2024-02-01" / "a.jpg")
    (tmp_path / "times.yaml").write_text("2024-01-01: 1\n'2024-02-01': 0\n")
    listing = read_captures(tmp_path)
    assert names(listing) == ["2024-02-01", "2024-01-01"] and listing.order_rule == "times.yaml" and not listing.skipped
    other = tmp_path / "other.yaml"
    other.write_text("2024-01-01: 2025-06-01 12:00:00\n2024-02-01: 2025-05-01\n")
    listing = read_captures(tmp_path, times=other)
    assert names(listing) == ["2024-02-01", "2024-01-01"] and listing.order_rule == "other.yaml"
    assert [c.captured_at for c in listing.captures] == [datetime(2025, 5, 1), datetime(2025, 6, 1, 12)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 0\n", "Missing: b"), ("a: 0\nb: 1\nc: 2\n", "without a folder: c"), ("a: 0\nb: 0\n", "same time"),
        ("a: 0\nb: 2024-01-01\n", "either dates or indices"), ("a: 0\nb: yes\n", "neither"), ("a: 0\nb: soon\n", "neither"),
        ("- a\n- b\n", "one line"), ("a: [\n", "not valid YAML"), ("", "one line"),
        ("a: !!python/object/apply:os.getpid []\nb: 1\n", "not valid YAML"), ("a: 0\nb: 1.5\n", "neither"),
    ],
)
def test_wrong_times_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    for folder in "ab":
        photo(tmp_path / folder / "x.jpg")
    (tmp_path / "times.yaml").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        read_captures(tmp_path)
    assert "times.yaml" in str(error.value)


def test_a_missing_times_file_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "a" / "x.jpg")
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        read_captures(tmp_path, times=tmp_path / "nowhere.yaml")


def test_two_folders_of_one_date_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "2024-01-05 east" / "a.jpg")
    photo(tmp_path / "2024-01-05 west" / "a.jpg")
    with pytest.raises(InputError, match=r"east and .*west have the same time.*times\.yaml"):
        read_captures(tmp_path)


def test_one_folder_of_photos_is_one_visit(tmp_path: Path) -> None:
    for name in ("IMG_10.jpg", "IMG_9.JPG"):
        photo(tmp_path / "yard" / name)
    listing = read_captures(tmp_path / "yard")
    assert names(listing) == ["yard"] and listing.order_rule == "a single visit"
    assert [f.name for f in listing.captures[0].frames] == ["IMG_9.JPG", "IMG_10.jpg"]


def test_an_images_folder_with_companions_is_one_visit(tmp_path: Path) -> None:
    for name in ("images/a.jpg", "images/deep/b.jpg", "masks/a.jpg", "images_2/a.jpg"):
        photo(tmp_path / "set" / name)
    listing = read_captures(tmp_path / "set")
    assert names(listing) == ["set"] and [f.name for f in listing.captures[0].frames] == ["a.jpg", "deep/b.jpg"]


def test_nested_folders_belong_to_their_visit(tmp_path: Path) -> None:
    photo(tmp_path / "t0" / "camera 1" / "a.jpg")
    photo(tmp_path / "t0" / "b.jpg")
    photo(tmp_path / "t1" / "a.jpg")
    listing = read_captures(tmp_path)
    assert [[f.name for f in c.frames] for c in listing.captures] == [["t0/b.jpg", "t0/camera 1/a.jpg"], ["t1/a.jpg"]]


def test_a_stray_photo_does_not_hide_the_visits(tmp_path: Path) -> None:
    photo(tmp_path / "cover.jpg")
    for folder in ("t0", "t1"):
        photo(tmp_path / folder / "a.jpg")
    listing = read_captures(tmp_path)
    assert names(listing) == ["t0", "t1"]
    assert any("cover.jpg" in w for w in listing.warnings) and listing.skipped[-1].name == "cover.jpg"


def test_photos_beside_a_small_folder_are_the_visit(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "thumbnails/a.jpg"):
        photo(tmp_path / "set" / name)
    listing = read_captures(tmp_path / "set")
    assert [f.name for f in listing.captures[0].frames] == ["a.jpg", "b.jpg", "c.jpg"]
    assert any("thumbnails" in w for w in listing.warnings)


def test_any_names_survive(tmp_path: Path) -> None:
    odd = ["-rf", "$(touch x)", "with space", "🌳 Garten", "²", "a'b\"c"]
    for name in odd:
        photo(tmp_path / name / f"{name}.jpg")
    listing = read_captures(tmp_path)
    assert sorted(names(listing)) == sorted(odd)
    assert {f.name for c in listing.captures for f in c.frames} == {f"{n}/{n}.jpg" for n in odd}
    for capture in listing.captures:
        assert capture.frames[0].path.is_file()


def test_other_files_are_listed_and_hidden_ones_ignored(tmp_path: Path) -> None:
    photo(tmp_path / "t0" / "a.jpg")
    photo(tmp_path / "t1" / "a.jpg")
    for name in ("t0/notes.txt", "t0/raw.CR2", "t0/film.mp4", "readme.md"):
        (tmp_path / name).write_text("x")
    for name in ("t0/._a.jpg", "t0/.DS_Store", "t0/Thumbs.db", ".hidden/a.jpg", "__MACOSX/a.jpg", "t0/.cache/b.jpg"):
        photo(tmp_path / name)
    (tmp_path / "empty").mkdir()
    listing = read_captures(tmp_path)
    assert names(listing) == ["t0", "t1"] and [f.name for f in listing.captures[0].frames] == ["t0/a.jpg"]
    reasons = {s.name: s.reason for s in listing.skipped}
    assert set(reasons) == {"t0/notes.txt", "t0/raw.CR2", "t0/film.mp4", "readme.md"}
    assert "raw" in reasons["t0/raw.CR2"] and "video" in reasons["t0/film.mp4"]
    assert any("t0/notes.txt" in w for w in listing.warnings)


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = photo(tmp_path / "elsewhere" / "secret.jpg")
    photo(tmp_path / "root" / "t0" / "a.jpg")
    photo(tmp_path / "root" / "t1" / "a.jpg")
    (tmp_path / "root" / "t0" / "link.jpg").symlink_to(outside)
    (tmp_path / "root" / "t0" / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    listing = read_captures(tmp_path / "root")
    assert [f.name for f in listing.captures[0].frames] == ["t0/a.jpg"]
    assert [(s.name, "link" in s.reason) for s in listing.skipped] == [("t0/link.jpg", True)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no byte names")
def test_names_that_are_not_utf8_are_skipped_with_a_reason(tmp_path: Path) -> None:
    photo(tmp_path / "t0" / "a.jpg")
    try:
        photo(tmp_path / "t0" / "b.jpg").rename(os.fsdecode(os.fsencode(tmp_path / "t0") + b"/caf\xe9.jpg"))
    except OSError:
        pytest.skip("this file system refuses byte names")
    listing = read_captures(tmp_path / "t0")
    assert [f.name for f in listing.captures[0].frames] == ["a.jpg"]
    assert "UTF-8" in listing.skipped[0].reason and listing.skipped[0].name.encode()


def test_nothing_usable_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        read_captures(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no photos"):
        read_captures(tmp_path)
    (tmp_path / "t0").mkdir()
    (tmp_path / "t0" / "a.nef").write_bytes(b"raw")
    with pytest.raises(InputError, match=r"t0/a\.nef \(a raw photo"):
        read_captures(tmp_path)
    with pytest.raises(InputError, match="raw photo"):
        read_visit_folder(tmp_path / "t0")
    with pytest.raises(InputError, match="not a folder"):
        read_visit_folder(tmp_path / "t9")


def test_one_visit_for_an_update(tmp_path: Path) -> None:
    photo(tmp_path / "2024-03-01" / "sub" / "b.jpg")
    photo(tmp_path / "2024-03-01" / "a.jpg", "2020:01:01 00:00:00")
    capture = read_visit_folder(tmp_path / "2024-03-01")
    assert [f.name for f in capture.frames] == ["2024-03-01/a.jpg", "2024-03-01/sub/b.jpg"]
    assert capture.captured_at == datetime(2024, 3, 1), "the folder's date stands above a camera clock"
    renamed = read_visit_folder(tmp_path / "2024-03-01", "spring")
    assert renamed.frames[0].name == "spring/a.jpg" and renamed.captured_at == datetime(2020, 1, 1)


def test_natural_order() -> None:
    texts = ["t10", "T2", "t2", "t1", "a", "10", "9", "²", "x²1"]
    assert sorted(texts, key=natural_key) == ["9", "10", "a", "t1", "T2", "t2", "t10", "x²1", "²"]
