// Front-to-back compositing of one 16x16 tile. The outer loop runs over Gaussians, the inner one over the steps each can
// reach; the pixels' state (4-5 KB) stays in the first-level cache.
#pragma once

#include "parallel.h"
#include "tile.h"

namespace ltgs {
namespace {

// Where the channels of a pass come from: `stride` floats per Gaussian, the first `width` of them used.
struct ChannelSource {
  const float* data;
  int64_t stride;
  int width;
};

LTGS_INLINE ChannelSource splat_channels(const Frame& frame, int width) {
  return {frame.splats.data() ? frame.splats.data()->channel : nullptr, sizeof(Splat) / sizeof(float), width};
}

// Composite the tile's entries into T and, channel by channel, acc; returns the number of evaluated (Gaussian, pixel)
// pairs. With kWeights the plane after the channels collects the sum of the weights: 1 - T equals it, but has lost its
// digits where T is close to 1.
template <int NCH, bool kWeights = false>
uint64_t composite_tile(const Frame& frame, int tile, const ChannelSource& source, float* T, float* acc) {
  const TilePlace at = place_of(frame.view, tile);
  StepMask live = start_transmittance(at, T);
  std::fill(acc, acc + (NCH + kWeights) * kTilePixels, 0.0f);
  const Entry* entries = frame.entries.data();
  const vf lane_cols = lane_columns(), lane_rows = lane_row_numbers();
  uint64_t steps_done = 0;
  Batch batch;
  for (uint32_t from = frame.tile_begin[tile], end = frame.tile_begin[tile + 1]; from < end && live; from += kBatch) {
    const int count = static_cast<int>(std::min<uint32_t>(kBatch, end - from));
    load_batch(frame, entries + from, count, at, batch);
    for (int e = 0; e < count; ++e) {
      const StepMask steps = live & batch.steps[e];
      if (!steps) continue;
      const float* values = source.data + entries[from + e].gaussian * source.stride;
      vf channel[NCH];
      for (int k = 0; k < NCH; ++k) channel[k] = splat(values[k]);
      steps_done += __builtin_popcountll(steps);
      for_each_strip(steps, [&](int strip, StepMask left) {
        const StripPower power(*batch.splat[e], at, strip, lane_cols, lane_rows);
        vm fresh = none();
        for (StepMask todo = left; todo; todo &= todo - 1) {
          const int bit = __builtin_ctzll(todo);
          float* pixels = acc + bit * kCols;
          const Composited c = composite_step(power.at_dy(power.dy(bit)), T + bit * kCols);
          for (int k = 0; k < NCH; ++k) store(pixels + k * kTilePixels, fma(c.weight, channel[k], load(pixels + k * kTilePixels)));
          if (kWeights) store(pixels + NCH * kTilePixels, load(pixels + NCH * kTilePixels) + c.weight);
          fresh = either(fresh, c.fresh);
        }
        if (any(fresh)) live = without_dead(live, left, T);
      });
    }
  }
  return steps_done * W;
}

// Copy `width` planar channels of a tile into an interleaved image [H, W, stride] at channel offset `offset`.
LTGS_INLINE void write_tile(const View& view, int tile, const float* planes, int width, float* image, int64_t stride, int offset) {
  for_each_pixel(view, place_of(view, tile), [&](int pixel, int64_t to) {
    for (int k = 0; k < width; ++k) image[to * stride + offset + k] = planes[k * kTilePixels + pixel];
  });
}

struct Images {
  float *rgb, *alpha, *depth;  // [H, W, 3], [H, W], [H, W] or null
};

inline void finish_pixels(Frame& frame, int tile, const float* T, const float* acc, const Images& out) {
  write_tile(frame.view, tile, acc, 3, out.rgb, 3, 0);
  for_each_pixel(frame.view, place_of(frame.view, tile), [&](int pixel, int64_t to) {
    const float t = std::fabs(T[pixel]);
    frame.transmittance[to] = t;
    out.alpha[to] = 1.0f - t;
    if (!out.depth) return;
    const float weight = acc[4 * kTilePixels + pixel], mean = weight > 0.0f ? acc[3 * kTilePixels + pixel] / weight : 0.0f;
    frame.weight_sum[to] = weight;
    frame.depth_mean[to] = out.depth[to] = mean;
  });
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
