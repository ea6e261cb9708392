"""Photos in, PNG out. Decoding is strict: what cannot be trusted is refused with the file, the reason and the remedy."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from ltgs.errors import FormatError, MissingDependency
from ltgs.io.atomic import explained, sha256_file, write_file
from ltgs.io.photo_exif import PhotoExif, read_exif

Photo = NDArray[np.uint8]
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif"})
"""Lower-case file name endings that are taken for photos."""
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP")
# The list keeps Pillow's exotic decoders (PostScript, FITS, ...) away from files of unknown origin.
_MAX_FILE_BYTES = 1 << 30
# EXIF orientation to (mirror left-right first, quarter turns counter-clockwise).
_TURNS = {1: (False, 0), 2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_pillow_globals = threading.Lock()


@dataclass(frozen=True)
class PhotoPixels:
    """A decoded photo, upright."""

    rgb: Photo
    """[H, W, 3] uint8 sRGB."""
    exif: PhotoExif
    notes: tuple[str, ...] = ()
    """What had to be converted, in words."""


def looks_like_photo(path: Path) -> bool:
    """Judge by name alone: a known ending, not hidden, no macOS resource fork (`._IMG.jpg`), no `Thumbs.db`."""
    return not path.name.startswith(".") and path.suffix.lower() in PHOTO_SUFFIXES


def photo_sha256(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a photo file.

    Raises:
        InputError: the file cannot be read.
    """
    path = Path(path)
    with explained("read", path):
        return sha256_file(path)


def read_photo(path: Path | str, *, max_pixels: int = 250_000_000) -> PhotoPixels:
    """Decode one photo completely and strictly.

    The EXIF orientation is applied except for HEIC, whose own rotation the decoder has applied already. 16-bit grey is
    divided by 257 in numpy (Pillow's own conversion clips it to white). A truncated file is refused, not filled with grey.

    Args:
        path: the photo file; its content decides the format, not its name.
        max_pixels: larger images are refused before their pixels are decoded.

    Returns:
        Upright 8-bit RGB pixels, what EXIF says, and notes about conversions.

    Raises:
        InputError: the file is missing, empty, truncated, no photo, or too large.
        MissingDependency: a HEIC file is given and pillow-heif is not installed.
    """
    path = Path(path)
    with explained("read", path):
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise FormatError(f"{path}: {size} bytes are more than a photo can have. Remove the file from the folder.")
        data = path.read_bytes()
    if not data:
        raise FormatError(f"{path}: the file is empty (0 bytes). Copy the photo again from its source.")
    with _refusals(path):
        image, is_heif = _open(data, path)
        width, height = image.size
        if width * height > max_pixels:
            raise FormatError(
                f"{path}: {width}x{height} pixels are more than the limit of {max_pixels}. Reduce the photo's size first."
            )
        with warnings.catch_warnings():
            # Broken tags are no reason to bother the user: EXIF that cannot be read counts as absent.
            warnings.simplefilter("ignore")
            exif = read_exif(image)
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            # Some other library switched the process to fill missing rows with grey; that must not reach a scene.
            raise FormatError(f"{path}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set. Set it to False before reading photos.")
        image.load()
        _check_complete(image, data)
        rgb, notes = _to_rgb8(image)
    if not is_heif:
        rgb = _upright(rgb, exif.orientation)
    return PhotoPixels(np.ascontiguousarray(rgb), exif, tuple(notes))


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn whatever the decoders raise about bad content into one FormatError; they use many exception types."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise FormatError(
            f"{path}: not a photo in a supported format (JPEG, PNG, TIFF, WebP, BMP, HEIC). Remove it or convert it."
        ) from error
    except (MemoryError, Image.DecompressionBombError) as error:
        raise FormatError(f"{path}: too large to decode ({error}). Remove the file or reduce its size.") from error
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, RuntimeError, ArithmeticError,
            AttributeError) as error:
        reason = str(error)[:200] or type(error).__name__
        raise FormatError(f"{path}: damaged or truncated ({reason}). Copy the photo again or remove it.") from error


def _open(data: bytes, path: Path) -> tuple[Image.Image, bool]:
    """Read the header. Returns the image, not yet decoded, and whether it is HEIF."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return _open_heif(data, path), True
    # Pillow's pixel limit and its warnings are process-wide; `read_photo` applies its own limit to the header's size.
    with _pillow_globals, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=_FORMATS), False
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open_heif(data: bytes, path: Path) -> Image.Image:
    """Open HEIC with the plug-in's own class, so that nothing is registered for the whole process."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MissingDependency(f"{path}: reading HEIC needs pillow-heif. Run: pip install pillow-heif") from error
    return HeifImageFile(io.BytesIO(data))


def _check_complete(image: Image.Image, data: bytes) -> None:
    """Refuse a JPEG whose entropy-coded data was cut so late that the decoder found every row (no end marker left)."""
    if image.format in ("JPEG", "MPO") and b"\xff\xd9" not in data[-(64 << 10):] and b"\xff\xd9" not in data[len(data) // 2:]:
        raise ValueError("the end-of-image marker is missing, so the file was cut off")


def _to_rgb8(image: Image.Image) -> tuple[Photo, list[str]]:
    """[H, W, 3] uint8 from any Pillow mode, with a note for every conversion."""
    mode, notes = image.mode, []
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1 and image.format in ("PNG", "TIFF", "WEBP"):
        notes.append(f"only the first of {num_frames} frames used")
        image.seek(0)
    if mode == "RGB":
        return np.asarray(image), notes
    if mode.startswith("I") or mode == "F":
        return _deep_grey(np.asarray(image)), [*notes, "grey with more than 8 bits reduced to 8"]
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # Dropping alpha keeps the colours under it; compositing would invent a background.
        return np.asarray(image.convert("RGBA"))[..., :3], [*notes, "transparency ignored"]
    if mode == "CMYK":
        notes.append("CMYK converted to RGB without its colour profile")
    else:
        notes.append({"L": "grey", "1": "1-bit", "P": "palette"}.get(mode, mode) + " converted to RGB")
    return np.asarray(image.convert("RGB")), notes


def _deep_grey(values: NDArray[Any]) -> Photo:
    """16-bit integers or floats in 0..1 to three equal 8-bit channels; 65535 / 257 = 255, so white stays white."""
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ValueError("floating-point samples outside of 0..1; export it as JPEG or 16-bit TIFF")
        grey = np.round(values * 255)
    else:
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("samples with more than 16 bits; export it as JPEG or 16-bit TIFF")
        grey = (values.astype(np.uint32) + 128) // 257
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _upright(rgb: Photo, orientation: int) -> Photo:
    mirror, turns = _TURNS[orientation]
    return np.rot90(rgb[:, ::-1] if mirror else rgb, turns)


def resize_photo(rgb: Photo, long_side: int) -> Photo:
    """Reduce a photo so that its longer side is at most `long_side` pixels, averaging areas; smaller photos are returned as is.

    Args:
        rgb: [H, W, 3] uint8.
        long_side: pixels, at least 1.
    """
    if long_side < 1:
        raise ValueError(f"long_side must be at least 1 pixel, got {long_side}.")
    height, width = rgb.shape[:2]
    if max(height, width) <= long_side:
        return rgb
    factor = long_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_png(array: NDArray[Any]) -> bytes:
    """PNG bytes of [H, W] or [H, W, 3] uint8 or uint16 (RGB order); equal arrays give equal bytes.

    Raises:
        ValueError: another shape or type, or no pixels.
    """
    array = np.asarray(array)
    if array.dtype not in (np.uint8, np.uint16) or array.size == 0 or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise ValueError(f"a PNG needs uint8 or uint16 of shape [H, W] or [H, W, 3], got {array.dtype} {array.shape}.")
    swapped = array if array.ndim == 2 else array[..., ::-1]
    # Level 3 of zlib: half of the time of the default for about 3 % more bytes on photos.
    ok, data = cv2.imencode(".png", np.ascontiguousarray(swapped), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not ok:
        raise ValueError(f"OpenCV could not encode an image of shape {array.shape}.")
    return data.tobytes()


def decode_png(data: bytes, where: str, *, max_pixels: int = 250_000_000) -> NDArray[Any]:
    """Inverse of `encode_png`: [H, W] or [H, W, 3], uint8 or uint16.

    Raises:
        FormatError: not a PNG, damaged, or larger than `max_pixels`.
    """
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or not 0 < width * height <= max_pixels:
        raise FormatError(f"{where}: not a PNG image of at most {max_pixels} pixels.")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:
        raise FormatError(f"{where}: the PNG is damaged ({error}).") from error
    if decoded is None:
        raise FormatError(f"{where}: the PNG is damaged or truncated. Write it again from its source.")
    return decoded if decoded.ndim == 2 else np.ascontiguousarray(decoded[..., ::-1])


def write_png(path: Path | str, array: NDArray[Any]) -> None:
    """Write [H, W] or [H, W, 3] uint8 or uint16 (RGB order) in one visible step.

    Raises:
        InputError: the file cannot be written.
        ValueError: see `encode_png`.
    """
    path, data = Path(path), encode_png(array)
    with explained("write", path, len(data)):
        write_file(path, data, sync_folder=False)


def write_jpeg(path: Path | str, rgb: Photo, *, quality: int = 88) -> None:
    """Write [H, W, 3] uint8 as JPEG in one visible step.

    Raises:
        InputError: the file cannot be written.
        ValueError: another shape or type, or no pixels.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"a JPEG needs uint8 of shape [H, W, 3], got {rgb.dtype} {rgb.shape}.")
    ok, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"OpenCV could not encode an image of shape {rgb.shape}.")
    path = Path(path)
    with explained("write", path, data.size):
        write_file(path, data.tobytes(), sync_folder=False)
