"""The configuration of an update: one for all scenes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ltgs.change.compare import CompareConfig
from ltgs.change.haze import HazeConfig
from ltgs.change.learned import LearnedConfig
from ltgs.change.light import LightConfig
from ltgs.change.relight import RelightConfig
from ltgs.change.revealed import RevealConfig
from ltgs.depth.seeds import SeedConfig
from ltgs.objects.associate import AssociateConfig
from ltgs.objects.hull import HullConfig
from ltgs.objects.join import JoinConfig, PieceConfig
from ltgs.objects.register import RegisterConfig
from ltgs.objects.removal import CarveConfig
from ltgs.objects.split import SplitConfig
from ltgs.objects.support import SupportConfig
from ltgs.objects.templates import BuildConfig
from ltgs.optim.complete import CompleteConfig
from ltgs.optim.refine import RefineConfig
from ltgs.optim.sharpen import SharpenConfig
from ltgs.pipeline.update_again import AgainConfig
from ltgs.pipeline.update_former import FormerConfig
from ltgs.pipeline.update_proofs import LeftoverConfig, ProofConfig, ReviewConfig


@dataclass(frozen=True)
class UpdateConfig:
    """Everything an update does; one configuration for all scenes."""

    compare: CompareConfig = field(default_factory=CompareConfig)
    haze: HazeConfig = field(default_factory=HazeConfig)
    carve: CarveConfig = field(default_factory=CarveConfig)
    hull: HullConfig = field(default_factory=HullConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    piece: PieceConfig = field(default_factory=PieceConfig)
    register: RegisterConfig = field(default_factory=RegisterConfig)
    associate: AssociateConfig = field(default_factory=AssociateConfig)
    build: BuildConfig = field(default_factory=BuildConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    sharpen: SharpenConfig = field(default_factory=SharpenConfig)
    light: LightConfig = field(default_factory=LightConfig)
    learned: LearnedConfig = field(default_factory=LearnedConfig)
    relight: RelightConfig = field(default_factory=RelightConfig)
    complete: CompleteConfig = field(default_factory=CompleteConfig)
    proof: ProofConfig = field(default_factory=ProofConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    support: SupportConfig = field(default_factory=SupportConfig)
    leftovers: LeftoverConfig = field(default_factory=LeftoverConfig)
    reveal: RevealConfig = field(default_factory=RevealConfig)
    seeds: SeedConfig = field(default_factory=SeedConfig)
    stereo_seeds: bool = True
    """New objects start from surfaces that stereo between the visit's photos measures, where it can be trusted; else from their hull."""
    same: float = 0.8
    """Instances that have this share of their pixels in common are one: only the first is compared with known objects."""
    mixed: float = 0.8
    """Content of which more than this share has an object's colours is no mixture of several things."""
    camouflage: float = 0.86
    """New content whose colours are this alike to those around it may be an error of the scene: what left was not cut out wholly,
    or the ground beside it was painted with it. Fitted to the photos it must explain more (`review.new_mean_camouflaged`)."""
    unmoved_gain: float = 0.3
    """Share of the cost around its old place that a stored object must explain there to count as still standing, although the
    captures contradict its template."""
    unmoved_gain_contradicted: float = 0.45
    """The same where the captures contradict all of it."""
    sinks: float = 0.5
    """An object that left is not found right at its old place with its lowest points lower by more than this share of its radius."""
    again: AgainConfig = field(default_factory=AgainConfig)
    former: FormerConfig = field(default_factory=FormerConfig)
    past_visits: int = 3
    """Most visits after the first one whose photos are fitted along: the latest at which something that is refined was seen."""
    rounds: int = 2
    """Rounds of explaining what left and what came."""
    turns: int = 2
    """Most times that these rounds are gone through: they begin anew if an object that was found late stands where another one is
    still drawn."""
    sure_views: float = 3.0
    """Gaussians seen by this many photos of the first visit or fewer count as hardly known."""
    template_doubt: float = 0.25
    """Share of the residual expected of unknown content that is added to what was measured of a template in few photos."""
    own_radius: float = 1.25
    """New content whose centre lies this close to a placed object, in units of its radius, is that object's own error."""
    leftover: float = 0.5
    """Share of such content's pixels that must lie where the object is drawn or right beside it; in nine runs 19 leftovers had
    0.78 to 1.0, an object that came to stand behind another 0.16."""
    looked_through: float = 2.0
    """Photos of the first visit that must have looked through half of a new object's hull: its place was empty then."""
    depth_slack: float = 0.03
    """Places up to so much farther than a surface, relative to the depth, belong to it and were seen with it."""
    max_objects: int = 24
    """Most new instances considered per visit."""
    in_frame: int = 44_000
    """Gaussians in a photo's frame (median of the first visit's photos) for which the numbers of Gaussians in `carve` and `split` are
    meant; a scene that was trained with more or fewer makes a thing of as many more or fewer."""
    fewest: int = 12
    """Such a number is never smaller."""

    def for_scene(self, in_frame: float) -> UpdateConfig:
        """The configuration with its numbers of Gaussians in proportion to those in a photo's frame."""
        def scaled(number: int) -> int:
            return max(self.fewest, round(number * in_frame / self.in_frame))

        carve = replace(
            self.carve, least=scaled(self.carve.least), single_view_least=scaled(self.carve.single_view_least),
            replaced_least=scaled(self.carve.replaced_least),
        )
        return replace(self, carve=carve, split=replace(self.split, least=scaled(self.split.least)))
