// One 16x16 tile: how its pixels lie in memory, which of them a Gaussian can reach, its alphas there, and the
// compositing step that the forward and the backward pass share.
//
// A tile is cut into strips of kCols columns. A register covers kRows rows of one strip, so a small Gaussian costs few
// idle lanes. Pixels are stored strip by strip, and a *step* is one register: bit `strip * 16 + row` of a step mask
// stands for the step whose first row is `row`, and its pixels start at float `bit * kCols` of every plane. The steps
// below it in the strip follow at once, W floats each.
#pragma once

#include <algorithm>
#include <utility>

#include "frame.h"
#include "simd.h"

namespace ltgs {
namespace {

#ifndef LTGS_COLS
#define LTGS_COLS (W < 8 ? W : 8)
#endif
constexpr int kCols = LTGS_COLS;          // columns of a strip
constexpr int kRows = W / kCols;          // rows of a register
constexpr int kStrips = kTile / kCols;
using StepMask = uint64_t;
constexpr int kLiveCheck = 8;             // entries between two looks for steps whose pixels are all finished
constexpr StepMask kStripSteps = kRows == 1 ? 0xffffu : kRows == 2 ? 0x5555u : 0x1111u;  // of strip 0
constexpr float kRowNumber[kTile] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static_assert(kRows * kCols == W && kStrips * kTile <= 64, "a register is a block of pixels");

// Offset of every lane's pixel from the first pixel of its register.
LTGS_INLINE vf lane_columns() {
  alignas(64) float n[W];
  for (int i = 0; i < W; ++i) n[i] = static_cast<float>(i % kCols);
  return load(n);
}
LTGS_INLINE vf lane_row_numbers() {
  alignas(64) float n[W];
  for (int i = 0; i < W; ++i) n[i] = static_cast<float>(i / kCols);
  return load(n);
}

// Call body(strip, row, steps) for every run of adjacent steps: so many of them from that row of the strip on.
template <class Body>
LTGS_INLINE void for_each_run(StepMask steps, const Body& body) {
  constexpr StepMask kStepRows = (1u << kRows) - 1;  // the bits of all rows of a step
  for (int strip = 0; strip < kStrips; ++strip)
    for (StepMask rows = (steps >> (strip * kTile) & 0xffff) * kStepRows; rows; rows &= rows + (rows & (0 - rows))) {
      const int row = __builtin_ctzll(rows);
      body(strip, row, __builtin_ctzll(~(rows >> row)) / kRows);
    }
}

struct TilePlace {
  int x, y, columns, rows;  // first pixel, and the part inside the image
};

LTGS_INLINE TilePlace place_of(const View& view, int tile) {
  const int x = tile % view.tiles_x * kTile, y = tile / view.tiles_x * kTile;
  return {x, y, std::min(kTile, view.width - x), std::min(kTile, view.height - y)};
}

// Call body(index of the first pixel in the tile, in the image, number of pixels) for every row of every strip; fewer
// than kCols pixels at the right edge of the image.
template <class Body>
LTGS_INLINE void for_each_span(const View& view, const TilePlace& at, const Body& body) {
  for (int row = 0; row < at.rows; ++row) {
    const int64_t first = static_cast<int64_t>(at.y + row) * view.width + at.x;
    for (int strip = 0; strip * kCols < at.columns; ++strip)
      body((strip * kTile + row) * kCols, first + strip * kCols, std::min(kCols, at.columns - strip * kCols));
  }
}

// The steps among `live` that still have an unfinished pixel.
LTGS_INLINE StepMask without_dead(StepMask live, const float* T) {
  for (StepMask left = live; left; left &= left - 1) {
    const int bit = __builtin_ctzll(left);
    if (!any(less(splat(0.0f), load(T + bit * kCols)))) live &= ~(StepMask{1} << bit);
  }
  return live;
}

// Pixels outside the image or the active region start dead, marked by the sign of T as every finished pixel is.
LTGS_INLINE StepMask start_transmittance(const Frame& frame, const TilePlace& at, float* T) {
  std::fill(T, T + kTilePixels, -1.0f);
  const uint8_t* active = frame.has_region ? frame.region.data() : nullptr;
  for_each_span(frame.view, at, [&](int pixel, int64_t in_image, int count) {
    for (int i = 0; i < count; ++i) T[pixel + i] = !active || active[in_image + i] ? 1.0f : -1.0f;
  });
  const StepMask rows = ((1u << at.rows) - 1u) & kStripSteps;
  StepMask live = 0;
  for (int strip = 0; strip * kCols < at.columns; ++strip) live |= rows << (strip * kTile);
  return active ? without_dead(live, T) : live;
}

// Entries of a tile whose step masks are computed together.
struct Batch {
  const Splat* splat[kBatch];
  alignas(64) float field[8][kBatch];  // x y b c log_opacity det dx_bottom a: the first half of a splat, transposed
  StepMask steps[kBatch];
};

// Rows r0 <= r <= r1 as bits, none where r0 > r1; both within -1..16.
LTGS_INLINE vi row_bits(vf first, vf last) {
  const vi upper = isplat(2) << to_int(vmax(last, splat(0.0f))), lower = isplat(1) << to_int(first);
  return (vi)keep(less_equal(first, last), (vf)(upper - lower));
}

// Extremes of the ellipse in y within the columns of every strip. Everything is widened by kSlack pixels against
// rounding; the compositing step tests every pixel exactly.
LTGS_INLINE void batch_steps(const TilePlace& at, int count, Batch& batch) {
  const vf slack = splat(kSlack), half = splat(0.5f), zero = splat(0.0f), bottom = splat(float(kTile - 1));
  for (int i = 0; i < count; i += W) {
    const vf x = load(batch.field[0] + i) - splat(at.x + 0.5f), y = load(batch.field[1] + i) - splat(at.y + 0.5f);
    const vf b = load(batch.field[2] + i), c = load(batch.field[3] + i), det = load(batch.field[5] + i);
    const vf budget = c * (load(batch.field[4] + i) - splat(kLog2MinAlpha));
    const vf inv_c = splat(1.0f) / c, lowest = load(batch.field[6] + i);
    alignas(64) int32_t bits[kStrips][W];
    for (int strip = 0; strip < kStrips; ++strip) {
      const vf low = splat(strip * kCols - kSlack) - x, high = splat(strip * kCols + kCols - 1 + kSlack) - x;
      const vf dx0 = vmin(vmax(lowest, low), high), dx1 = vmin(vmax(zero - lowest, low), high);
      const vf room0 = budget - det * dx0 * dx0, room1 = budget - det * dx1 * dx1;
      const vf down = (vsqrt(vmax(zero, room0)) - b * dx0) * inv_c, up = (zero - vsqrt(vmax(zero, room1)) - b * dx1) * inv_c;
      // Rounding to nearest after adding or taking half a pixel is a ceiling and a floor; the clamp keeps it in range.
      const vf first = vround(vmin(vmax(y + up - slack, zero), splat(float(kTile))) + half - splat(1e-5f));
      const vf last = vround(vmin(vmax(y + down + slack, splat(-1.0f)), bottom) - half + splat(1e-5f));
      const vm reached = both(less_equal(zero, room0), less_equal(zero, room1));
      const vi rows = (vi)keep(reached, (vf)row_bits(first, last));
      std::memcpy(bits[strip], &rows, sizeof rows);
    }
    for (int lane = 0; lane < W; ++lane) {
      StepMask steps = 0;
      for (int strip = 0; strip < kStrips; ++strip) steps |= static_cast<StepMask>(bits[strip][lane]) << (strip * kTile);
      if (kRows > 1) {
        const StepMask all = kStripSteps * 0x0001000100010001ull;
        StepMask any_row = steps;
        for (int row = 1; row < kRows; ++row) any_row |= steps >> row & all;
        steps = any_row & all;
      }
      batch.steps[i + lane] = steps;
    }
  }
}

// The splats of a tile are scattered in memory, so the next batch is fetched while this one is composited.
LTGS_INLINE void load_batch(const Frame& frame, const Entry* entries, int count, const TilePlace& at, Batch& out) {
  for (int i = kBatch; i < 2 * kBatch; ++i) __builtin_prefetch(&frame.splats[entries[i].gaussian]);
  for (int i = 0; i < count; ++i) out.splat[i] = &frame.splats[entries[i].gaussian];
  for (int i = count; i < (count + W - 1) / W * W; ++i) out.splat[i] = out.splat[0];
  for (int i = 0; i < count; i += W) transpose8(reinterpret_cast<const float* const*>(out.splat + i), out.field[0] + i, kBatch);
  batch_steps(at, count, out);
}

// Pixels minus the centre of a Gaussian: dx of the columns of a strip, and dy of the first pixel of every row.
LTGS_INLINE vf strip_dx(const Splat& s, const TilePlace& at, int strip, vf lane_cols) {
  return lane_cols + splat(at.x + 0.5f + strip * kCols - s.x);
}
struct RowOffsets {
  alignas(64) float first[kTile];
  LTGS_INLINE RowOffsets(const Splat& s, const TilePlace& at) {
    for (int row = 0; row < kTile; row += W) store(first + row, load(kRowNumber + row) + splat(at.y + 0.5f - s.y));
  }
  LTGS_INLINE vf dy(int row, vf lane_rows) const { return kRows == 1 ? splat(first[row]) : splat(first[row]) + lane_rows; }
};

// The alphas of a Gaussian in the given steps, zero where they are too small to count: a plane of the tile. They are
// computed ahead of the compositing, so that both loops are short enough to keep everything in registers and so that
// the processor can work on many independent steps at once. log2 of alpha is a quadratic in dy.
LTGS_INLINE void write_alphas(const Splat& s, const TilePlace& at, StepMask steps, const RowOffsets& rows, vf lane_cols, vf lane_rows,
                              float* alphas) {
  const vf curve = splat(-s.c);
  for_each_run(steps, [&](int strip, int row, int count) {
    const vf dx = strip_dx(s, at, strip, lane_cols);
    const vf constant = fnma(splat(s.a) * dx, dx, splat(s.log_opacity)), slope = splat(-2.0f * s.b) * dx;
    float* to = alphas + (strip * kTile + row) * kCols;
    for (int k = 0; k < count; ++k, to += W) {
      const vf dy = rows.dy(row + k * kRows, lane_rows);
      const vf power = fma(fma(curve, dy, slope), dy, constant);
      store(to, keep(less_equal(splat(kLog2MinAlpha), power), vmin(vexp2(power), splat(kMaxAlpha))));
    }
  });
}

// What one Gaussian does to the pixels of one step.
struct Composited {
  vf next, weight;  // transmittance behind, T alpha where it counts and else 0
};

// A finished pixel has T < 0, so that it stops again at every later Gaussian, with weight zero. A pixel stops before the
// Gaussian that would bring T to the limit or below; it keeps its T, negated. Both passes must round alike, hence the
// explicit fma.
LTGS_INLINE Composited composite_step(vf alpha, float* T) {
  const vf t = load(T);
  Composited out;
  out.next = fnma(t, alpha, t);
  const vm stop = less_equal(out.next, splat(kMinTransmittance));
  out.weight = keep_not(stop, t * alpha);
  store(T, select(stop, negative(t), out.next));
  return out;
}

}  // namespace
}  // namespace ltgs
