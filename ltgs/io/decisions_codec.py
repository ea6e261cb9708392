"""Decision records as plain JSON and back; nothing that is read is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltgs.core.decisions import VERDICTS, Box, DecisionRecord, InstanceVerdict, PairTest, RemovalTest
from ltgs.errors import FormatError
from ltgs.io.json_files import need, need_array, need_int, need_number

_MAX_INDEX = 1 << 31
_MAX_TEXT = 1000


def encode_decisions(record: DecisionRecord) -> dict[str, Any]:
    """A record as JSON values."""
    return {
        "removals": [
            {"stage": t.stage, "centre": list(t.centre), "radius": t.radius, "num_gaussians": t.num_gaussians,
             "scores": dict(t.scores), "taken": t.taken, "reason": t.reason, "object_id": t.object_id, "boxes": _lists(t.boxes)}
            for t in record.removals
        ],
        "pairs": [
            {"stage": p.stage, "object_id": p.object_id, "instance": p.instance, "sweep_gain": p.sweep_gain, "gain": p.gain,
             "chosen": p.chosen, "reason": p.reason, "ambiguous": p.ambiguous}
            for p in record.pairs
        ],
        "instances": [
            {"number": i.number, "stage": i.stage, "centre": list(i.centre), "radius": i.radius, "area_px": i.area_px,
             "num_views": i.num_views, "in_hole": i.in_hole, "verdict": i.verdict, "object_id": i.object_id,
             "reason": i.reason, "boxes": _lists(i.boxes)}
            for i in record.instances
        ],
    }


def decode_decisions(value: Any, where: str) -> DecisionRecord:
    """Inverse of `encode_decisions`.

    Raises:
        FormatError: an entry is missing or of the wrong type, or a pair names content that is not listed.
    """
    place = f"{where}, decisions"
    instances = tuple(_instance(r, n, place) for n, r in enumerate(need(value, "instances", list, place), 1))
    return DecisionRecord(
        removals=tuple(_removal(r, place) for r in need(value, "removals", list, place)),
        pairs=tuple(_pair(r, len(instances), place) for r in need(value, "pairs", list, place)),
        instances=instances,
    )


def _removal(record: Any, where: str) -> RemovalTest:
    scores = need(record, "scores", dict, where)
    return RemovalTest(
        _text(record, "stage", where), _point(record, where), need_number(record, "radius", where),
        need_int(record, "num_gaussians", where, 0, _MAX_INDEX), {k: need_number(scores, k, where) for k in scores},
        need(record, "taken", bool, where), _text(record, "reason", where), need_int(record, "object_id", where, 0, _MAX_INDEX),
        _boxes(record, where),
    )


def _pair(record: Any, num_instances: int, where: str) -> PairTest:
    return PairTest(
        _text(record, "stage", where), need_int(record, "object_id", where, 1, _MAX_INDEX),
        need_int(record, "instance", where, 1, num_instances), _optional(record, "sweep_gain", where),
        _optional(record, "gain", where), need(record, "chosen", bool, where), _text(record, "reason", where),
        need(record, "ambiguous", bool, where),
    )


def _instance(record: Any, number: int, where: str) -> InstanceVerdict:
    verdict: Any = need(record, "verdict", str, where)
    if verdict not in VERDICTS or need_int(record, "number", where, 1, _MAX_INDEX) != number:
        raise FormatError(f"{where}: unknown verdict {verdict[:40]!r}, or instances are not in order.")
    return InstanceVerdict(
        number, _text(record, "stage", where), _point(record, where), need_number(record, "radius", where),
        need_int(record, "area_px", where, 0, 1 << 40), need_int(record, "num_views", where, 0, 1 << 20),
        need(record, "in_hole", bool, where), verdict, need_int(record, "object_id", where, 0, _MAX_INDEX),
        _text(record, "reason", where), _boxes(record, where),
    )


def _optional(record: Any, key: str, where: str) -> float | None:
    value: Any = need(record, key, (int, float, type(None)), where)
    return None if value is None else need_number(record, key, where)


def _text(record: Any, key: str, where: str) -> str:
    text = need(record, key, str, where)
    if len(text) > _MAX_TEXT:
        raise FormatError(f"{where}: {key!r} is longer than {_MAX_TEXT} characters.")
    return text


def _point(record: Any, where: str) -> tuple[float, float, float]:
    x, y, z = need_array(record.get("centre"), (3,), f"{where}, centre").tolist()
    return x, y, z


def _lists(boxes: Mapping[str, Box]) -> dict[str, list[int]]:
    return {name: list(box) for name, box in boxes.items()}


def _boxes(record: Any, where: str) -> dict[str, Box]:
    boxes = {}
    for name, value in need(record, "boxes", dict, where).items():
        left, top, right, bottom = (int(v) for v in need_array(value, (4,), f"{where}, box").tolist())
        if not (0 <= left < right <= 1 << 17 and 0 <= top < bottom <= 1 << 17):
            raise FormatError(f"{where}: the box of {name[:100]!r} is empty or outside of the photo.")
        boxes[name] = (left, top, right, bottom)
    return boxes
