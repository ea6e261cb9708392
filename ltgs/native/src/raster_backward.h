// Gradient of the compositing, walked front to back like the forward pass, so it needs no list of contributors.
//
// With g the gradient of the pixel's channels, D = sum_{j >= i} w_j (c_j . g) + T_final dL/dT_final starts as the dot
// product of g with the finished pixel and loses one term per Gaussian; then
// dL/dalpha_i = T_i (c_i . g) - D_{i+1} / (1 - alpha_i), without a division chain.
#pragma once

#include "raster.h"

namespace ltgs {
namespace {

constexpr int kMoments = 6;  // sums over pixels of v, v dx, v dy, v dx^2, v dx dy, v dy^2 with v = dL/d ln(alpha)

template <int NCH>
struct TileGradient {
  alignas(64) float T[kTilePixels], D[kTilePixels], g[NCH * kTilePixels], depth[kTilePixels];  // depth: see start_pixels
};

// Per-lane sums over the rows of one strip. dx is constant in a lane, so its moments are folded in once per entry.
template <int NCH>
struct LaneSums {
  vf v0, v1, v2, channel[NCH];
};

// A step of the forward pass once more, and what it adds to the sums.
template <int NCH, bool kGeometry, bool kDepth>
LTGS_INLINE vm differentiate_step(vf power, vf dy, const vf* channel, TileGradient<NCH>& pixels, int at, LaneSums<NCH>& sums) {
  const Composited c = composite_step(power, pixels.T + at);
  vf along = splat(0.0f);
  for (int k = 0; k < NCH; ++k) {
    const vf gradient = load(pixels.g + k * kTilePixels + at);
    sums.channel[k] = fma(c.weight, gradient, sums.channel[k]);
    if (kGeometry) along = fma(kDepth && k == NCH - 1 ? channel[k] - load(pixels.depth + at) : channel[k], gradient, along);
  }
  if (kGeometry) {
    const vf gain = c.weight * along, rest = load(pixels.D + at) - gain;
    store(pixels.D + at, rest);
    // A clamped alpha does not depend on the splat any more; in a finished pixel the quotient means nothing.
    const vm counted = but_not(less_equal(c.raw, splat(kMaxAlpha)), c.stop);
    const vf v = keep(counted, gain - rest * (c.weight / c.next)), vdy = v * dy;
    sums.v0 += v;
    sums.v1 += vdy;
    sums.v2 = fma(vdy, dy, sums.v2);
  }
  return c.fresh;
}

template <int NCH, bool kGeometry>
LTGS_INLINE void fold_strip(const LaneSums<NCH>& s, vf dx, vf* channel, vf* m) {
  for (int k = 0; k < NCH; ++k) channel[k] += s.channel[k];
  if (!kGeometry) return;
  const vf v0dx = s.v0 * dx;
  m[0] += s.v0, m[1] += v0dx, m[2] += s.v1, m[3] += v0dx * dx, m[4] += s.v1 * dx, m[5] += s.v2;
}

template <int NCH, bool kGeometry>
LTGS_INLINE void sum_record(const vf* m, const vf* channel, float* record) {
  constexpr int kMore = kGeometry ? 2 : 0;  // channels that complete a group of eight sums
  if (kGeometry) {
    const vf first[8] = {m[0], m[1], m[2], m[3], m[4], m[5], channel[0], channel[NCH > 1]};
    alignas(32) float sums[8];
    sum8(first, sums);
    std::memcpy(record, sums, (kMoments + std::min(NCH, 2)) * sizeof(float));
  }
  for (int k = kMore; k < NCH; ++k) record[(kGeometry ? kMoments : 0) + k] = sum(channel[k]);
}

// With kDepth the last channel is the depth, whose mean is subtracted per pixel.
template <int NCH, bool kGeometry, bool kDepth>
void differentiate_tile(Frame& frame, int tile, const ChannelSource& source, TileGradient<NCH>& state, StepMask live) {
  constexpr int kRecord = NCH + (kGeometry ? kMoments : 0);
  const TilePlace at = place_of(frame.view, tile);
  const Entry* entries = frame.entries.data();
  float* records = frame.records.data();
  const vf lane_cols = lane_columns(), lane_rows = lane_row_numbers();
  Batch batch;
  for (uint32_t from = frame.tile_begin[tile], end = frame.tile_begin[tile + 1]; from < end; from += kBatch) {
    const int count = static_cast<int>(std::min<uint32_t>(kBatch, end - from));
    if (live) load_batch(frame, entries + from, count, at, batch);
    for (int e = 0; e < count; ++e) __builtin_prefetch(records + static_cast<size_t>(entries[from + e].slot) * kRecord, 1);
    for (int e = 0; e < count; ++e) {
      float* record = records + static_cast<size_t>(entries[from + e].slot) * kRecord;
      const StepMask steps = live ? live & batch.steps[e] : 0;
      if (!steps) {
        std::fill(record, record + kRecord, 0.0f);
        continue;
      }
      const float* values = source.data + entries[from + e].gaussian * source.stride;
      vf channel[NCH], channel_sum[NCH], moments[kMoments] = {};
      for (int k = 0; k < NCH; ++k) channel[k] = splat(values[k]), channel_sum[k] = splat(0.0f);
      for_each_strip(steps, [&](int strip, StepMask left) {
        const StripPower power(*batch.splat[e], at, strip, lane_cols, lane_rows);
        LaneSums<NCH> sums{};
        vm fresh = none();
        for (StepMask todo = left; todo; todo &= todo - 1) {
          const int bit = __builtin_ctzll(todo);
          const vf dy = power.dy(bit);
          fresh = either(fresh, differentiate_step<NCH, kGeometry, kDepth>(power.at_dy(dy), dy, channel, state, bit * kCols, sums));
        }
        fold_strip<NCH, kGeometry>(sums, power.dx, channel_sum, moments);
        if (any(fresh)) live = without_dead(live, left, state.T);
      });
      sum_record<NCH, kGeometry>(moments, channel_sum, record);
    }
  }
}

// Gradients that reach the images; any pointer may be null.
struct ImageGradients {
  const float *rgb, *alpha, *depth;  // of the loss
  const float* rgb_value;            // the rendered rgb [H, W, 3]
};

template <int NCH>
LTGS_INLINE void start_pixels(const Frame& frame, const TilePlace& at, const ImageGradients& in, TileGradient<NCH>& s) {
  std::fill(s.g, s.g + NCH * kTilePixels, 0.0f);
  std::fill(s.D, s.D + kTilePixels, 0.0f);
  std::fill(s.depth, s.depth + kTilePixels, 0.0f);
  for_each_pixel(frame.view, at, [&](int to, int64_t pixel) {
    float d = in.alpha ? -in.alpha[pixel] * frame.transmittance[pixel] : 0.0f;
    if (in.rgb)
      for (int k = 0; k < 3; ++k) {
        s.g[k * kTilePixels + to] = in.rgb[pixel * 3 + k];
        d += in.rgb[pixel * 3 + k] * in.rgb_value[pixel * 3 + k];
      }
    s.D[to] = d;
    if (NCH == 4 && frame.weight_sum[pixel] > 0.0f) {
      // depth = sum w z / sum w, so dL/dw = g (z - depth): a channel centred on the pixel's own depth, whose D starts
      // at zero. Without the centring D would be the difference of two large numbers.
      s.g[(NCH - 1) * kTilePixels + to] = in.depth[pixel] / frame.weight_sum[pixel];
      s.depth[to] = frame.depth_mean[pixel];
    }
  });
}

// Fill frame.records for losses on rgb, alpha and depth; returns the number of channels per record.
inline int differentiate_images(Frame& frame, const ImageGradients& in, int threads) {
  const int64_t tiles = static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y;
  const int channels = in.depth ? 4 : 3;
  frame.records.resize(frame.pairs() * (kMoments + channels));
  const auto run = [&](auto channel_count, int tile) {
    constexpr int NCH = decltype(channel_count)::value;
    TileGradient<NCH> state;
    const TilePlace at = place_of(frame.view, tile);
    start_pixels<NCH>(frame, at, in, state);
    const StepMask live = start_transmittance(at, state.T);
    differentiate_tile<NCH, true, NCH == 4>(frame, tile, splat_channels(frame, NCH), state, live);
  };
  parallel_for(tiles, threads, [&](int64_t tile) {
    if (channels == 4)
      run(std::integral_constant<int, 4>{}, int(tile));
    else
      run(std::integral_constant<int, 3>{}, int(tile));
  });
  return channels;
}

struct FeatureGradients {
  const float* features;  // [N, width]
  const float* value;     // [H, W, width] rendered features, needed for geometry only
  const float* gradient;  // [H, W, width]
  float* out;             // [N, width] or null
  int width;
};

template <int NCH, bool kGeometry>
void differentiate_feature_group(Frame& frame, const FeatureGradients& in, int offset, int threads) {
  const View& view = frame.view;
  const int64_t tiles = static_cast<int64_t>(view.tiles_x) * view.tiles_y;
  frame.records.resize(frame.pairs() * (NCH + (kGeometry ? kMoments : 0)));
  parallel_for(tiles, threads, [&](int64_t tile) {
    TileGradient<NCH> s;
    const TilePlace at = place_of(view, int(tile));
    const StepMask live = start_transmittance(at, s.T);
    std::fill(s.D, s.D + kTilePixels, 0.0f);
    std::fill(s.g, s.g + NCH * kTilePixels, 0.0f);
    for_each_pixel(view, at, [&](int to, int64_t pixel) {
      const int64_t from = pixel * in.width + offset;
      for (int k = 0; k < NCH; ++k) {
        s.g[k * kTilePixels + to] = in.gradient[from + k];
        if (kGeometry) s.D[to] += in.gradient[from + k] * in.value[from + k];
      }
    });
    differentiate_tile<NCH, kGeometry, false>(frame, int(tile), {in.features + offset, in.width, NCH}, s, live);
  });
  constexpr int kRecord = NCH + (kGeometry ? kMoments : 0);
  const int64_t chunks = (frame.count + kChunk - 1) / kChunk;
  parallel_for(chunks, threads, [&](int64_t chunk) {
    for (int64_t i = chunk * kChunk; i < std::min(frame.count, (chunk + 1) * kChunk); ++i) {
      float total[kRecord] = {};
      const float* record = frame.records.data() + static_cast<size_t>(frame.first_slot[i]) * kRecord;
      for (uint32_t n = frame.num_tiles[i]; n > 0; --n, record += kRecord)
        for (int k = 0; k < kRecord; ++k) total[k] += record[k];
      if (kGeometry)
        for (int k = 0; k < kMoments; ++k) frame.extra_geometry[i * kMoments + k] += total[k];
      if (in.out)
        for (int k = 0; k < NCH; ++k) in.out[i * in.width + offset + k] += total[kRecord - NCH + k];
    }
  });
}

// Add the feature gradients to in.out and, if asked for, their screen-space moments to frame.extra_geometry.
inline void differentiate_features(Frame& frame, const FeatureGradients& in, bool geometry, int threads) {
  if (geometry) {
    float* extra = frame.extra_geometry.resize(frame.count * kMoments);
    std::fill(extra, extra + frame.count * kMoments, 0.0f);
  }
  frame.has_extra_geometry = geometry;
  const auto run = [&](auto width, int offset) {
    constexpr int NCH = decltype(width)::value;
    if (geometry)
      differentiate_feature_group<NCH, true>(frame, in, offset, threads);
    else
      differentiate_feature_group<NCH, false>(frame, in, offset, threads);
  };
  for (int offset = 0; offset < in.width; offset += kGroup) switch (std::min(kGroup, in.width - offset)) {
      case 1: run(std::integral_constant<int, 1>{}, offset); break;
      case 2: run(std::integral_constant<int, 2>{}, offset); break;
      case 3: run(std::integral_constant<int, 3>{}, offset); break;
      default: run(std::integral_constant<int, 4>{}, offset);
    }
}

}  // namespace
}  // namespace ltgs
