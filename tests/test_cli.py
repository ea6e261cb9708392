"""The command line: help, exit codes, and messages that name file, reason and remedy. No training here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY, run_ltgs

import ltgs
from ltgs import cli
from ltgs.errors import ConvergenceError


def call(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a call in this process."""
    code = cli.main([str(w) for w in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_version_in_a_process_of_its_own() -> None:
    done = run_ltgs("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"ltgs {ltgs.__version__}")


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"ltgs {command}" in out
    assert "--debug" in out


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys)
    assert code == 0
    assert all(name in out for name in cli.COMMANDS)


@pytest.mark.parametrize("words", [["nonsense"], ["reconstruct"], ["info"], ["info", "a", "--jsno"], ["view", "a", "--port", "x"]])
def test_wrong_arguments_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, *words)
    assert code == 2
    assert "Traceback" not in out + err


@pytest.mark.parametrize("command", ["info", "verify", "eval"])
def test_no_scene(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, command, tmp_path / "none")
    assert code == 3
    assert "does not exist" in err and "ltgs reconstruct" in err


def test_photo_folder_missing_or_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "reconstruct", tmp_path / "none", "-o", tmp_path / "s")
    assert code == 3 and "is not a folder" in err
    (tmp_path / "photos").mkdir()
    code, _, err = call(capsys, "reconstruct", tmp_path / "photos", "-o", tmp_path / "s")
    assert code == 3 and "holds no photos" in err
    assert not (tmp_path / "s").exists(), "nothing may be created for a run that cannot start"


def test_settings_are_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["reconstruct", str(tmp_path), "-o", str(tmp_path / "s")]
    code, _, err = call(capsys, *base, "--preset", "gigantic")
    assert code == 2 and "cpu_small" in err
    code, _, err = call(capsys, *base, "--set", "train.stesp=5")
    assert code == 2 and "train.stesp" in err and "steps" in err
    code, _, err = call(capsys, *base, "--set", "train.steps=many")
    assert code == 2 and "train.steps must be a int" in err
    code, _, err = call(capsys, *base, "--holdout-every", "1")
    assert code == 2 and "holdout_every" in err
    code, _, err = call(capsys, *base, "--backend", "quantum")
    assert code == 2 and "quantum" in err
    code, _, err = call(capsys, *base, "--resume", "--overwrite")
    assert code == 2 and "contradict" in err


def test_output_folder_with_other_files_is_refused(tmp_path: Path, tiny_capture, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    for flag in ([], ["--overwrite"], ["--resume"]):
        code, _, err = call(capsys, "reconstruct", tiny_capture.photos, "-o", target, *flag)
        assert code == 3 and "thesis.txt" in err
    assert (target / "thesis.txt").read_text() == "years of work"


def test_existing_scene_needs_a_decision(tiny_scene: Path, tiny_capture, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "reconstruct", tiny_capture.photos, "-o", tiny_scene)
    assert code == 2
    assert "--resume" in err and "--overwrite" in err


def test_flags_that_belong_together(tiny_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "eval", tiny_scene, "--test", tmp_path)
    assert code == 2 and "--test-cameras" in err
    code, _, err = call(capsys, "export", tiny_scene)
    assert code == 2 and "-o FILE" in err


def test_times_and_kinds_are_checked(tiny_scene: Path, tiny_capture, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render = ["render", tiny_scene, "--cameras", tiny_capture.test_cameras, "-o", tmp_path / "r"]
    code, _, err = call(capsys, *render, "--time", "7")
    assert code == 2 and "0..2" in err
    code, _, err = call(capsys, *render, "--time", "yesterday")
    assert code == 2 and "2024-02-10" in err
    code, _, err = call(capsys, *render, "--time", "2023-01-01")
    assert code == 2 and "before" in err
    code, _, err = call(capsys, *render, "--what", "rgb,smell")
    assert code == 2 and "smell" in err and "depth" in err
    code, _, err = call(capsys, "render", tiny_scene, "--cameras", tmp_path / "no.json", "-o", tmp_path / "r")
    assert code == 3 and "no.json" in err


def test_internal_errors_are_one_line_with_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(self: cli.Doctor) -> int:
        raise RuntimeError("the hamster left the wheel\nsecond line")

    monkeypatch.setattr(cli.Doctor, "run", broken)
    code, _, err = call(capsys, "doctor")
    assert code == 1
    assert err.startswith("internal error: RuntimeError: the hamster left the wheel (details: ")
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1
    log = Path(err.split("details: ")[1].split(";")[0])
    assert "the hamster left the wheel" in log.read_text() and "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0, "a log may hold private paths"
    log.unlink()
    code, _, err = call(capsys, "doctor", "--debug")
    assert code == 1 and "Traceback" in err
    Path(err.split("details: ")[1].split(";")[0]).unlink()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (ConvergenceError("NaN"), 1), (BrokenPipeError(), 0)])
def test_exit_codes_of_other_ends(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: cli.Doctor) -> int:
        raise error

    monkeypatch.setattr(cli.Doctor, "run", stop)
    monkeypatch.setattr(cli.cli_text, "sanitise_stream_errors", lambda: None)
    assert call(capsys, "doctor")[0] == code


def test_doctor_names_the_rasteriser_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor")
    assert code in (0, 1)
    assert "rasteriser:" in out and "python:" in out and "disk:" in out and "torch" in out
    assert ("All is well." in out) == (code == 0)


def test_doctor_reports_a_missing_compiler_build(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from ltgs.pipeline import doctor

    monkeypatch.setattr(doctor, "choose_backend", lambda device: ("reference", "SLOW plain torch, because nothing was built"))
    code, out, _ = call(capsys, "doctor")
    assert code == 1 and "nothing was built" in out and "[problem]" in out


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "ltgs", "--help"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.wait(timeout=60)
    process.stderr.close()
    assert "Traceback" not in errors and process.returncode in (0, -signal.SIGPIPE)


def test_info_json_is_one_document(tiny_scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "info", tiny_scene, "--json")
    assert code == 0 and err == ""
    assert {"captures", "cameras", "objects", "events", "storage", "timing", "method"} <= json.loads(out).keys()
