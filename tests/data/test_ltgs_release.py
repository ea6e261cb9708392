"""The LTGS release layout: pose modes, order of visits, split rules, names, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ltgs_fixture import PORTRAIT, FixtureScene, Shot, dense, standard, write_hloc_results, write_release

from ltgs.data.convert import as_photo_folder
from ltgs.data.ltgs_release import read_ltgs_release
from ltgs.errors import FormatError, InputError


def test_joint_model_gives_every_photo_its_pose_time_and_role(tmp_path: Path) -> None:
    scene = standard()
    release = read_ltgs_release(write_release(tmp_path, scene))
    assert release.pose_mode == "sfm_all"
    assert [c.name for c in release.captures] == ["IMG_0000", "IMG_0001", "IMG_0002"]
    assert [c.timestep for c in release.captures] == [0, 1, 2]
    assert set(release.posed) == {s.name for s in scene.shots}
    for name, photo in release.posed.items():
        np.testing.assert_allclose(photo.cam_from_world, scene.poses[name], atol=1e-12)
        assert photo.time == int(name[4:8])
        assert photo.params == (50.0, 51.0, 24.0, 16.0)
    assert release.update_names[1] == ("IMG_0001/photo_0.jpg", "IMG_0001/photo_1.jpg", "IMG_0001/photo_2.jpg")
    assert release.test_names[2] == ("IMG_0002/photo_3.jpg", "IMG_0002/photo_4.jpg")
    # Plain text order puts _1, _10, _11 .. before _2, as the published rule does: places 0, 8 and 16 are held out.
    assert set(release.test_names[0]) == {"IMG_0000/IMG_0000_0.jpg", "IMG_0000/IMG_0000_16.jpg", "IMG_0000/IMG_0000_9.jpg"}
    assert "every 8th" in release.split_rule and "changes.txt" in release.split_rule
    assert release.warnings == ()
    for capture, update, test in zip(release.captures, release.update_names, release.test_names, strict=True):
        assert {f.name for f in capture.frames} == {*update, *test} and not {*update} & {*test}
        assert all(f.path.is_file() for f in capture.frames)


def test_twelve_visits_stay_in_natural_order(tmp_path: Path) -> None:
    shots = dense("IMG_0", 4) + [Shot(f"IMG_{k}/a_{i}.jpg") for k in range(1, 13) for i in (0, 1)]
    scene = FixtureScene(shots, [s.name for s in reversed(shots[4:]) if s.name.endswith("_0.jpg")])
    release = read_ltgs_release(write_release(tmp_path, scene))
    assert [c.name for c in release.captures] == [f"IMG_{k}" for k in range(13)]
    # A prefix test would put IMG_10's photos into IMG_1.
    assert [f.name for f in release.captures[1].frames] == ["IMG_1/a_0.jpg", "IMG_1/a_1.jpg"]
    assert release.posed["IMG_10/a_1.jpg"].time == 10


def test_hloc_mode_poses_the_first_visit_only(tmp_path: Path) -> None:
    scene = standard()
    write_release(tmp_path / "livingroom", scene, mode="hloc")
    for root in (tmp_path / "livingroom", tmp_path / "livingroom" / "hloc"):
        release = read_ltgs_release(root)
        assert release.pose_mode == "hloc"
        assert {n.split("/")[0] for n in release.posed} == {"IMG_0000"}
        assert len(release.captures[1].frames) == 5
        assert release.test_names[1] == ("IMG_0001/photo_3.jpg", "IMG_0001/photo_4.jpg")
        assert any("no pose in the release" in w for w in release.warnings)
        assert release.localizations == ()


def test_hloc_results_are_imported_with_xyzw_quaternions_and_absurd_poses_refused(tmp_path: Path) -> None:
    scene = standard()
    write_release(tmp_path, scene, mode="hloc")
    names = scene.changes[:3]
    truth = write_hloc_results(tmp_path / "hloc" / "hloc_results.json", names, far=names[2:])
    release = read_ltgs_release(tmp_path)
    for name in names[:2]:
        np.testing.assert_allclose(release.posed[name].cam_from_world[:3], truth[name], atol=1e-12)
        assert release.posed[name].time == 1
    assert names[2] not in release.posed
    by_name = {r.name: r for r in release.localizations}
    assert by_name[names[1]].num_inliers == 41 and by_name[names[1]].inlier_ratio == pytest.approx(41 / 81)
    assert by_name[names[2]].cam_from_world is None and "radii away" in by_name[names[2]].reason
    assert any(names[2] in w for w in release.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotation": [0, 0, 0, 0]}, "norm"),
        ({"rotation": [0, 0, 1]}, "rotation"),
        ({"translation": ["x", 0, 0]}, "translation"),
        ({"model": "FISHEYE"}, "FISHEYE"),
        ({"name": "../../etc/passwd"}, "relative"),
        ({"params": [50.0, 51.0, 24.0]}, "params"),
        ({"params": [-50.0, 51.0, 24.0, 16.0]}, "focal"),
    ],
)
def test_damaged_hloc_results_name_the_entry(tmp_path: Path, change: dict[str, object], message: str) -> None:
    scene = standard()
    write_release(tmp_path, scene, mode="hloc")
    path = tmp_path / "hloc_results.json"
    write_hloc_results(path, scene.changes[:2])
    entries = json.loads(path.read_text())
    entries[1] |= change
    path.write_text(json.dumps(entries))
    with pytest.raises(FormatError, match=message) as caught:
        read_ltgs_release(tmp_path)
    assert "entry 1" in str(caught.value)


def test_both_models_present_are_reported_and_can_be_chosen(tmp_path: Path) -> None:
    scene = standard()
    write_release(tmp_path, scene)
    write_release(tmp_path, scene, mode="hloc")
    joint = read_ltgs_release(tmp_path)
    assert joint.pose_mode == "sfm_all" and any("both pose modes" in w for w in joint.warnings)
    assert read_ltgs_release(tmp_path, pose_mode="hloc").pose_mode == "hloc"


def test_test_file_of_the_model_beats_the_rule(tmp_path: Path) -> None:
    scene = standard()
    write_release(tmp_path, scene)
    listed = ["IMG_0000/IMG_0000_3.jpg", "IMG_0001/photo_3.jpg", "IMG_0002/photo_4.jpg"]
    (tmp_path / "sparse" / "0" / "test.txt").write_text("\n".join(listed) + "\nIMG_0009/gone.jpg\n")
    release = read_ltgs_release(tmp_path)
    assert release.split_rule == "sparse/0/test.txt"
    assert sorted(release.holdout) == listed
    # photo_4 of visit 1 is neither tested nor listed as an update: it must not slip into training.
    assert "IMG_0001/photo_4.jpg" not in release.update_names[1]
    assert "IMG_0001/photo_4.jpg" not in {f.name for c in as_photo_folder(release).captures for f in c.frames}
    assert any("gone.jpg" in w for w in release.warnings)


def test_a_test_file_of_the_first_visit_alone_leaves_later_visits_to_the_rule(tmp_path: Path) -> None:
    scene = standard()
    write_release(tmp_path, scene)
    (tmp_path / "sparse" / "0" / "test.txt").write_text("IMG_0000_3\n")
    release = read_ltgs_release(tmp_path)
    assert release.test_names[0] == ("IMG_0000/IMG_0000_3.jpg",)
    assert release.test_names[1] == ("IMG_0001/photo_3.jpg", "IMG_0001/photo_4.jpg")
    assert "timesteps 1, 2" in release.split_rule


def test_the_users_split_wins_even_over_changes(tmp_path: Path) -> None:
    scene = standard()
    write_release(tmp_path, scene)
    (tmp_path / "sparse" / "0" / "test.txt").write_text("IMG_0000_3\n")
    split = tmp_path / "my_split.txt"
    split.write_text("# held out\nIMG_0001/photo_0.jpg\n")
    release = read_ltgs_release(tmp_path, split=split)
    assert release.split_rule == "the given file my_split.txt"
    assert release.holdout == {"IMG_0001/photo_0.jpg"}
    assert "IMG_0001/photo_0.jpg" not in release.update_names[1]
    assert any("both held out and in changes.txt" in w for w in release.warnings)
    split.write_text("photo_0\n")
    with pytest.raises(FormatError, match=r"photo_0 fits IMG_0001/photo_0.jpg and IMG_0002/photo_0.jpg"):
        read_ltgs_release(tmp_path, split=split)
    split.write_text("nothing\n")
    with pytest.raises(InputError, match="names none"):
        read_ltgs_release(tmp_path, split=split)
    with pytest.raises(InputError, match="no such file"):
        read_ltgs_release(tmp_path, split=tmp_path / "absent.txt")


def test_portrait_photos_keep_their_own_camera(tmp_path: Path) -> None:
    scene = standard()
    scene.shots[-1].size = PORTRAIT
    release = read_ltgs_release(write_release(tmp_path, scene, model="SIMPLE_RADIAL"))
    upright, flat = release.posed[scene.shots[-1].name], release.posed[scene.shots[0].name]
    assert (upright.width, upright.height) == PORTRAIT and (flat.width, flat.height) == (48, 32)
    assert upright.params == (50.0, 16.0, 24.0, 0.05)
    assert flat.distortion[0] == 0.05


def test_names_may_differ_in_case_extension_and_hold_blanks(tmp_path: Path) -> None:
    shots = [
        *dense("before", 3, extension="png"),
        Shot("later visit/my photo 1.jpg"),
        Shot("later visit/my photo 2.JPG"),
        Shot("later visit/three.jpg", on_disk="later visit/three.png"),
        Shot("later visit/four.png", on_disk="later visit/FOUR.PNG"),
    ]
    scene = FixtureScene(shots, ["later visit/my photo 1.jpg", "later visit\\my photo 2.JPG", "later visit/three.jpg"])
    release = read_ltgs_release(write_release(tmp_path, scene))
    assert [c.name for c in release.captures] == ["before", "later visit"]
    assert len(release.update_names[1]) == 3 and release.test_names[1] == ("later visit/four.png",)
    paths = {f.name: f.path.name for f in release.captures[1].frames}
    assert paths["later visit/three.jpg"] == "three.png" and paths["later visit/four.png"] == "FOUR.PNG"
    assert any("another extension or case" in w for w in release.warnings)


def test_changes_may_be_on_one_line_and_spelt_otherwise_than_the_model(tmp_path: Path) -> None:
    scene = standard()
    scene.changes = [f"./{n.replace('.jpg', '.JPG')}" for n in scene.changes]
    release = read_ltgs_release(write_release(tmp_path, scene, separator=" "))
    assert release.update_names[1] == tuple(f"IMG_0001/photo_{i}.jpg" for i in range(3))
    assert len(release.captures[1].frames) == 5


def test_missing_unregistered_and_foreign_photos_are_reported(tmp_path: Path) -> None:
    scene = standard()
    scene.shots[18].on_disk = ""
    scene.shots[19].registered = False
    scene.shots += [Shot("IMG_0001/stray.jpg", registered=False), Shot("other/x.jpg")]
    release = read_ltgs_release(write_release(tmp_path, scene))
    text = " ".join(release.warnings)
    assert "1 listed photos are not on disk, the first is IMG_0001/photo_1.jpg" in text
    assert "1 update photos are not in the COLMAP model, the first is IMG_0001/photo_2.jpg" in text
    assert "1 photos are neither registered" in text and "other" in text
    assert release.update_names[1] == ("IMG_0001/photo_0.jpg", "IMG_0001/photo_2.jpg")
    assert "IMG_0001/photo_1.jpg" not in release.posed and len(release.captures) == 3


def test_conversion_keeps_holdouts_and_known_poses(tmp_path: Path) -> None:
    release = read_ltgs_release(write_release(tmp_path, standard()))
    captures, cameras, holdout = as_photo_folder(release)
    names = {f.name for c in captures for f in c.frames}
    assert {c.name for c in cameras} == names and holdout < names
    assert {c.time for c in cameras} == {0, 1, 2}
    assert len(holdout) == 3 + 2 + 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "images" / "changes.txt").unlink(), "changes.txt: is missing"),
        (lambda r: (r / "images" / "changes.txt").write_text(" \n"), "names no photo"),
        (lambda r: (r / "images" / "changes.txt").write_bytes(b"\xff\xfe\x00x"), "not a text file"),
        (lambda r: (r / "images" / "changes.txt").write_text("photo.jpg"), "in no folder"),
        (lambda r: (r / "images" / "changes.txt").write_text("../../x/y.jpg"), "relative"),
        (lambda r: (r / "sparse" / "0" / "images.bin").unlink(), "no COLMAP model"),
        (lambda r: (r / "sparse" / "0" / "images.bin").write_bytes(b"\x09" * 60), "images.bin"),
        (lambda r: (r / "images").rename(r / "pictures"), "no folder images/"),
    ],
)
def test_a_damaged_release_is_refused_with_the_file(tmp_path: Path, damage, message: str) -> None:
    write_release(tmp_path, standard())
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        read_ltgs_release(tmp_path)


def test_every_folder_in_changes_leaves_no_first_visit(tmp_path: Path) -> None:
    shots = [Shot("a/1.jpg"), Shot("b/1.jpg")]
    with pytest.raises(InputError, match="no folder is left"):
        read_ltgs_release(write_release(tmp_path, FixtureScene(shots, ["a/1.jpg", "b/1.jpg"])))
