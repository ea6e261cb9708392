"""Kills and failing disks: at every single step of a commit the store must hold the old or the new generation, whole."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltgs.errors import InputError
from ltgs.io import atomic
from ltgs.io.lock import SceneLock, describe_self
from ltgs.io.scene_store import SceneStore

REPO = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Stands for kill -9: no handler of the code under test may catch it, and no later disk action may happen."""


class FaultAt:
    """Raise at the k-th disk action; a killed process does nothing afterwards, a failing disk fails once or for good."""

    def __init__(self, k: int, error: BaseException, *, forever: bool) -> None:
        self.k, self.error, self.forever, self.count = k, error, forever, 0

    def __call__(self, action: str, path: Path) -> None:
        self.count += 1
        if self.count == self.k or (self.forever and self.count > self.k):
            raise self.error


def count_steps(store: SceneStore, scene) -> int:
    atomic.on_step = counter = FaultAt(-1, Killed(), forever=False)
    store.commit(scene)
    atomic.on_step = None
    return counter.count


def prepared(folder: Path, make_scene):
    """A store with one generation, and the scene of the next one, with new blobs in it."""
    store = SceneStore.create(folder)
    store.commit(make_scene(store, 1, seed=1))
    return store, make_scene(store, 2, seed=2)


def release_after_kill(store: SceneStore) -> None:
    """The kernel closes a dead process's files; here the process lives on, so the test does it."""
    if store._lock._descriptor is not None:
        os.close(store._lock._descriptor)
        store._lock._descriptor = None


def check_whole(path: Path, same_scene, old, new) -> int:
    store = SceneStore.open(path)
    report = store.verify()
    assert report.ok, report.errors
    assert report.generation in (1, 2)
    same_scene(store.load(), old if report.generation == 1 else new)
    return report.generation


def test_kill_at_every_step_of_a_commit(tmp_path, make_scene, same_scene):
    total = count_steps(*prepared(tmp_path / "count", make_scene))
    assert total > 25
    seen = []
    for k in range(1, total + 1):
        store, scene = prepared(tmp_path / f"s{k}", make_scene)
        old = store.load()
        atomic.on_step = FaultAt(k, Killed(), forever=True)
        with pytest.raises(Killed):
            store.commit(scene)
        atomic.on_step = None
        release_after_kill(store)
        seen.append(check_whole(store.path, same_scene, old, scene))
        if seen[-1] == 1:
            # The same command again completes, and leaves nothing behind but half-written temporary files.
            again = SceneStore.open(store.path)
            assert again.commit(make_scene(again, 2, seed=2)) == 2
            assert check_whole(store.path, same_scene, old, scene) == 2
    # One commit point: old before it, new after it.
    assert seen == sorted(seen) and set(seen) == {1, 2}


def test_full_disk_at_every_step_of_a_commit(tmp_path, make_scene, same_scene):
    total = count_steps(*prepared(tmp_path / "count", make_scene))
    for k in range(1, total + 1):
        store, scene = prepared(tmp_path / f"s{k}", make_scene)
        old = store.load()
        before = {p.name for p in (store.path / "blobs").iterdir()}
        atomic.on_step = FaultAt(k, OSError(errno.ENOSPC, "No space left on device"), forever=False)
        try:
            store.commit(scene)
            committed = True
        except InputError as error:
            assert "Free" in str(error) and "intact" in str(error)
            committed = False
        atomic.on_step = None
        generation = check_whole(store.path, same_scene, old, scene)
        assert not committed or generation == 2
        if generation == 1:
            assert {p.name for p in (store.path / "blobs").iterdir()} == before, "a failed commit must give its space back"
            assert store.commit(scene) == 2, "the same store works once there is space again"


def test_a_disk_that_stays_broken_raises_a_typed_error(tmp_path, make_scene, same_scene):
    for k in (1, 5, 12):
        store, scene = prepared(tmp_path / f"s{k}", make_scene)
        old = store.load()
        atomic.on_step = FaultAt(k, OSError(errno.EIO, "Input/output error"), forever=True)
        with pytest.raises(InputError, match="ltgs verify"):
            store.commit(scene)
        atomic.on_step = None
        assert check_whole(store.path, same_scene, old, scene) == 1


@pytest.mark.parametrize("operation", ["create", "overwrite", "restore"])
def test_kill_at_every_step_of_other_writers(tmp_path, make_scene, operation):
    def start(folder: Path):
        if operation == "create":
            return lambda: SceneStore.create(folder, overwrite=SceneStore.exists(folder)), 0
        store, scene = prepared(folder, make_scene)
        store.commit(scene)
        if operation == "overwrite":
            return lambda: SceneStore.create(folder, overwrite=True), 2
        return store.restore_previous, 2

    action, _ = start(tmp_path / "count")
    atomic.on_step = counter = FaultAt(-1, Killed(), forever=False)
    action()
    atomic.on_step = None
    for k in range(1, counter.count + 1):
        folder = tmp_path / f"s{k}"
        action, _ = start(folder)
        for again in range(3):  # A kill during the repeated command, too.
            atomic.on_step = FaultAt(k + again, Killed(), forever=True)
            try:
                action()
            except Killed as error:
                close_descriptors_of(error)
            atomic.on_step = None
            if SceneStore.exists(folder) and (folder / "manifest.json").exists():
                assert SceneStore.open(folder).verify().ok
        assert action() is not None
        assert SceneStore.open(folder).verify().ok


def close_descriptors_of(error: BaseException) -> None:
    """Release the lock held by the frames of a simulated kill, as the kernel would."""
    trace = error.__traceback__
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, SceneStore):
                release_after_kill(value)
                value._lock._depth = 0
        trace = trace.tb_next


CHILD = """
import sys
sys.path[:0] = [{repo!r}, {tests!r}]
from conftest import scene_of
from ltgs.io.scene_store import SceneStore
store = SceneStore.open({path!r})
print("ready", flush=True)
for i in range(100000):
    store.commit(scene_of(store, 1 + i % 3, seed=i % 50))
    print(store.generation, flush=True)
"""


def test_real_kill_9_in_the_middle_of_commits(tmp_path, make_scene):
    """Three kills at uneven moments; after each one the store verifies and has lost no generation that was reported."""
    store = SceneStore.create(tmp_path / "scene")
    store.commit(make_scene(store, 1))
    code = CHILD.format(repo=str(REPO), tests=str(Path(__file__).parent), path=str(store.path))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for i in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.037 * i)
        child.send_signal(signal.SIGKILL)
        reported = [int(line) for line in child.stdout.read().split()]
        child.wait()
        report = SceneStore.open(store.path).verify()
        assert report.ok, report.errors
        assert report.generation >= max(reported, default=0)
        SceneStore.open(store.path).load()


def test_live_holder_is_named_and_dead_one_replaced(store):
    code = (
        f"import sys; sys.path.insert(0, {str(REPO)!r})\n"
        f"from ltgs.io.lock import SceneLock; from pathlib import Path\n"
        f"SceneLock(Path({str(store.path / 'lock')!r})).acquire(); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {child.pid} "), store.lock():
        raise AssertionError("two writers at once")
    child.kill()
    child.wait()
    with store.lock(), store.lock():
        assert json.loads((store.path / "lock").read_text())["pid"] == os.getpid()
    assert (store.path / "lock").read_bytes() == b""


def test_recorded_process_guards_where_flock_does_nothing(tmp_path):
    """The parent process is alive and recorded with its true start: refused. With another start time: its id was reused."""
    lock = tmp_path / "lock"
    record = {**describe_self().__dict__, "pid": os.getppid()}
    start = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    lock.write_text(json.dumps({**record, "process_start": start}))
    with pytest.raises(InputError, match=str(os.getppid())):
        SceneLock(lock).acquire()
    for stale in ({"process_start": "1"}, {"boot_id": "before the power cut"}, {"pid": 2**22 + 5}):
        lock.write_text(json.dumps({**record, "process_start": start, **stale}))
        held = SceneLock(lock)
        held.acquire()
        held.release()
    for torn in (b"", b"{", b"[]", b'{"pid": "x"}', b"\xff" * 5000, b"[" * 4000):
        lock.write_bytes(torn)
        held = SceneLock(lock)
        held.acquire()
        held.release()


def test_two_stores_in_one_process_exclude_each_other(store):
    with store.lock(), pytest.raises(InputError, match="being changed"):
        SceneStore.open(store.path)._lock.acquire()


def test_reader_during_commits_sees_whole_generations(store, make_scene):
    """A reader that read the manifest just before two commits finds its blobs collected, and starts over."""
    store.commit(make_scene(store, 1, seed=1))
    reader = SceneStore.open(store.path)
    read = reader._blobs.read
    pending = [2, 3, 4]

    def slow_read(name, size=None):
        while pending:
            store.commit(make_scene(store, 1, seed=pending.pop(0)))
        return read(name, size)

    reader._blobs.read = slow_read
    assert float(reader.load().chronology.background.means.sum()) == float(store.load().chronology.background.means.sum())


def test_temporaries_of_dead_processes_are_removed(store, make_scene):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    name = f".tmp-{dead.stdout.strip()}-0123abcd-x.safetensors"
    (store.path / "blobs" / name).write_bytes(b"half")
    assert store.verify().leftovers == (f"blobs/{name}",)
    store.commit(make_scene(store, 1))
    assert store.verify().leftovers == ()


def test_missing_folder_is_explained(store, make_scene):
    import shutil

    scene = make_scene(store, 1)
    shutil.rmtree(store.path)
    with pytest.raises(InputError, match="moved or deleted"):
        store.commit(scene)
