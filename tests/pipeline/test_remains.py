"""Pieces that were not cut out with their object, and wrong patches of surfaces, go without an event."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import blobs
from numpy.typing import NDArray

from ltgs.core.chronology import Appearance, Chronology, ObjectTrack, Presence, Template
from ltgs.core.gaussians import Gaussians
from ltgs.core.se3 import make_rigid
from ltgs.objects.templates import BuildConfig
from ltgs.pipeline.update_assemble import Decisions, assemble
from ltgs.pipeline.update_parts import Cutting
from ltgs.pipeline.update_proofs import ProofConfig, remains_of, stood_before

RNG = np.random.default_rng(0)
CONFIG = ProofConfig()
THERE = np.array([1.0, 0.5, 0.0])


def piece_of(points: NDArray[np.float64], chronology: Chronology) -> int:
    return remains_of(points, chronology, CONFIG, least=60)


def thing() -> Gaussians:
    return blobs(RNG, RNG.uniform(-0.2, 0.2, (400, 3)), 0.03)


@pytest.fixture
def chronology() -> Chronology:
    """An object that moved from THERE to the origin, and a surface revealed at that time; two visits."""
    place = blobs(RNG, RNG.uniform(-2, 2, (300, 3)), 0.05)
    track = ObjectTrack.start(1, 0, make_rigid(np.eye(3), THERE)).extended(Presence.PRESENT, np.eye(4))
    surface = blobs(RNG, np.column_stack([RNG.uniform(-1, 1, (80, 2)), np.full(80, -0.3)]), 0.05)
    return replace(
        Chronology.initial(place), appearance=(Appearance(), Appearance()),
        templates={1: Template(1, "object", thing(), 0), 2: Template(2, "surface", surface, 1)},
        tracks={1: track, 2: ObjectTrack.start(2, 1, np.eye(4))},
    )


def test_what_coincides_with_an_object_where_it_once_stood_is_a_piece_of_it(chronology: Chronology) -> None:
    piece = RNG.uniform([-0.2, -0.2, 0.1], [0.0, 0.0, 0.2], (30, 3))
    assert piece_of(piece + THERE, chronology) == 1
    assert piece_of(piece, chronology) == 1, "also where it stands now"
    assert piece_of(piece + [0.0, -1.0, 0.0], chronology) == 0
    speck = RNG.uniform(-0.05, 0.05, (30, 3)) + [0.28, 0, 0]
    assert piece_of(speck, chronology) == 1, "small, and touches it where it stands"
    assert piece_of(speck + THERE, chronology) == piece_of(speck + [0.2, 0, 0], chronology) == 0
    assert piece_of(piece + THERE + [0.3, 0, 0], chronology) == 0, "beside it stands something else"
    assert piece_of(RNG.uniform(-0.4, 0.4, (300, 3)) + THERE, chronology) == 0, "larger than itself"
    assert piece_of(np.repeat(speck, 3, 0), chronology) == 0, "as small, but a thing of its own"
    built_later = {**chronology.templates, 1: replace(chronology.templates[1], created_at=1)}
    assert piece_of(piece, replace(chronology, templates=built_later)) == 0, "it was there before the object came"
    gone = replace(chronology.tracks[1], presence=np.zeros(2, np.uint8))
    assert piece_of(piece + THERE, replace(chronology, tracks={1: gone, 2: chronology.tracks[2]})) == 0


def test_where_an_object_stood_the_place_is_empty_since_it_left(chronology: Chronology) -> None:
    inside = RNG.uniform(-0.1, 0.1, (20, 3))
    assert stood_before(inside + THERE, chronology).all()
    assert not stood_before(inside, chronology).any(), "it stands there now"
    assert not stood_before(inside + THERE + [0.4, 0, 0], chronology).any()
    absent = chronology.tracks[1].extended(Presence.ABSENT)
    later = replace(
        chronology, appearance=(Appearance(),) * 3, tracks={1: absent, 2: chronology.tracks[2].extended(Presence.PRESENT)}
    )
    assert stood_before(inside, later).all()


def assembled(chronology: Chronology, remains: list[tuple[int, Cutting]]) -> Chronology:
    decisions = Decisions({}, [], [], [], [], remains=remains)
    return assemble(chronology, decisions, Appearance(), build=BuildConfig(), rng=np.random.default_rng(0))[0]


def test_a_piece_goes_without_an_event(chronology: Chronology) -> None:
    members = torch.tensor([3, 5, 8])
    out = assembled(chronology, [(1, Cutting(chronology.background[members], members))])
    assert out.events == () and out.templates[3].kind == "surface" and out.templates[3].footing_of == 1
    assert out.tracks[3].presence.tolist() == [Presence.PRESENT, Presence.PRESENT, Presence.ABSENT]
    assert len(out.state_at(1).gaussians) == len(chronology.state_at(1).gaussians)
    assert len(out.state_at(2).gaussians) == len(out.state_at(1).gaussians) - 3
    assert out.tracks[1].presence.tolist() == [Presence.PRESENT, Presence.PRESENT, Presence.UNKNOWN], "no photo looked there"


def test_a_patch_of_a_surface_was_shown_only_while_the_surface_was(chronology: Chronology) -> None:
    rows = torch.tensor([0, 1, 2, 3])
    patch = Cutting(chronology.templates[2].gaussians[rows], torch.zeros(0, dtype=torch.int64), {2: rows})
    out = assembled(chronology, [(2, patch)])
    assert out.tracks[3].presence.tolist() == [Presence.ABSENT, Presence.PRESENT, Presence.ABSENT]
    assert len(out.templates[2].gaussians) == 76
    assert [len(out.state_at(t).gaussians) for t in range(2)] == [len(chronology.state_at(t).gaussians) for t in range(2)]
    assert len(out.state_at(2).gaussians) == len(out.state_at(1).gaussians) - 4


def test_a_piece_of_the_background_and_of_a_later_surface_is_shown_as_long_as_each_was(chronology: Chronology) -> None:
    members, rows = torch.tensor([3, 5]), torch.tensor([0, 1, 2, 3])
    both = Gaussians.concatenate([chronology.background[members], chronology.templates[2].gaussians[rows]])
    out = assembled(chronology, [(1, Cutting(both, members, {2: rows}))])
    assert [out.tracks[k].presence.tolist() for k in (3, 4)] == [[Presence.PRESENT] * 2 + [Presence.ABSENT], [0, 1, 0]]
    assert {out.templates[k].footing_of for k in (3, 4)} == {1}
    assert [len(out.state_at(t).gaussians) for t in range(2)] == [len(chronology.state_at(t).gaussians) for t in range(2)]
    assert len(out.state_at(2).gaussians) == len(out.state_at(1).gaussians) - 6
