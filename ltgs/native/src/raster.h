// Front-to-back compositing of one 16x16 tile. The outer loop runs over Gaussians, the inner one over pixel rows; the
// pixels' state (4-5 KB) stays in the first-level cache.
#pragma once

#include "frame.h"
#include "parallel.h"
#include "simd.h"

namespace ltgs {
namespace {

constexpr int kBatch = 32;            // entries whose row ranges are computed together
constexpr int kStrips = kTile / W;    // registers per pixel row

// Where the channels of a pass come from: `stride` floats per Gaussian, the first `width` of them used.
struct ChannelSource {
  const float* data;
  int64_t stride;
  int width;
};

LTGS_INLINE ChannelSource splat_channels(const Frame& frame, int width) {
  return {frame.splats.data() ? frame.splats.data()->channel : nullptr, sizeof(Splat) / sizeof(float), width};
}

// A batch of tile entries as structure of arrays, with the rows and strips of the tile each ellipse can reach.
struct Batch {
  alignas(64) float x[kBatch], y[kBatch], a[kBatch], b[kBatch], c[kBatch], log_opacity[kBatch], det[kBatch], inv_a[kBatch];
  alignas(64) float dx_bottom[kBatch], x_extent[kBatch], y_extent[kBatch];
  alignas(64) float channel[kGroup][kBatch];
  alignas(64) float row_first[kBatch], row_last[kBatch], col_first[kBatch], col_last[kBatch];
};

LTGS_INLINE void load_batch(const Frame& frame, const Entry* entries, int count, const ChannelSource& source, Batch& out) {
  for (int i = 0; i < count; ++i) {
    const Splat& s = frame.splats[entries[i].gaussian];
    out.x[i] = s.x, out.y[i] = s.y, out.a[i] = s.a, out.b[i] = s.b, out.c[i] = s.c;
    out.log_opacity[i] = s.log_opacity, out.det[i] = s.det, out.inv_a[i] = s.inv_a;
    out.dx_bottom[i] = s.dx_bottom, out.x_extent[i] = s.x_extent, out.y_extent[i] = s.y_extent;
    const float* channel = source.data + entries[i].gaussian * source.stride;
    for (int k = 0; k < source.width; ++k) out.channel[k][i] = channel[k];
  }
}

// Rows: extremes of the ellipse in y within the tile's columns. Columns: the ellipse's own extent in x.
LTGS_INLINE void batch_ranges(int tile_x, int tile_y, int count, Batch& batch) {
  const vf slack = splat(2e-3f), half = splat(0.5f), zero = splat(0.0f), last = splat(float(kTile - 1));
  for (int i = 0; i < count; i += W) {
    const vf x = load(batch.x + i) - splat(float(tile_x)) - half, y = load(batch.y + i) - splat(float(tile_y)) - half;
    const vf b = load(batch.b + i), c = load(batch.c + i), det = load(batch.det + i);
    const vf budget = c * (load(batch.log_opacity + i) - splat(kLog2MinAlpha));
    const vf low = zero - x, high = last - x, inv_c = splat(1.0f) / c, bottom = load(batch.dx_bottom + i);
    const vf dx0 = vmin(vmax(bottom, low), high), dx1 = vmin(vmax(zero - bottom, low), high);
    const vf down = (vsqrt(vmax(zero, budget - det * dx0 * dx0)) - b * dx0) * inv_c;
    const vf up = (zero - vsqrt(vmax(zero, budget - det * dx1 * dx1)) - b * dx1) * inv_c;
    const vf reach = load(batch.x_extent + i);
    // Rounding to nearest after adding or taking half a pixel is a ceiling and a floor; the clamp keeps it in range.
    const auto ceil_clamped = [&](vf v) { return vround(vmin(vmax(v - slack, zero), splat(float(kTile))) + splat(0.49999f)); };
    const auto floor_clamped = [&](vf v) { return vround(vmin(vmax(v + slack, splat(-1.0f)), last) - splat(0.49999f)); };
    store(batch.row_first + i, ceil_clamped(y + up));
    store(batch.row_last + i, floor_clamped(y + down));
    store(batch.col_first + i, ceil_clamped(x - reach));
    store(batch.col_last + i, floor_clamped(x + reach));
  }
}

LTGS_INLINE uint32_t row_mask(int first, int last) {
  return first > last ? 0u : (0xffffu >> (kTile - 1 - last)) & (0xffffu << first);
}

// Pixels of the tile outside the image start dead, marked by the sign of T as every finished pixel is.
LTGS_INLINE uint32_t start_transmittance(const View& view, int tile_x, int tile_y, float* T) {
  const int columns = std::min(kTile, view.width - tile_x), rows = std::min(kTile, view.height - tile_y);
  for (int row = 0; row < kTile; ++row)
    for (int col = 0; col < kTile; ++col) T[row * kTile + col] = row < rows && col < columns ? 1.0f : -1.0f;
  return (1u << rows) - 1u;
}

LTGS_INLINE bool row_is_dead(const float* T_row) {
  bool dead = true;
  for (int col = 0; col < kTile; col += W) dead = dead && !any(less(splat(0.0f), load(T_row + col)));
  return dead;
}

// Composite one Gaussian over one strip of one row; returns whether a pixel finished. With kWeights the plane after the
// channels collects the sum of the weights: 1 - T equals it, but has lost its digits where T is close to 1.
template <int NCH, bool kWeights>
LTGS_INLINE bool blend(vf power, const vf* channel, float* T, float* acc) {
  const vf t = load(T);
  const vm hit = both(less_equal(splat(kLog2MinAlpha), power), less(splat(0.0f), t));
  if (!any(hit)) return false;
  const vf alpha = vmin(vexp2(power), splat(kMaxAlpha));
  const vf weight = t * alpha, next = t - weight;
  const vm stop = both(hit, less_equal(next, splat(kMinTransmittance)));
  const vf w = keep(but_not(hit, stop), weight);
  for (int k = 0; k < NCH; ++k) store(acc + k * kTilePixels, load(acc + k * kTilePixels) + w * channel[k]);
  if (kWeights) store(acc + NCH * kTilePixels, load(acc + NCH * kTilePixels) + w);
  store(T, select(stop, splat(0.0f) - t, t - w));
  return any(stop);
}

// Composite the tile's entries into T and acc; returns the number of evaluated (Gaussian, pixel) pairs.
template <int NCH, bool kWeights = false>
uint64_t composite_tile(const Frame& frame, int tile, const ChannelSource& source, float* T, float* acc) {
  const int tile_x = tile % frame.view.tiles_x * kTile, tile_y = tile / frame.view.tiles_x * kTile;
  uint32_t live = start_transmittance(frame.view, tile_x, tile_y, T);
  std::fill(acc, acc + (NCH + kWeights) * kTilePixels, 0.0f);
  const Entry* entries = frame.entries.data();
  const vf lanes = lane_numbers() + splat(tile_x + 0.5f);
  uint64_t strips_done = 0;
  Batch batch;
  for (uint32_t at = frame.tile_begin[tile], end = frame.tile_begin[tile + 1]; at < end && live; at += kBatch) {
    const int count = static_cast<int>(std::min<uint32_t>(kBatch, end - at));
    load_batch(frame, entries + at, count, source, batch);
    batch_ranges(tile_x, tile_y, count, batch);
    for (int e = 0; e < count && live; ++e) {
      uint32_t rows = live & row_mask(int(batch.row_first[e]), int(batch.row_last[e]));
      if (!rows) continue;
      const int strip_first = int(batch.col_first[e]) / W, strip_last = int(batch.col_last[e] + W) / W - 1;
      vf channel[NCH];
      for (int k = 0; k < NCH; ++k) channel[k] = splat(batch.channel[k][e]);
      const float y = tile_y + 0.5f - batch.y[e];
      for (int strip = strip_first; strip <= strip_last; ++strip) {
        const vf dx = lanes + splat(float(strip * W) - batch.x[e]);
        const vf quadratic = splat(batch.log_opacity[e]) - splat(batch.a[e]) * dx * dx, slope = splat(-2.0f * batch.b[e]) * dx;
        const vf curve = splat(-batch.c[e]);
        for (uint32_t left = rows; left; left &= left - 1) {
          const int row = __builtin_ctz(left), at_pixel = row * kTile + strip * W;
          const vf dy = splat(y + row);
          if (blend<NCH, kWeights>(quadratic + (slope + curve * dy) * dy, channel, T + at_pixel, acc + at_pixel) &&
              row_is_dead(T + row * kTile))
            live &= ~(1u << row);
        }
        strips_done += __builtin_popcount(rows);
      }
    }
  }
  return strips_done * W;
}

// Copy `width` planar channels of a tile into an interleaved image [H, W, stride] at channel offset `offset`.
LTGS_INLINE void write_tile(const View& view, int tile, const float* planes, int width, float* image, int64_t stride, int offset) {
  const int x0 = tile % view.tiles_x * kTile, y0 = tile / view.tiles_x * kTile;
  const int columns = std::min(kTile, view.width - x0), rows = std::min(kTile, view.height - y0);
  for (int row = 0; row < rows; ++row) {
    float* out = image + (static_cast<int64_t>(y0 + row) * view.width + x0) * stride + offset;
    const float* in = planes + row * kTile;
    for (int col = 0; col < columns; ++col, out += stride)
      for (int k = 0; k < width; ++k) out[k] = in[k * kTilePixels + col];
  }
}

struct Images {
  float *rgb, *alpha, *depth;  // [H, W, 3], [H, W], [H, W] or null
};

inline void finish_pixels(Frame& frame, int tile, const float* T, const float* acc, const Images& out) {
  const View& view = frame.view;
  const int x0 = tile % view.tiles_x * kTile, y0 = tile / view.tiles_x * kTile;
  const int columns = std::min(kTile, view.width - x0), rows = std::min(kTile, view.height - y0);
  write_tile(view, tile, acc, 3, out.rgb, 3, 0);
  for (int row = 0; row < rows; ++row) {
    const int64_t first = static_cast<int64_t>(y0 + row) * view.width + x0;
    for (int col = 0; col < columns; ++col) {
      const float t = std::fabs(T[row * kTile + col]), alpha = 1.0f - t;
      frame.transmittance[first + col] = t;
      out.alpha[first + col] = alpha;
      if (!out.depth) continue;
      const int at = row * kTile + col;
      const float weight = acc[4 * kTilePixels + at], mean = weight > 0.0f ? acc[3 * kTilePixels + at] / weight : 0.0f;
      frame.weight_sum[first + col] = weight;
      frame.depth_mean[first + col] = out.depth[first + col] = mean;
    }
  }
}

inline void render_images(Frame& frame, const Images& out, int threads) {
  const int64_t tiles = static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y;
  const size_t pixels = static_cast<size_t>(frame.view.width) * frame.view.height;
  frame.transmittance.resize(pixels);
  frame.with_depth = out.depth != nullptr;
  if (frame.with_depth) frame.weight_sum.resize(pixels), frame.depth_mean.resize(pixels);
  frame.tile_pairs.resize(tiles);
  parallel_for(tiles, threads, [&](int64_t tile) {
    alignas(64) float T[kTilePixels], acc[5 * kTilePixels];
    const auto source = splat_channels(frame, out.depth ? 4 : 3);
    frame.tile_pairs[tile] = out.depth ? composite_tile<4, true>(frame, int(tile), source, T, acc)
                                       : composite_tile<3>(frame, int(tile), source, T, acc);
    finish_pixels(frame, int(tile), T, acc, out);
  });
}

// Composite the channels of `features` [N, width] into image [H, W, width], up to four per pass.
inline void render_features(const Frame& frame, const float* features, int width, float* image, int threads) {
  const int64_t tiles = static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y;
  parallel_for(tiles, threads, [&](int64_t tile) {
    alignas(64) float T[kTilePixels], acc[kGroup * kTilePixels];
    for (int offset = 0; offset < width; offset += kGroup) {
      const ChannelSource source{features + offset, width, std::min(kGroup, width - offset)};
      switch (source.width) {
        case 1: composite_tile<1>(frame, int(tile), source, T, acc); break;
        case 2: composite_tile<2>(frame, int(tile), source, T, acc); break;
        case 3: composite_tile<3>(frame, int(tile), source, T, acc); break;
        default: composite_tile<4>(frame, int(tile), source, T, acc);
      }
      write_tile(frame.view, int(tile), acc, source.width, image, width, offset);
    }
  });
}

}  // namespace
}  // namespace ltgs
