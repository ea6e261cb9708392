"""Where the optional networks of `change.learned` enter an update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ltgs.change.evidence import EvidenceConfig
from ltgs.change.learned import LearnedConfig, LearnedCues
from ltgs.core.views import ComparedView
from ltgs.objects.hull import HullInstance


class Learned:
    """The networks that the configuration names; without any, every step passes through what it is given."""

    def __init__(self, config: LearnedConfig, evidence: EvidenceConfig) -> None:
        """Load the networks.

        Raises:
            see `change.learned.check_learned`.
        """
        self.cues = None if config.dino is None and config.sam is None else LearnedCues(config, evidence=evidence)

    @property
    def rescore(self) -> Callable[[ComparedView], ComparedView] | None:
        """For `change.compare`; None without DINOv2."""
        return self.cues.rescore if self.cues is not None and self.cues.dino is not None else None

    def with_outlines(self, instances: Sequence[HullInstance], views: Sequence[ComparedView]) -> list[HullInstance]:
        """Instances whose pixels follow the objects' outlines, where SAM 2 is given and agrees with their masks."""
        cues = self.cues
        if cues is None or cues.sam is None or not instances:
            return list(instances)
        per_view = [cues.outlines(v.photo, [inst.pixels[i] for inst in instances]) for i, v in enumerate(views)]
        return [replace(inst, pixels=tuple(o[k].mask for o in per_view)) for k, inst in enumerate(instances)]

    def method(self, weight_free: Mapping[str, str]) -> dict[str, str]:
        """How changes and objects were found, for the record of the visit."""
        return dict(weight_free) if self.cues is None else self.cues.method(weight_free)
