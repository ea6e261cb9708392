"""Commands about depth from two photos."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, UseAppendAction, arg, subcommand

from ltgs import cli_text
from ltgs.commands.base import Command


@dataclass
class DepthMatch:
    """Disparity, confidence, occlusion and, with a calibration, points of a rectified pair of photos."""

    left: Annotated[Positional[Path], arg(metavar="LEFT")]
    """Left photo."""
    right: Annotated[Positional[Path], arg(metavar="RIGHT")]
    """Right photo of the same size."""
    output: Annotated[Path, arg(aliases=["-o"])]
    """Folder for disparity.pfm, disparity.png, confidence.png, occlusion.png, source.png, colour.png and cloud.ply."""
    calib: Annotated[Path | None, arg(metavar="FILE")] = None
    """Calibration in Middlebury, KITTI or OpenCV form; without it units are pixels."""
    prior: Annotated[str | None, arg(metavar="FILE")] = None
    """Inverse depth of the left view at any scale (PFM or PNG, larger = nearer), render:SCENE@TIME, or points:SCENE."""
    cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Cameras file with the left photo's camera in the scene's frame; for --prior render: and points:."""
    range: Annotated[tuple[int, int] | None, arg(metavar="LOW HIGH")] = None
    """Disparities to search, pixels; default: estimated from matching points."""
    method: Literal["auto", "sgm", "network"] = "auto"
    """Semi-global matching, or a trained network; auto is the network if weights are given."""
    weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Weights of a stereo network (safetensors): of `ltgs depth train`, of RAFT-Stereo or of the paper's authors."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """Training settings that name the network, for weights that do not say."""
    mono: Annotated[Path | None, arg(metavar="PATH")] = None
    """Weights of Depth Anything V2, file or folder: makes a prior, or the encoder that a network needs."""

    def run(self) -> int:
        from ltgs.cli_depth import Method, match

        done = match(
            self.left, self.right, self.output, calibration=self.calib, prior=self.prior, cameras=self.cameras,
            disparity_range=self.range, method=Method(self.method, self.weights, self.config, self.mono),
        )
        for note in done.notes:
            print(note)
        print(f"{len(done.files)} files in {self.output}")
        return 0


@dataclass
class DepthRig:
    """Depth of every pair of a stereo rig's capture, and one fused cloud."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Holds left/ and right/ (or image_2/ and image_3/, image_0/ and image_1/, cam0/ and cam1/) and the calibration."""
    output: Annotated[Path, arg(aliases=["-o"])]
    """Folder for one folder per pair, cloud.ply and cameras.json."""
    calib: Annotated[Path | None, arg(metavar="FILE")] = None
    """Calibration in Middlebury, KITTI or OpenCV form; default: the one in the folder."""
    cameras: Annotated[Path | None, arg(metavar="PATH")] = None
    """Metric poses of the left photos; default: found by structure from motion and scaled by the measured depth."""
    method: Literal["auto", "sgm", "network"] = "auto"
    """As for match."""
    weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Weights of a stereo network (safetensors)."""
    config: Annotated[Path | None, arg(metavar="FILE")] = None
    """Training settings that name the network, for weights that do not say."""
    mono: Annotated[Path | None, arg(metavar="PATH")] = None
    """Weights of Depth Anything V2, file or folder."""

    def run(self) -> int:
        from ltgs.cli_depth import Method, rig
        from ltgs.pipeline.progress import progress_sink

        with progress_sink(sys.stderr, quiet=not sys.stderr.isatty()) as sink:
            done = rig(
                self.folder, self.output, calibration=self.calib, cameras=self.cameras,
                method=Method(self.method, self.weights, self.config, self.mono), progress=sink,
            )
        for name, reason in done.refused.items():
            print(f"{name} is left out: {reason}", file=sys.stderr)
        for note in done.notes:
            print(note)
        print(f"{len(done.pairs)} pairs in {self.output}")
        return 0


@dataclass
class DepthEval:
    """Measure on pairs with true disparity, beside OpenCV's matching with background fill."""

    pairs: Annotated[Path, arg(metavar="DIR")]
    """Folder with one folder per pair."""
    only: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """Only this pair; may be repeated."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write every figure to this file; - for standard output."""

    def run(self) -> int:
        from ltgs.cli_depth import evaluate
        from ltgs.pipeline.progress import progress_sink

        with progress_sink(sys.stderr, quiet=not sys.stderr.isatty()) as sink:
            _, rows, values = evaluate(self.pairs, names=self.only, progress=sink)
        if self.json is not None:
            cli_text.write_json(self.json, values)
        if str(self.json) != "-":
            cli_text.print_table("stereo pairs, all pixels with true disparity", rows)
        return 0


@dataclass
class DepthTrain:
    """Train the stereo network on generated pairs or on stereo collections."""

    config: Annotated[Path, arg(metavar="FILE")]
    """Settings, see configs/depth/small.yaml."""
    output: Annotated[Path, arg(aliases=["-o"])]
    """Folder for weights, record, log and checkpoint."""
    resume: bool = False
    """Continue a run that was stopped."""
    device: Annotated[str | None, arg(metavar="TEXT")] = None
    """cpu or cuda; default: the file's."""
    seed: Annotated[int | None, arg(metavar="N")] = None
    """Start of the random number generators; default: the file's."""

    def run(self) -> int:
        from ltgs.depth.training.command import train_command
        from ltgs.pipeline.progress import progress_sink

        with progress_sink(sys.stderr) as sink:
            result = train_command(
                self.config, self.output, resume=self.resume, device=self.device, seed=self.seed, progress=sink
            )
        print(f"weights in {result.weights}")
        print(", ".join(f"{name} {value:.4g}" for name, value in result.figures.items()))
        return 0


@dataclass
class DepthConvert:
    """Turn a .pth checkpoint into safetensors without executing anything in it."""

    source: Annotated[Positional[Path], arg(metavar="PTH")]
    """Checkpoint file."""
    target: Annotated[Positional[Path], arg(metavar="SAFETENSORS")]
    """File to write."""

    def run(self) -> int:
        from ltgs.depth.training.command import convert_command

        for name in convert_command(self.source, self.target):
            print(f"left out: {name}")
        print(f"weights in {self.target}")
        return 0


@dataclass
class Depth(Command):
    """Depth from two photos: match, rig, eval, train, convert."""

    task: OmitSubcommandPrefixes[OmitArgPrefixes[
        Annotated[DepthMatch, subcommand("match", prefix_name=False)]
        | Annotated[DepthRig, subcommand("rig", prefix_name=False)]
        | Annotated[DepthEval, subcommand("eval", prefix_name=False)]
        | Annotated[DepthTrain, subcommand("train", prefix_name=False)]
        | Annotated[DepthConvert, subcommand("convert", prefix_name=False)]
    ]]
    """What to do."""

    def run(self) -> int:
        return self.task.run()
