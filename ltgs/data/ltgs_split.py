"""Which photos of an LTGS scene are held out: the release does not say it in one place, so the rule that fired is reported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ltgs.errors import FormatError, InputError
from ltgs.io.atomic import explained, read_capped

MAX_LIST_BYTES = 16 << 20
HOLD_EVERY = 8
"""Every 8th photo of the sorted first visit, the convention of the published 3-D Gaussian splatting code."""
RULE_LATER = "later visits: registered photos that changes.txt does not name"
RULE_FIRST = f"first visit: every {HOLD_EVERY}th of the sorted names, from the first"


@dataclass(frozen=True)
class Split:
    """Photos to learn from and photos to test on, per timestep."""

    update: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]
    rule: str
    warnings: tuple[str, ...] = ()


def choose_split(
    names: Sequence[Sequence[str]],
    changes: Collection[str],
    test_file: Path,
    override: Path | None,
    *,
    posed: Collection[str],
) -> Split:
    """Apply the first rule that fits: the user's file, the model's test.txt, changes.txt with every 8th first photo.

    Args:
        names: [T] photo names per timestep.
        changes: update photos.
        test_file: `sparse/0/test.txt`, which need not exist.
        override: the user's file; its photos are held out even if changes.txt names them.
        posed: names with a known pose; an unposed photo of the first visit can neither train nor test.

    Raises:
        InputError: `override` is missing or names none of the photos.
        FormatError: a list is not text, or a name in it fits several photos.
    """
    everything = [n for group in names for n in group]
    if override is not None:
        if not override.is_file():
            raise InputError(f"{override}: no such file. Pass a text file with one held-out photo per line.")
        held, unknown = _read_list(override, everything)
        if not held:
            raise InputError(
                f"{override}: names none of the scene's photos. Write names as in changes.txt, one per line."
            )
        return _divide(names, changes, held, posed, f"the given file {override.name}", _unknown_text(override, unknown))
    if test_file.is_file():
        held, unknown = _read_list(test_file, everything)
        warnings = _unknown_text(test_file, unknown)
        uncovered = [t for t, group in enumerate(names) if not held & set(group)]
        if held and uncovered:
            # A list of the first visit alone would otherwise leave later visits without any test photo, and vice versa.
            held |= {n for t in uncovered for n in _by_rule(names[t], t, changes)}
            where = ", ".join(map(str, uncovered))
            rule = f"sparse/0/test.txt; it names none of timesteps {where}, there {RULE_FIRST}; {RULE_LATER}"
            return _divide(names, changes, held, posed, rule, warnings)
        if held:
            return _divide(names, changes, held, posed, "sparse/0/test.txt", warnings)
    else:
        warnings = ()
    held = {n for t, group in enumerate(names) for n in _by_rule(group, t, changes)}
    return _divide(names, changes, held, posed, f"{RULE_FIRST}; {RULE_LATER}", warnings)


def _by_rule(group: Sequence[str], time: int, changes: Collection[str]) -> list[str]:
    # The published code sorts names as plain text, not naturally; the same photos must be held out.
    return sorted(group)[::HOLD_EVERY] if time == 0 else [n for n in group if n not in changes]


def _divide(
    names: Sequence[Sequence[str]],
    changes: Collection[str],
    held: set[str],
    posed: Collection[str],
    rule: str,
    warnings: tuple[str, ...],
) -> Split:
    """Held-out photos never train; later visits learn only from photos of changes.txt."""
    both = sorted(held & set(changes))
    if both:
        warnings = (
            *warnings,
            f"{len(both)} photos are both held out and in changes.txt, the first is {both[0]}; they are held out.",
        )
    update = tuple(
        tuple(n for n in group if n not in held and (n in posed if t == 0 else n in changes))
        for t, group in enumerate(names)
    )
    return Split(update, tuple(tuple(n for n in group if n in held) for group in names), rule, warnings)


def _unknown_text(path: Path, unknown: Sequence[str]) -> tuple[str, ...]:
    return (
        (f"{path.name} names {len(unknown)} photos that the scene does not have, the first is {unknown[0]}.",)
        if unknown
        else ()
    )


def _read_list(path: Path, names: Sequence[str]) -> tuple[set[str], list[str]]:
    """Names of a list file matched to the scene's: exactly, else by a unique end of the path with or without extension."""
    with explained("read", path):
        data = read_capped(path, MAX_LIST_BYTES)
    try:
        lines = [line.strip().replace("\\", "/") for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not a text file ({error.reason}). Write one photo name per line.") from error
    exact = set(names)
    by_end: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        for end in {"/".join(parts[i:]) for i in range(len(parts))}:
            for key in {end, end.rsplit(".", 1)[0]}:
                by_end.setdefault(key, []).append(name)
    held, unknown = set(), []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        if line in exact:
            held.add(line)
            continue
        matches = by_end.get(line, [])
        if len(matches) > 1:
            raise FormatError(
                f"{path}: {line} fits {matches[0]} and {matches[1]}. Write the name with its folder and extension."
            )
        held.update(matches)
        unknown += [] if matches else [line]
    return held, unknown
