"""The scene folder: whole generations, committed atomically, every byte proven before use. The only owner of paths inside it.

    manifest.json        the current generation: a checksum of itself, hashes of all blobs, times, tracks, events, photos
    manifest.prev.json   the generation before
    blobs/               immutable content-addressed files: tensors (.safetensors) and working images (.png)
    timing.json          seconds per stage, kept off the manifest so that equal runs give equal manifests
    stages/              resumable outputs of unfinished work    log.jsonl  what was done when    lock  who is writing

A commit writes new blobs, then the timings, then a copy of the current manifest as the previous one, and then renames the
new manifest into place. Only that last rename changes what a reader sees.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ltgs.core.scene import Scene
from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, fsync_folder, step, write_file
from ltgs.io.blobs import BlobFolder, remove_dead_temporaries
from ltgs.io.images import decode_png, encode_png
from ltgs.io.lock import SceneLock
from ltgs.io.manifest import Manifest, checksum_of, read_manifest, seal
from ltgs.io.scene_codec import decode_scene, tensors_from_bytes
from ltgs.io.scene_commit import check_gaussians, growth, manifest_head, prepare_generation
from ltgs.io.scene_log import Timings, append_log, read_log, read_timings, write_timings
from ltgs.io.scene_verify import VerifyReport, verify_scene

logger = logging.getLogger("ltgs.io.scene_store")

_OWN_NAMES = {"manifest.json", "manifest.prev.json", "blobs", "stages", "log.jsonl", "timing.json", "lock"}
_STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_LOAD_ATTEMPTS = 5
T = TypeVar("T")


class SceneStore:
    """One scene folder. Readers need no lock; writers take `lock()`, which `commit` does by itself."""

    def __init__(self, path: Path) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._blobs = BlobFolder(path)
        self._lock = SceneLock(path / "lock")
        self._manifest_path = path / "manifest.json"
        self._previous_path = path / "manifest.prev.json"
        self._timing_path = path / "timing.json"
        self._log_path = path / "log.jsonl"
        self._base: str | None = None

    # -- opening ------------------------------------------------------------------------------------------------------

    @staticmethod
    def exists(path: Path | str) -> bool:
        """Whether the folder holds a scene, sound or not."""
        path = Path(path)
        return (path / "blobs").is_dir() and any((path / n).is_file() for n in ("manifest.json", "manifest.prev.json"))

    @classmethod
    def create(cls, path: Path | str, *, overwrite: bool = False) -> SceneStore:
        """Make an empty scene (generation 0) in a new or empty folder.

        Args:
            path: the scene folder.
            overwrite: start an existing scene anew. What it held stays restorable until the first commit.

        Raises:
            InputError: the folder holds a scene and `overwrite` is off, holds other files, or cannot be written.
        """
        path = Path(path)
        if cls.exists(path) and not overwrite:
            raise InputError(f"{path}: already holds a scene. Use --resume, --overwrite or another folder.")
        with explained("create", path):
            if path.exists() and not path.is_dir():
                raise InputError(f"{path}: is a file. Choose a folder for the scene.")
            foreign = [] if not path.exists() else sorted(e.name for e in path.iterdir() if not _is_ours(e.name))
            if foreign:
                raise InputError(f"{path}: holds other files ({', '.join(foreign[:3])}). Choose an empty or new folder.")
            (path / "blobs").mkdir(parents=True, exist_ok=True)
        store = cls(path)
        with store.lock(), explained("create", path):
            _remove_tree(path / "stages")
            (path / "stages").mkdir()
            if store._manifest_path.is_file():
                with contextlib.suppress(InputError):  # A damaged scene has nothing worth keeping.
                    write_file(store._previous_path, read_manifest(store._manifest_path).data)
            empty = seal({**manifest_head(0, None, "created"), "num_times": 0, "blobs": {}})
            write_file(store._manifest_path, empty)
            fsync_folder(path.parent)
            store._base = checksum_of(empty)
            store.append_log({"event": "created"})
        return store

    @classmethod
    def open(cls, path: Path | str) -> SceneStore:
        """Open an existing scene folder. Damage is reported by `load` and `verify`, so that a damaged scene can be restored.

        Raises:
            InputError: the path is no scene folder, or the scene was written by a newer version.
        """
        path = Path(path)
        if not cls.exists(path):
            why = "does not exist" if not path.exists() else "is not a scene folder (it has no manifest.json and blobs/)"
            raise InputError(f"{path}: {why}. Check the path, or make a scene with `ltgs reconstruct PHOTOS -o {path}`.")
        store = cls(path)
        try:
            store._base = read_manifest(store._manifest_path).checksum
        except FormatError as error:
            logger.warning("%s", error)
        except InputError:
            if store._manifest_path.is_file():
                raise
            logger.warning("%s: manifest.json is missing.", path)
        return store

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Number of the current generation; 0 = nothing committed yet."""
        return self._read("current").generation

    def load(self, generation: str | int = "current") -> Scene:
        """The whole scene; every blob's SHA-256 is proven before use.

        Args:
            generation: "current", "previous", or the number of one of these two.

        Raises:
            FormatError: something is damaged; the message names the file and the remedy.
            InputError: nothing was committed yet, or that generation is not stored.
        """

        def load(manifest: Manifest) -> Scene:
            if manifest.body["num_times"] == 0:
                raise InputError(f"{self.path}: the scene is empty. Complete it with `ltgs reconstruct ... --resume`.")
            timings = self._read_timings().get(manifest.checksum, [])
            cache: dict[str, dict[str, Tensor]] = {}

            def get(name: str) -> dict[str, Tensor]:
                if name not in cache:
                    data = self._blobs.read(name, manifest.blobs[name]["bytes"])
                    cache[name] = tensors_from_bytes(data, str(self._blobs.folder / name))
                return cache[name]

            return decode_scene(manifest.body, get, timings, str(self._manifest_path))

        return self._consistently(generation, load)

    def read_image(self, blob: str) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 pixels of a stored working image.

        Raises:
            FormatError: no such blob, damaged, or no 8-bit colour image.
        """
        try:
            data = self._blobs.read(blob)
        except FileNotFoundError as error:
            raise FormatError(f"{self._blobs.folder / blob}: is missing. Run `ltgs verify` on the scene.") from error
        pixels = decode_png(data, str(self._blobs.folder / blob))
        if pixels.dtype != np.uint8 or pixels.ndim != 3:
            raise FormatError(f"{self._blobs.folder / blob}: not an 8-bit colour image.")
        return pixels

    def storage_by_time(self) -> dict[int, int]:
        """Bytes of blobs that each visit added: working images by their own visit, all else by the commit that brought it."""
        return self._read("current").bytes_by_time()

    def templates_stored_at(self) -> dict[int, int]:
        """Object id to the time whose commit stored its template as it is now."""
        return self._read("current").templates_stored_at()

    def verify(self) -> VerifyReport:
        """Prove every byte of the folder; never raises for damage, but lists it."""
        return verify_scene(self.path)

    def read_log(self) -> list[dict[str, Any]]:
        """All sound log entries, oldest first."""
        with explained("read", self._log_path):
            return read_log(self._log_path)[0]

    # -- writing ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the scene for writing; may be nested.

        Raises:
            InputError: another live process holds it; the message names the process.
        """
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    def put_image(self, rgb: NDArray[np.uint8]) -> str:
        """Store a working image [H, W, 3] uint8 losslessly and return its blob name; the next commit should refer to it."""
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise ValueError(f"a working image must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}.")
        return self._blobs.put(encode_png(rgb), "png")[0]

    def commit(self, scene: Scene, *, message: str = "") -> int:
        """Make `scene` the next generation, atomically. Content that is stored already is not written again.

        Returns:
            The new generation number.

        Raises:
            InputError: disk full or not writable, another process holds the scene or has changed it since it was opened.
            ConvergenceError: Gaussians hold NaN or infinity; nothing is written.
        """
        check_gaussians(scene)
        with self.lock(), explained("commit to", self.path):
            current = self._read("current")
            if current.checksum != self._base:
                raise InputError(
                    f"{self.path}: another process changed the scene (now generation {current.generation}) while this one "
                    "was working on it. Run the command again; it will start from the new state."
                )
            dropped = self._blobs_of(self._previous_path)
            fresh: set[str] = set()
            try:
                manifest_bytes, num_blobs = prepare_generation(self._blobs, scene, current, message, fresh)
                self._blobs.sync()
                self._replace_timings(scene, current, manifest_bytes)
                write_file(self._previous_path, current.data)
                write_file(self._manifest_path, manifest_bytes, sync_folder=False)
            except (OSError, InputError, FormatError):
                # The blobs of the failed commit give their space back; those a generation refers to were not fresh.
                self._blobs.remove(fresh)
                raise
            try:
                fsync_folder(self.path)
            except OSError as error:
                # The new manifest is in place, so its blobs must stay. A power cut may still bring the old one back, whole.
                logger.warning("The commit is stored, but may not survive a power cut: %s", error)
            self._base = checksum_of(manifest_bytes)
        self._after_commit(current, dropped, message, num_blobs)
        return current.generation + 1

    def restore_previous(self) -> int:
        """Make the previous generation the current one again; returns its number. Running it twice changes nothing more.

        Raises:
            FormatError, InputError: the previous generation is missing or itself damaged.
        """
        with self.lock(), explained("restore", self.path):
            previous = read_manifest(self._previous_path)
            for name, entry in previous.blobs.items():
                try:
                    self._blobs.read(name, entry["bytes"])
                except FileNotFoundError as error:
                    missing = self._blobs.folder / name
                    raise FormatError(f"{missing}: is missing, so the previous generation is not whole.") from error
            write_file(self._manifest_path, previous.data)
            self._base = previous.checksum
            self.append_log({"event": "restored", "generation": previous.generation})
        return previous.generation

    def collect_garbage(self) -> int:
        """Delete files that no generation refers to and that this process has not just put; returns how many.

        Do not call it while unfinished stages still refer to images that were put but not committed.
        """
        with self.lock(), explained("clean", self.path):
            keep = self._blobs_of(self._manifest_path, strict=True) | self._blobs_of(self._previous_path)
            keep |= self._blobs.written
            return self._blobs.remove(self._blobs.names() - keep) + remove_dead_temporaries([self.path, self._blobs.folder])

    def stage_dir(self, name: str) -> Path:
        """An existing folder for resumable outputs of one stage, e.g. "poses_t0".

        Raises:
            ValueError: the name is not made of letters, digits, `_`, `-` and `.`, or starts with a dot or dash.
        """
        if not _STAGE_NAME.fullmatch(name):
            raise ValueError(f"stage names are 1 to 64 letters, digits, '_', '-' or '.', got {name!r}.")
        folder = self.path / "stages" / name
        if not folder.resolve().is_relative_to(self.path.resolve()):
            raise FormatError(f"{folder}: leads out of the scene folder through a link. Remove the link.")
        with explained("create", folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def append_log(self, record: Mapping[str, Any]) -> None:
        """Append one entry to log.jsonl, with the time added.

        Raises:
            InputError: the file cannot be written.
        """
        with explained("write", self._log_path):
            append_log(self._log_path, record)

    # -- parts of reading and committing ------------------------------------------------------------------------------

    def _read(self, generation: str | int) -> Manifest:
        """A proven manifest, or an error that says how to go on."""
        if generation == "previous":
            return read_manifest(self._previous_path)
        try:
            current = read_manifest(self._manifest_path)
        except InputError as error:
            try:
                previous = read_manifest(self._previous_path)
            except InputError:
                raise error from None
            raise FormatError(
                f"{error} The previous generation {previous.generation} is still there: "
                "`ltgs verify --restore-previous` makes it current again."
            ) from error
        if generation in ("current", current.generation):
            return current
        with contextlib.suppress(InputError):
            previous = read_manifest(self._previous_path)
            if previous.generation == generation:
                return previous
        raise InputError(
            f"{self.path}: generation {generation!r} is not stored. Only the current one ({current.generation}) and the one "
            "before it are kept."
        )

    def _consistently(self, generation: str | int, use: Callable[[Manifest], T]) -> T:
        """Call `use` with a manifest; if a blob vanishes because a writer committed twice meanwhile, start over."""
        for _ in range(_LOAD_ATTEMPTS):
            manifest = self._read(generation)
            try:
                return use(manifest)
            except FileNotFoundError as error:
                missing = error
            if self._read(generation).checksum == manifest.checksum:
                break
        raise FormatError(
            f"{missing.filename}: is missing although the manifest refers to it. Run `ltgs verify` on the scene; "
            "`ltgs verify --restore-previous` goes back to the generation before if that one is whole."
        ) from missing

    def _replace_timings(self, scene: Scene, current: Manifest, manifest_bytes: bytes) -> None:
        """Store timings for both generations, so that whichever manifest a kill leaves finds its own."""
        timings: Timings = {checksum_of(manifest_bytes): [{k: float(s) for k, s in v.timing.items()} for v in scene.visits]}
        old = self._read_timings().get(current.checksum)
        if old is not None:
            timings[current.checksum] = old
        write_timings(self._timing_path, timings)

    def _read_timings(self) -> Timings:
        try:
            return read_timings(self._timing_path)
        except (FormatError, OSError) as error:
            logger.warning("Timings are not available: %s", error)
            return {}

    def _blobs_of(self, manifest_path: Path, *, strict: bool = False) -> set[str]:
        """Names a manifest refers to; none if it is missing or damaged, unless `strict`."""
        try:
            return set(read_manifest(manifest_path).blobs)
        except InputError:
            if strict:
                raise
            return set()

    def _after_commit(self, current: Manifest, dropped: set[str], message: str, num_blobs: int) -> None:
        """Clean up and log. The commit has happened, so a failure here is only reported.

        Tensor blobs come from commits alone, so any that neither generation names is waste. Images may have been put for
        a commit that is still to come, also by an earlier run that is being resumed: only those of the dropped generation go.
        """
        try:
            with self.lock():
                new = self._blobs_of(self._manifest_path, strict=True)
                keep = new | set(current.blobs)
                self._blobs.written -= new
                tensors = {n for n in self._blobs.names() if n.endswith(".safetensors")}
                self._blobs.remove((tensors | dropped) - keep - self._blobs.written)
                remove_dead_temporaries([self.path, self._blobs.folder])
                entry = {"event": "commit", "generation": current.generation + 1, "message": message, "blobs": num_blobs}
                self.append_log(entry | growth(read_manifest(self._manifest_path), current))
        except (OSError, InputError) as error:
            logger.warning("The commit is stored, but cleaning up after it failed: %s", error)


def _is_ours(name: str) -> bool:
    return name in _OWN_NAMES or name.startswith(".tmp-")


def _remove_tree(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink():
        step("unlink", folder)
        shutil.rmtree(folder)
