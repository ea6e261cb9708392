"""The visual hull places new content in front of the known surface and keeps two objects apart."""

from dataclasses import replace

import numpy as np

from ltgs.core.cameras import Camera
from ltgs.core.chronology import Chronology
from ltgs.core.decisions import DecisionRecorder
from ltgs.core.gaussians import Gaussians
from ltgs.core.views import ComparedView
from ltgs.objects.hull import cluster_points, hull_instances, project

SIZE = 96


def look_at(eye: np.ndarray, target: np.ndarray = np.zeros(3)) -> Camera:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    return Camera("v", 0, SIZE, SIZE, np.array([[110.0, 0, 48], [0, 110.0, 48], [0, 0, 1]]), pose)


def view_of_spheres(eye, spheres) -> ComparedView:
    """A floor at z = 0 is known; spheres on it are the change."""
    camera = look_at(np.asarray(eye, float))
    v, u = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(camera.K).T @ camera.cam_from_world[:3, :3]
    centre = camera.center
    depth = np.clip(-centre[2] / np.minimum(rays[..., 2], -1e-3), 0, 50)
    mask = np.zeros((SIZE, SIZE), bool)
    for position, radius in spheres:
        offset = np.asarray(position) - centre
        along = (rays @ offset) / (rays**2).sum(-1)
        mask |= np.linalg.norm(rays * along[..., None] - offset, axis=-1) < radius
    blank = np.zeros((SIZE, SIZE, 3), np.float32)
    return ComparedView(
        camera, blank, blank, np.eye(3, 4), np.ones_like(blank), np.ones((SIZE, SIZE), np.float32),
        depth.astype(np.float32), mask.astype(np.float32) * 2, mask, ~mask, 0.01,
    )


EYES = [(2.0, 0.2, 1.5), (-1.2, 1.7, 1.6), (-0.6, -2.0, 1.4)]


def test_one_sphere_is_one_instance_at_its_place():
    sphere = ((0.2, -0.1, 0.15), 0.15)
    instances = hull_instances([view_of_spheres(e, [sphere]) for e in EYES])
    assert len(instances) == 1 and instances[0].num_views == 3
    assert np.linalg.norm(instances[0].centroid - sphere[0]) < 0.06


def test_two_spheres_are_two_instances():
    spheres = [((0.35, 0.3, 0.12), 0.12), ((-0.4, -0.25, 0.12), 0.12)]
    instances = hull_instances([view_of_spheres(e, spheres) for e in EYES])
    centroids = [i.centroid for i in instances[:2]]
    for position, _ in spheres:
        assert min(np.linalg.norm(c - position) for c in centroids) < 0.08
    assert len(instances) == 2


def test_object_seen_in_one_of_three_views_is_not_contradicted_into_existence():
    """Mask pixels that the other views deny give no multi-view instance."""
    views = [view_of_spheres(EYES[0], [((0, 0, 0.15), 0.15)]), *(view_of_spheres(e, []) for e in EYES[1:])]
    assert hull_instances(views) == []


def test_no_change_no_instance():
    assert hull_instances([view_of_spheres(e, []) for e in EYES]) == []


def test_content_that_differs_too_little_is_dropped_and_recorded():
    views = [view_of_spheres(e, [((0.2, -0.1, 0.15), 0.15)]) for e in EYES]
    weak = [replace(v, score=v.score * 0.4) for v in views]
    recorder = DecisionRecorder([v.camera for v in views])
    assert hull_instances(weak, record=recorder) == []
    (asked,) = hull_instances(weak, weak=True)
    assert asked.is_weak and asked.num_views == 3, "a known object may explain it"
    (found,) = recorder.finish(Chronology.initial(Gaussians.empty(0)), 1).instances
    assert found.verdict == "dropped" and "mean score 0.80" in found.reason and found.num_views == 3
    assert np.linalg.norm(np.array(found.centre) - [0.2, -0.1, 0.15]) < 0.06


def test_content_that_nothing_confirms_must_differ_more():
    views = [view_of_spheres(e, [((0.2, -0.1, 0.15), 0.15)]) for e in EYES]
    nearly = [replace(v, score=v.score * 0.5) for v in views]
    assert len(hull_instances(nearly)) == 1 and hull_instances(nearly[:1]) == []
    (weak,) = hull_instances(nearly[:1], weak=True)
    assert weak.is_weak and len(hull_instances(views[:1])) == 1


def test_cluster_points_separates_by_distance():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.02, (200, 3)), rng.normal(0, 0.02, (200, 3)) + [1, 0, 0]])
    labels = cluster_points(points, 0.1)
    assert len(np.unique(labels[:200])) == 1 and len(np.unique(labels)) == 2


def test_project_matches_the_camera_model():
    camera = look_at(np.array([1.0, 2.0, 3.0]))
    uv, depth = project(camera, np.zeros((1, 3)))
    np.testing.assert_allclose(uv[0], [48, 48], atol=1e-9)
    np.testing.assert_allclose(depth[0], np.sqrt(14))
