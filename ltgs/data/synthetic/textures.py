"""Procedural pictures for the synthetic rooms: wood, wallpaper, posters, labels, mosaics, a rug, a globe.

Every generator draws an sRGB picture [h, w, 3] uint8 from a random generator alone, so a seed fixes the room. The
pictures are rich at several scales and never repeat, because feature matching needs unambiguous corners everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Image = NDArray[np.uint8]
Colour = tuple[int, ...]
"""Red, green, blue in 0..255."""
Painter = Callable[[int, int, np.random.Generator], Image]

_WORDS = (
    "ALMOND|HARBOUR|No. 7|TEA|ORBIT|1962|FIELD|notes|COPPER|North|LIME|atlas|RADIO|Garden|SALT|paper|"
    "DELTA|MOON|OAK|Summer|42 g|river|BAKERY|QUARTZ|fig|ECHO|Lantern|VELVET|PINE|STONE|amber|COAST|Linen|"
    "JUNIPER|east|ROOM 12|CEDAR|mint"
)
WORDS = _WORDS.split("|")
FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)


def fractal_noise(h: int, w: int, rng: np.random.Generator, *, cells: tuple[float, float], octaves: int = 5) -> Array:
    """Sum of smooth random grids, each octave twice as fine and half as strong.

    Args:
        cells: (rows, columns) of the coarsest grid over the picture; unequal counts stretch the noise.

    Returns:
        [h, w] float32 scaled to 0..1.
    """
    out = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        rows = min(max(int(cells[0] * 2**octave), 2), h)
        columns = min(max(int(cells[1] * 2**octave), 2), w)
        grid = rng.random((rows, columns), dtype=np.float32)
        out += cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    low, high = float(out.min()), float(out.max())
    return (out - low) / max(high - low, 1e-6)


def blend(low: Colour, high: Colour, amount: Array) -> Array:
    """[h, w] in 0..1 -> [h, w, 3] float32 between two sRGB colours."""
    a, b = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return a + (b - a) * amount[..., None]


def to_image(picture: Array) -> Image:
    """Round and clip to uint8."""
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def wear(image: Image, rng: np.random.Generator, *, strength: float = 1.0, specks_per_megapixel: int = 2500) -> Image:
    """Add what real surfaces have: uneven tone at several scales, stains, specks and short scratches."""
    h, w = image.shape[:2]
    tone = fractal_noise(h, w, rng, cells=(3, 3 * w / h), octaves=7) - 0.5
    out = to_image(image.astype(np.float32) * (1 + 0.35 * strength * tone[..., None]))
    for _ in range(int(specks_per_megapixel * strength * h * w / 1e6)):
        x, y = int(rng.integers(w)), int(rng.integers(h))
        shade = out[y, x].astype(np.float32) * rng.uniform(0.55, 1.4) + rng.uniform(-12, 12)
        colour = tuple(float(c) for c in np.clip(shade, 0, 255))
        if rng.random() < 0.75:
            axes = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
            cv2.ellipse(out, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        else:
            dx, dy = rng.integers(-14, 15, 2)
            cv2.line(out, (x, y), (x + int(dx), y + int(dy)), colour, 1, cv2.LINE_AA)
    return out


def write_words(
    image: Image, rng: np.random.Generator, box: tuple[int, int, int, int], colour: Colour, *, height: int
) -> None:
    """Fill the rectangle (x0, y0, x1, y1) of `image` with lines of words `height` pixels tall, in place."""
    x0, y0, x1, y1 = box
    y = y0 + height
    while y <= y1:
        x = x0
        while x < x1:
            word = WORDS[int(rng.integers(len(WORDS)))]
            font = FONTS[int(rng.integers(len(FONTS)))]
            thickness = max(1, height // 9)
            scale = height / 24.0
            (width, _), _ = cv2.getTextSize(word, font, scale, thickness)
            if x + width > x1:
                break
            cv2.putText(image, word, (x, y), font, scale, colour, thickness, cv2.LINE_AA)
            x += width + height
        y += int(height * 1.7)


def wood(low: Colour, high: Colour, *, plank_px: int = 130) -> Painter:
    """Planks along the picture's width with grain, knots and dark joints."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        out = np.zeros((h, w, 3), np.float32)
        y = 0
        while y < h:
            rows = min(int(plank_px * rng.uniform(0.8, 1.2)), h - y)
            warp = fractal_noise(rows, w, rng, cells=(2, 5), octaves=4)
            lines = np.linspace(0, rng.uniform(2.5, 5), rows, dtype=np.float32)[:, None]
            for _ in range(int(rng.integers(1, 4))):
                distance = np.hypot(
                    (np.arange(w, dtype=np.float32)[None] - rng.uniform(0, w)) / 60,
                    (np.arange(rows, dtype=np.float32)[:, None] - rng.uniform(0, rows)) / 16,
                )
                warp = warp + 0.8 * np.exp(-(distance**2))
            rings = 0.5 + 0.5 * np.sin(2 * np.pi * (2.5 * warp + lines))
            fibre = fractal_noise(rows, w, rng, cells=(rows / 3, max(w / 90, 2)), octaves=3)
            grain = np.clip(0.45 * rings + 0.55 * fibre + rng.uniform(-0.18, 0.18), 0, 1).astype(np.float32)
            out[y : y + rows] = blend(low, high, grain)
            out[y : y + 2] *= 0.35
            for joint in rng.integers(0, w, 1 + w // 900):
                out[y : y + rows, joint : joint + 2] *= 0.4
            y += rows
        return wear(to_image(out), rng, strength=1.0)

    return paint


def wallpaper(ground: Colour, inks: tuple[Colour, ...]) -> Painter:
    """Loose botanical pattern: stems with leaves and blossoms, every one different."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        out = to_image(
            blend(ground, tuple(int(c * 0.9) for c in ground), fractal_noise(h, w, rng, cells=(4, 4 * w / h)))
        )
        for _ in range(int(h * w / 2600)):
            ink = np.asarray(inks[int(rng.integers(len(inks)))], float) * rng.uniform(0.75, 1.2)
            colour = tuple(float(c) for c in np.clip(ink, 0, 255))
            x, y, angle, size = rng.uniform(0, w), rng.uniform(0, h), rng.uniform(0, 360), rng.uniform(0.45, 1.5)
            for leaf in range(int(rng.integers(2, 6))):
                step = np.deg2rad(angle)
                x, y = x + 11 * size * np.cos(step), y + 11 * size * np.sin(step)
                axes = (max(int(10 * size), 1), max(int(3.5 * size), 1))
                cv2.ellipse(
                    out, (int(x), int(y)), axes, angle + (50 if leaf % 2 else -50), 0, 360, colour, -1, cv2.LINE_AA
                )
                angle += rng.uniform(-35, 35)
            if rng.random() < 0.35:
                light = tuple(min(255.0, c * 1.35) for c in colour)
                cv2.circle(out, (int(x), int(y)), max(int(6 * size), 1), light, -1, cv2.LINE_AA)
                cv2.circle(out, (int(x), int(y)), max(int(2 * size), 1), (60, 45, 40), -1, cv2.LINE_AA)
        return wear(out, rng, strength=0.6)

    return paint


def poster(palette: tuple[Colour, ...], *, text_height: int = 26) -> Painter:
    """An abstract print: overlapping shapes on a toned ground, a frame, a title and small print."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        out = to_image(blend(palette[0], palette[1], fractal_noise(h, w, rng, cells=(2, 2))))
        extent = min(h, w)
        for i in range(46):
            colour = tuple(
                float(np.clip(c * rng.uniform(0.7, 1.25), 0, 255)) for c in palette[int(rng.integers(1, len(palette)))]
            )
            x, y, size = rng.uniform(0, w), rng.uniform(0, h), extent * rng.uniform(0.03, 0.24) * (1.25 - i / 46)
            kind = int(rng.integers(4))
            if kind == 0:
                cv2.circle(out, (int(x), int(y)), int(size), colour, -1, cv2.LINE_AA)
            elif kind == 1:
                points = np.stack([x + size * rng.normal(0, 1, 4), y + size * rng.normal(0, 1, 4)], -1)
                cv2.fillConvexPoly(out, cv2.convexHull(points.astype(np.int32)), colour, cv2.LINE_AA)
            elif kind == 2:
                start = float(rng.uniform(0, 360))
                cv2.ellipse(
                    out,
                    (int(x), int(y)),
                    (int(size), int(size * 0.6)),
                    start,
                    0,
                    float(rng.uniform(120, 360)),
                    colour,
                    max(2, int(size / 7)),
                    cv2.LINE_AA,
                )
            else:
                dx, dy = rng.normal(0, 1, 2) * size * 2
                cv2.line(out, (int(x), int(y)), (int(x + dx), int(y + dy)), colour, max(2, int(size / 12)), cv2.LINE_AA)
        margin = max(3, extent // 30)
        band = max(int(text_height * 1.9), h // 7)
        cv2.rectangle(out, (0, h - band), (w, h), tuple(float(c) for c in palette[0]), -1)
        write_words(out, rng, (2 * margin, h - band + 2, w - margin, h - margin), palette[-1], height=text_height)
        cv2.rectangle(out, (0, 0), (w - 1, h - 1), tuple(float(c) for c in palette[-1]), margin)
        return wear(out, rng, strength=0.7)

    return paint


def mosaic(palette: tuple[Colour, ...], *, cell_px: float = 34) -> Painter:
    """Irregular coloured tiles (a Voronoi diagram) with dark grout."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        count = max(int(h * w / cell_px**2), 4)
        seeds = np.stack([rng.uniform(0, w, count), rng.uniform(0, h, count)], -1).astype(np.float32)
        canvas = np.full((h, w), 255, np.uint8)
        canvas[np.clip(seeds[:, 1].astype(int), 0, h - 1), np.clip(seeds[:, 0].astype(int), 0, w - 1)] = 0
        distance, labels = cv2.distanceTransformWithLabels(canvas, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        colours = np.asarray(palette, np.float32)[rng.integers(len(palette), size=labels.max() + 1)]
        colours *= rng.uniform(0.7, 1.25, (len(colours), 1)).astype(np.float32)
        out = colours[labels] * (1.08 - 0.35 * np.clip(distance / cell_px, 0, 1))[..., None]
        grout = cv2.morphologyEx(labels.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        out[grout] = (46, 42, 40)
        return wear(to_image(out), rng, strength=0.7)

    return paint


def label(ground: Colour, inks: tuple[Colour, ...], *, text_height: int = 22) -> Painter:
    """A product label: bands, badges and print around the whole width."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        out = to_image(
            blend(ground, tuple(min(255, int(c * 1.15)) for c in ground), fractal_noise(h, w, rng, cells=(3, 6)))
        )
        for y in np.sort(rng.integers(0, h, 5)):
            ink = tuple(float(c) for c in inks[int(rng.integers(len(inks)))])
            cv2.rectangle(out, (0, int(y)), (w, int(y) + int(rng.integers(3, max(h // 9, 5)))), ink, -1)
        for _ in range(max(6, w // 40)):
            ink = tuple(float(c) for c in inks[int(rng.integers(len(inks)))])
            centre = (int(rng.integers(w)), int(rng.integers(h)))
            radius = int(rng.uniform(0.06, 0.2) * h)
            points = [
                (centre[0] + r * np.cos(a), centre[1] + r * np.sin(a))
                for k, a in enumerate(
                    np.linspace(0, 2 * np.pi, int(rng.integers(8, 19)), endpoint=False) + rng.uniform(0, 6)
                )
                for r in [radius * (1.0 if k % 2 else rng.uniform(0.45, 0.8))]
            ]
            cv2.fillPoly(out, [np.asarray(points, np.int32)], ink, cv2.LINE_AA)
            cv2.circle(out, centre, max(radius // 3, 2), tuple(float(c) for c in ground), -1, cv2.LINE_AA)
        write_words(out, rng, (2, h // 3, w - 2, 2 * h // 3), inks[-1], height=text_height)
        write_words(out, rng, (2, int(0.8 * h), w - 2, h - 2), inks[0], height=max(text_height // 2, 8))
        return wear(out, rng, strength=0.8)

    return paint


def rug(palette: tuple[Colour, ...]) -> Painter:
    """A woven rug: borders of different motifs around a field of medallions, with visible weave."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        out = np.full((h, w, 3), palette[0], np.uint8)
        inset = 0
        for _ in range(5):
            thickness = int(rng.uniform(0.025, 0.06) * h)
            colour = tuple(float(c) for c in palette[int(rng.integers(len(palette)))])
            cv2.rectangle(out, (inset, inset), (w - inset, h - inset), colour, thickness)
            inset += thickness
        for _ in range(int(h * w / 1500)):
            x, y, size = int(rng.integers(w)), int(rng.integers(h)), rng.uniform(4, 26)
            colour = tuple(
                float(np.clip(c * rng.uniform(0.8, 1.2), 0, 255)) for c in palette[int(rng.integers(len(palette)))]
            )
            points = np.array([[x, y - size], [x + size * 0.7, y], [x, y + size], [x - size * 0.7, y]]).astype(np.int32)
            cv2.polylines(out, [points], True, colour, 2, cv2.LINE_AA) if size > 12 else cv2.fillPoly(
                out, [points], colour, cv2.LINE_AA
            )
        weave = rng.random((h, w), dtype=np.float32) * 0.16 + 0.92
        weave[::3] *= 0.93
        return wear(to_image(out.astype(np.float32) * weave[..., None]), rng, strength=0.5)

    return paint


def globe(sea: Colour, land: Colour) -> Painter:
    """Latitude-longitude map with random continents, a graticule and place names."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        height = fractal_noise(h, w, rng, cells=(3, 6), octaves=6)
        out = blend(sea, tuple(int(c * 0.7) for c in sea), fractal_noise(h, w, rng, cells=(6, 12)))
        relief = blend(land, (150, 96, 52), fractal_noise(h, w, rng, cells=(8, 16)))
        out[height > 0.52] = relief[height > 0.52]
        out[np.abs(height - 0.52) < 0.012] = (52, 44, 40)
        image = to_image(out)
        for i in range(1, 18):
            cv2.line(image, (i * w // 18, 0), (i * w // 18, h), (70, 60, 60), 1, cv2.LINE_AA)
        for i in range(1, 9):
            cv2.line(image, (0, i * h // 9), (w, i * h // 9), (70, 60, 60), 1, cv2.LINE_AA)
        for _ in range(70):
            place = (int(rng.integers(w)), int(rng.integers(h // 6, 5 * h // 6)))
            cv2.putText(
                image, WORDS[int(rng.integers(len(WORDS)))], place, FONTS[0], 0.45, (30, 26, 30), 1, cv2.LINE_AA
            )
            cv2.circle(image, place, 3, (190, 40, 36), -1, cv2.LINE_AA)
        return wear(image, rng, strength=0.5)

    return paint


def foliage() -> Painter:
    """Overlapping leaves in many greens with a few blossoms."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        out = np.full((h, w, 3), (24, 40, 22), np.uint8)
        for i in range(int(h * w / 90)):
            shade = rng.uniform(0.35, 1.0) * (0.5 + 0.5 * i * 90 / (h * w))
            colour = (float(120 * shade + rng.uniform(0, 40)), float(190 * shade), float(70 * shade))
            if rng.random() < 0.05:
                colour = (235.0, float(rng.uniform(90, 200)), float(rng.uniform(80, 160)))
            axes = (int(rng.integers(5, 17)), int(rng.integers(2, 6)))
            where = (int(rng.integers(w)), int(rng.integers(h)))
            cv2.ellipse(out, where, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        return out

    return paint


def parcel() -> Painter:
    """Corrugated cardboard with tape, an address label, a bar code and stamps."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        board = blend((164, 120, 76), (196, 152, 104), fractal_noise(h, w, rng, cells=(3, 40), octaves=4))
        out = to_image(board)
        tape = int(h * rng.uniform(0.35, 0.55))
        cv2.rectangle(out, (0, tape), (w, tape + h // 7), (216, 196, 130), -1)
        write_words(out, rng, (4, tape + 2, w - 4, tape + h // 7), (168, 40, 36), height=max(h // 12, 9))
        for _ in range(4):
            x, y = int(rng.uniform(0, 0.7) * w), int(rng.uniform(0, 0.75) * h)
            x1, y1 = x + int(rng.uniform(0.2, 0.4) * w), y + int(rng.uniform(0.18, 0.32) * h)
            paper = tuple(float(c) for c in rng.integers(150, 250, 3))
            cv2.rectangle(out, (x, y), (x1, y1), paper, -1)
            cv2.rectangle(out, (x, y), (x1, y1), (40, 40, 60), 2)
            write_words(out, rng, (x + 4, y + 3, x1 - 3, y1 - 4), (30, 30, 50), height=11)
        x = int(rng.uniform(0.05, 0.5) * w)
        for _ in range(26):
            bar = int(rng.integers(1, 5))
            cv2.rectangle(out, (x, int(0.78 * h)), (x + bar, int(0.95 * h)), (25, 25, 25), -1)
            x += bar + int(rng.integers(2, 5))
        return wear(out, rng, strength=1.0)

    return paint


def book(ground: Colour, ink: Colour, *, across: bool = False) -> Painter:
    """A cloth cover or spine with ruled lines and a title; `across` writes along the width."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        rows, columns = (h, w) if across else (w, h)
        out = to_image(
            blend(
                ground,
                tuple(int(c * 0.72) for c in ground),
                fractal_noise(rows, columns, rng, cells=(4, 12), octaves=6),
            )
        )
        for x in rng.integers(0, columns, 6):
            cv2.line(out, (int(x), 0), (int(x), rows), tuple(float(c) for c in ink), int(rng.integers(1, 5)))
        write_words(
            out,
            rng,
            (columns // 12, int(rows * 0.1), columns, int(rows * 0.92)),
            ink,
            height=max(min(rows // 2, 30), 8),
        )
        out = wear(out, rng, strength=0.8)
        return out if across else np.ascontiguousarray(np.rot90(out))

    return paint


def plain(colour: Colour) -> Painter:
    """One colour all over, with the faint unevenness of glaze or plastic and nothing to match."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        tone = fractal_noise(h, w, rng, cells=(2, 2), octaves=3) - 0.5
        return to_image(np.asarray(colour, np.float32) * (1 + 0.05 * tone[..., None]))

    return paint


def opening(rim: Colour, inside: Colour) -> Painter:
    """The top of a cup: a ring in the colour of the wall around a darker inside that fades towards the middle."""

    def paint(w: int, h: int, rng: np.random.Generator) -> Image:
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        radius = np.hypot((x + 0.5) / w - 0.5, (y + 0.5) / h - 0.5) * 2
        depth = blend(inside, rim, np.clip(radius / 0.86, 0, 1) ** 4 * 0.6)
        return to_image(np.where(radius[..., None] > 0.86, np.asarray(rim, np.float32), depth))

    return paint
