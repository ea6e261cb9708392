"""The zoo of photos: right pixels, or a refusal that names the file, the reason and the remedy."""

from __future__ import annotations

import os
import struct
import zlib
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from ltgs.errors import FormatError, InputError
from ltgs.io.images import (
    decode_png,
    encode_png,
    looks_like_photo,
    photo_sha256,
    read_photo,
    resize_photo,
    write_jpeg,
    write_png,
)


@pytest.fixture
def rgb() -> np.ndarray:
    """[24, 32, 3]: smooth, every corner different, so that a wrong rotation cannot pass."""
    y, x = np.mgrid[0:24, 0:32]
    return np.stack([x * 8, y * 10, 255 - x * 4 - y * 4], axis=2).clip(0, 255).astype(np.uint8)


def save(path: Path, rgb: np.ndarray, mode: str = "RGB", **options) -> Path:
    Image.fromarray(rgb).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_formats_are_exact(tmp_path, rgb, suffix):
    photo = read_photo(save(tmp_path / f"a.{suffix}", rgb))
    assert np.array_equal(photo.rgb, rgb) and photo.rgb.dtype == np.uint8 and photo.rgb.flags.c_contiguous and not photo.notes


@pytest.mark.parametrize("options", [{"format": "JPEG"}, {"format": "JPEG", "progressive": True}, {"format": "WEBP"}])
def test_lossy_formats_are_close_whatever_the_name_says(tmp_path, rgb, options):
    photo = read_photo(save(tmp_path / "wrong_name.png", rgb, quality=95, **options))
    # Measured: JPEG 4:2:0 and WebP at quality 95 on this gradient differ by at most 9 of 255.
    assert np.abs(photo.rgb.astype(int) - rgb).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_matches_pillow(tmp_path, rgb, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", rgb, quality=95, exif=exif)
    with Image.open(path) as image:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(image))
    photo = read_photo(path)
    assert photo.exif.orientation == orientation and np.array_equal(photo.rgb, expected)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_impossible_orientation_is_ignored(tmp_path, rgb, value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert read_photo(save(tmp_path / "a.jpg", rgb, exif=exif)).rgb.shape == (24, 32, 3)


def heif(path: Path, rgb: np.ndarray, **options) -> Path:
    pillow_heif = pytest.importorskip("pillow_heif")
    try:
        pillow_heif.from_pillow(Image.fromarray(rgb)).save(path, quality=95, **options)
    except (RuntimeError, OSError) as error:
        pytest.skip(f"this build of pillow-heif cannot write HEIC: {error}")
    return path


def test_heic_is_read_without_rotating_it_again(tmp_path, rgb):
    big = np.kron(rgb, np.ones((4, 4, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    before = Image.registered_extensions().get(".heic")
    photo = read_photo(heif(tmp_path / "a.heic", big, exif=exif.tobytes()))
    # The encoder turns the EXIF orientation into an irot box or drops it; either way the decoder alone decides.
    from pillow_heif import open_heif

    expected = np.asarray(open_heif(tmp_path / "a.heic").to_pillow().convert("RGB"))
    assert photo.rgb.shape == expected.shape and np.array_equal(photo.rgb, expected)
    assert Image.registered_extensions().get(".heic") == before, "nothing may be registered for the whole process"


def test_truncated_heic_is_refused(tmp_path, rgb):
    path = heif(tmp_path / "a.heic", np.kron(rgb, np.ones((8, 8, 1), np.uint8)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FormatError, match=r"a\.heic"):
        read_photo(path)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 100, 255, 256, 1000, 65535]], np.uint16)
    write_png(tmp_path / "deep.png", values)
    photo = read_photo(tmp_path / "deep.png")
    assert photo.rgb[0, :, 0].tolist() == [0, 0, 1, 1, 4, 255] and any("8 bits" in n for n in photo.notes)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_colour_is_within_one_level(tmp_path, suffix):
    deep = np.random.default_rng(0).integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / f"deep.{suffix}"), deep[..., ::-1])
    try:
        photo = read_photo(tmp_path / f"deep.{suffix}")
    except FormatError:
        assert suffix == "tif"  # Pillow knows only some layouts of 16-bit TIFF; refusing is allowed, wrong pixels are not.
        return
    assert np.abs(photo.rgb.astype(float) - deep / 257).max() <= 1.0


MODES = [("L", "grey"), ("1", "1-bit"), ("P", "palette"), ("LA", "transparency"), ("RGBA", "transparency")]


@pytest.mark.parametrize(("mode", "note"), MODES)
def test_other_modes_are_converted_and_noted(tmp_path, rgb, mode, note):
    photo = read_photo(save(tmp_path / "a.png", rgb, mode))
    assert photo.rgb.shape == (24, 32, 3) and any(note in n for n in photo.notes)


def test_colours_under_transparency_are_kept(tmp_path, rgb):
    Image.fromarray(np.dstack([rgb, np.full(rgb.shape[:2], 10, np.uint8)])).save(tmp_path / "a.png")
    assert np.array_equal(read_photo(tmp_path / "a.png").rgb, rgb)


def test_cmyk(tmp_path, rgb):
    photo = read_photo(save(tmp_path / "a.jpg", rgb, "CMYK", quality=95))
    assert np.abs(photo.rgb.astype(int) - rgb).mean() < 6 and any("CMYK" in n for n in photo.notes)


def test_animated_uses_the_first_frame(tmp_path, rgb):
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    photo = read_photo(tmp_path / "a.png")
    assert np.array_equal(photo.rgb, rgb) and any("first of 2" in n for n in photo.notes)


def test_one_pixel(tmp_path):
    assert read_photo(save(tmp_path / "a.png", np.full((1, 1, 3), 7, np.uint8))).rgb.tolist() == [[[7, 7, 7]]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
def test_truncated_files_are_refused(tmp_path, suffix, percent):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = save(tmp_path / f"cut.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    with pytest.raises(FormatError, match=rf"cut\.{suffix}.*(again|Remove|remove)"):
        read_photo(path)


def test_a_process_wide_permission_to_load_truncated_files_is_not_used(tmp_path, rgb, monkeypatch):
    path = save(tmp_path / "a.jpg", np.kron(rgb, np.ones((8, 8, 1), np.uint8)))
    path.write_bytes(path.read_bytes()[:-400])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(FormatError, match="TRUNCATED"):
        read_photo(path)


@pytest.mark.parametrize("content", [
    b"", b"hello, I am text", b"GIF89a" + b"\0" * 50, b"%PDF-1.4", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff\xd8\xff", b"\0" * 4096,
    b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypheic" + b"\0" * 100,
    b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"II*\0" + b"\xff" * 64,
])
def test_foreign_content_is_refused(tmp_path, content):
    path = tmp_path / "text.jpg"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"text\.jpg"):
        read_photo(path)


def png_header(width: int, height: int) -> bytes:
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))


def test_bombs_are_refused_from_the_header(tmp_path, rgb):
    idat = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunk = struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    (tmp_path / "bomb.png").write_bytes(png_header(65000, 65000) + chunk)
    with pytest.raises(FormatError, match=r"65000x65000 pixels are more than the limit"):
        read_photo(tmp_path / "bomb.png")
    with pytest.raises(FormatError, match="limit of 100"):
        read_photo(save(tmp_path / "a.png", rgb), max_pixels=100)
    assert Image.MAX_IMAGE_PIXELS is not None, "Pillow's own limit must be as before"
    with pytest.raises(FormatError, match="at most"):
        decode_png(png_header(65000, 65000) + chunk, "x")


def test_missing_and_odd_paths(tmp_path, rgb):
    with pytest.raises(InputError, match=r"none\.jpg"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="Could not read"):
        read_photo(tmp_path)
    for name in ["-rf.png", "a b 🙂 $(x) `y`.png", os.fsdecode(b"\xff\xfe.png"), "x" * 200 + ".png"]:
        assert np.array_equal(read_photo(save(tmp_path / name, rgb)).rgb, rgb)


def test_fuzzed_photos_raise_only_typed_errors(tmp_path, rgb):
    rng = np.random.default_rng(0)
    sources = [save(tmp_path / f"s.{s}", rgb).read_bytes() for s in ("jpg", "png", "tif", "webp")]
    path = tmp_path / "fuzz.jpg"
    refused = 0
    for i in range(300):
        data = bytearray(sources[i % 4])
        for at in rng.integers(0, len(data), int(rng.integers(1, 12))):
            data[at] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            assert read_photo(path, max_pixels=1_000_000).rgb.dtype == np.uint8
        except InputError:
            refused += 1
    assert refused > 20


def test_exif_values(tmp_path, rgb):
    big = np.kron(rgb, np.ones((10, 10, 1), np.uint8))
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker\0", "Model 1"
    exif.get_ifd(0x8769).update({0xA405: 36, 0x9003: "2024:02:11 10:20:30"})
    found = read_photo(save(tmp_path / "a.jpg", big, exif=exif)).exif
    # 36 mm on a 4:3 photo: the diagonal of 43.27 mm corresponds to 400 px.
    assert found.focal_px == pytest.approx(36 / 43.2666 * 400, rel=1e-4)
    assert found.captured_at == datetime(2024, 2, 11, 10, 20, 30) and found.make_model == "Maker Model 1"


def test_focal_length_from_the_sensor_density_of_a_reduced_photo(tmp_path, rgb):
    exif = Image.Exif()
    # 8 mm lens, 5000 px per cm, 640 px taken, reduced to 320: 8 * 500 * 320 / 640.
    exif.get_ifd(0x8769).update({0x920A: 8.0, 0xA20E: 500.0, 0xA210: 3, 0xA002: 640, 0xA003: 480})
    big = np.kron(rgb, np.ones((10, 10, 1), np.uint8))
    assert read_photo(save(tmp_path / "a.jpg", big, exif=exif)).exif.focal_px == pytest.approx(8 * 50 * 0.5)


ODD_EXIF = [{0xA405: 0}, {0xA405: 60000}, {0x920A: 5.0}, {0x9003: "0000:00:00 00:00:00"}, {0x9003: "garbage"}]


@pytest.mark.parametrize("values", ODD_EXIF)
def test_implausible_exif_is_not_believed(tmp_path, rgb, values):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(values)
    found = read_photo(save(tmp_path / "a.jpg", rgb, exif=exif)).exif
    assert found.focal_px is None and found.captured_at is None


def test_looks_like_photo():
    assert all(looks_like_photo(Path(n)) for n in ("a.JPG", "b.heic", "c d.tiff", "-x.png"))
    assert not any(looks_like_photo(Path(n)) for n in ("._a.jpg", ".hidden.png", "Thumbs.db", ".DS_Store", "a.txt", "jpg"))


def test_resize_averages_and_keeps_the_aspect(rgb):
    small = resize_photo(rgb, 16)
    assert small.shape == (12, 16, 3)
    expected = rgb.reshape(12, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(small - expected).max() <= 0.5
    assert resize_photo(rgb, 100) is rgb and resize_photo(rgb[:1], 4).shape == (1, 4, 3)
    with pytest.raises(ValueError, match="at least 1"):
        resize_photo(rgb, 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_round_trip(tmp_path, dtype, shape):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    data = encode_png(array)
    assert data == encode_png(array.copy()) and np.array_equal(decode_png(data, "x"), array)
    write_png(tmp_path / "x.png", array)
    assert (tmp_path / "x.png").read_bytes() == data and len(photo_sha256(tmp_path / "x.png")) == 64


def test_png_refuses_other_arrays(tmp_path):
    for bad in (np.zeros((3, 3)), np.zeros((0, 3), np.uint8), np.zeros((2, 2, 4), np.uint8)):
        with pytest.raises(ValueError, match="PNG"):
            encode_png(bad)
    with pytest.raises(InputError, match=r"x\.png"):
        write_png(tmp_path / "no" / "x.png", np.zeros((2, 2), np.uint8))


def test_jpeg_is_written_whole_and_close(tmp_path):
    ramp = np.stack(np.broadcast_arrays(np.arange(64)[:, None] * 4, np.arange(48) * 5, np.full((64, 48), 90)), -1).astype(np.uint8)
    write_jpeg(tmp_path / "a.jpg", ramp)
    read = read_photo(tmp_path / "a.jpg").rgb
    assert read.shape == ramp.shape and np.abs(read.astype(int) - ramp).mean() < 3
    with pytest.raises(InputError, match=r"none.*a\.jpg"):
        write_jpeg(tmp_path / "none" / "a.jpg", ramp)
    for wrong in (ramp[..., 0], ramp.astype(np.float32), ramp[:0]):
        with pytest.raises(ValueError, match="uint8"):
            write_jpeg(tmp_path / "b.jpg", wrong)
