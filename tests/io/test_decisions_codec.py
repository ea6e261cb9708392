"""Decision records as JSON: exact round trip, and nothing that is read is trusted."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from ltgs.core.decisions import DecisionRecord, InstanceVerdict, PairTest, RemovalTest
from ltgs.errors import FormatError
from ltgs.io.decisions_codec import decode_decisions, encode_decisions

BOX = {"a/Ünïcode 🙂.jpg": (0, 1, 2, 3)}
RECORD = DecisionRecord(
    (RemovalTest("round 1", (0.1, -2.0, 3.5), 0.25, 12, {"explained": -0.31, "own": 4.0}, False, "why", 3, BOX),),
    (PairTest("second look", 3, 1, None, None, False, "small"), PairTest("second look", 3, 1, -0.5, 0.25, True, "", True)),
    (InstanceVerdict(1, "round 1", (0.0, 0.0, 1e-5), 0.5, 100, 2, True, "matched", 3, "", BOX),),
)


def test_round_trip_through_json():
    assert decode_decisions(json.loads(json.dumps(encode_decisions(RECORD))), "x") == RECORD
    assert decode_decisions(encode_decisions(DecisionRecord()), "x") == DecisionRecord()


def _set(*path: Any) -> Callable[[Any], None]:
    *where, key, value = path

    def change(body: Any) -> None:
        for step in where:
            body = body[step]
        body[key] = value

    return change


@pytest.mark.parametrize("change", [
    _set("removals", 0, "scores", "explained", "much"), _set("removals", 0, "scores", None), _set("removals", 0, "centre", [1, 2]),
    _set("removals", 0, "boxes", "b", [0, 0, 0, 9]), _set("removals", 0, "boxes", "b", [0, 0, 1 << 20, 9]),
    _set("removals", 0, "boxes", "b", "all"), _set("removals", 0, "taken", 1), _set("removals", 0, "reason", "x" * 2000),
    _set("pairs", 0, "instance", 2), _set("pairs", 0, "object_id", 0), _set("pairs", 0, "gain", True), _set("pairs", 0, 7),
    _set("instances", 0, "verdict", "stolen"), _set("instances", 0, "number", 2), _set("instances", 0, "area_px", -1),
    _set("instances", {}), _set("pairs", None),
])
def test_what_does_not_fit_is_refused(change: Callable[[Any], None]):
    body = copy.deepcopy(encode_decisions(RECORD))
    change(body)
    with pytest.raises(FormatError, match="scene, decisions"):
        decode_decisions(body, "scene")
