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

template <int NCH, bool kGeometry, bool kDepth>
LTGS_INLINE bool blend_backward(vf power, vf dy, const vf* channel, float* T, float* D, const float* g, const float* depth,
                                LaneSums<NCH>& sums) {
  const vf t = load(T);
  const vm hit = both(less_equal(splat(kLog2MinAlpha), power), less(splat(0.0f), t));
  if (!any(hit)) return false;
  const vf raw = vexp2(power), alpha = vmin(raw, splat(kMaxAlpha));
  const vf weight = t * alpha, next = t - weight;
  const vm stop = both(hit, less_equal(next, splat(kMinTransmittance)));
  const vm counted = but_not(hit, stop);
  const vf w = keep(counted, weight);
  store(T, select(stop, splat(0.0f) - t, t - w));
  vf along = splat(0.0f);
  for (int k = 0; k < NCH; ++k) {
    const vf gradient = load(g + k * kTilePixels);
    sums.channel[k] += w * gradient;
    if (kGeometry) along += (kDepth && k == NCH - 1 ? channel[k] - load(depth) : channel[k]) * gradient;
  }
  if (kGeometry) {
    const vf gain = w * along, rest = load(D) - gain;
    store(D, rest);
    // A clamped alpha does not depend on the splat any more.
    const vf v = keep(both(counted, less_equal(raw, splat(kMaxAlpha))), gain - rest * (w / next));
    const vf vdy = v * dy;
    sums.v0 += v;
    sums.v1 += vdy;
    sums.v2 += vdy * dy;
  }
  return any(stop);
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
  if (kGeometry) {
    sum4(m[0], m[1], m[2], m[3], record);
    const vf zero = splat(0.0f);
    float tail[8];
    sum4(m[4], m[5], channel[0], NCH > 1 ? channel[1 % NCH] : zero, tail);
    for (int k = 4; k < 6 + std::min(NCH, 2); ++k) record[k] = tail[k - 4];
    if (NCH == 3) record[8] = sum(channel[2 % NCH]);
    if (NCH == 4) {
      sum4(channel[2 % NCH], channel[3 % NCH], zero, zero, tail);
      record[8] = tail[0], record[9] = tail[1];
    }
  } else {
    for (int k = 0; k < NCH; ++k) record[k] = sum(channel[k]);
  }
}

// With kDepth the last channel is the depth, whose mean is subtracted per pixel.
template <int NCH, bool kGeometry, bool kDepth>
void differentiate_tile(Frame& frame, int tile, const ChannelSource& source, TileGradient<NCH>& state, uint32_t live) {
  constexpr int kRecord = NCH + (kGeometry ? kMoments : 0);
  const int tile_x = tile % frame.view.tiles_x * kTile, tile_y = tile / frame.view.tiles_x * kTile;
  const Entry* entries = frame.entries.data();
  float* records = frame.records.data();
  const vf lanes = lane_numbers() + splat(tile_x + 0.5f);
  Batch batch;
  for (uint32_t at = frame.tile_begin[tile], end = frame.tile_begin[tile + 1]; at < end; at += kBatch) {
    const int count = static_cast<int>(std::min<uint32_t>(kBatch, end - at));
    if (live) {
      load_batch(frame, entries + at, count, source, batch);
      batch_ranges(tile_x, tile_y, count, batch);
    }
    for (int e = 0; e < count; ++e) {
      float* record = records + static_cast<size_t>(entries[at + e].slot) * kRecord;
      const uint32_t rows = live ? live & row_mask(int(batch.row_first[e]), int(batch.row_last[e])) : 0u;
      if (!rows) {
        std::fill(record, record + kRecord, 0.0f);
        continue;
      }
      const int strip_first = int(batch.col_first[e]) / W, strip_last = int(batch.col_last[e] + W) / W - 1;
      vf channel[NCH], channel_sum[NCH], moments[kMoments] = {};
      for (int k = 0; k < NCH; ++k) channel[k] = splat(batch.channel[k][e]), channel_sum[k] = splat(0.0f);
      const float y = tile_y + 0.5f - batch.y[e];
      for (int strip = strip_first; strip <= strip_last; ++strip) {
        const vf dx = lanes + splat(float(strip * W) - batch.x[e]);
        const vf quadratic = splat(batch.log_opacity[e]) - splat(batch.a[e]) * dx * dx, slope = splat(-2.0f * batch.b[e]) * dx;
        const vf curve = splat(-batch.c[e]);
        LaneSums<NCH> sums{};
        for (uint32_t left = rows; left; left &= left - 1) {
          const int row = __builtin_ctz(left), pixel = row * kTile + strip * W;
          const vf dy = splat(y + row);
          if (blend_backward<NCH, kGeometry, kDepth>(quadratic + (slope + curve * dy) * dy, dy, channel, state.T + pixel,
                                                     state.D + pixel, state.g + pixel, state.depth + pixel, sums) &&
              row_is_dead(state.T + row * kTile))
            live &= ~(1u << row);
        }
        fold_strip<NCH, kGeometry>(sums, dx, channel_sum, moments);
      }
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
LTGS_INLINE void start_pixels(const Frame& frame, int tile_x, int tile_y, const ImageGradients& in, TileGradient<NCH>& s) {
  const View& view = frame.view;
  std::fill(s.g, s.g + NCH * kTilePixels, 0.0f);
  std::fill(s.D, s.D + kTilePixels, 0.0f);
  std::fill(s.depth, s.depth + kTilePixels, 0.0f);
  const int columns = std::min(kTile, view.width - tile_x), rows = std::min(kTile, view.height - tile_y);
  for (int row = 0; row < rows; ++row)
    for (int col = 0; col < columns; ++col) {
      const int64_t pixel = static_cast<int64_t>(tile_y + row) * view.width + tile_x + col;
      const int at = row * kTile + col;
      const float t = frame.transmittance[pixel];
      float d = 0.0f, alpha_gradient = in.alpha ? in.alpha[pixel] : 0.0f;
      if (in.rgb)
        for (int k = 0; k < 3; ++k) {
          s.g[k * kTilePixels + at] = in.rgb[pixel * 3 + k];
          d += in.rgb[pixel * 3 + k] * in.rgb_value[pixel * 3 + k];
        }
      s.D[at] = d - alpha_gradient * t;
      if (NCH == 4 && frame.weight_sum[pixel] > 0.0f) {
        // depth = sum w z / sum w, so dL/dw = g (z - depth): a channel centred on the pixel's own depth, whose D starts
        // at zero. Without the centring D would be the difference of two large numbers.
        const float g = in.depth[pixel] / frame.weight_sum[pixel];
        s.g[(NCH - 1) * kTilePixels + at] = g;
        s.depth[at] = frame.depth_mean[pixel];
      }
    }
}

// Fill frame.records for losses on rgb, alpha and depth; returns the number of channels per record.
inline int differentiate_images(Frame& frame, const ImageGradients& in, int threads) {
  const int64_t tiles = static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y;
  const int channels = in.depth ? 4 : 3;
  frame.records.resize(frame.entries.size() * (kMoments + channels));
  const auto run = [&](auto channel_count, int tile) {
    constexpr int NCH = decltype(channel_count)::value;
    TileGradient<NCH> state;
    const int tile_x = tile % frame.view.tiles_x * kTile, tile_y = tile / frame.view.tiles_x * kTile;
    start_pixels<NCH>(frame, tile_x, tile_y, in, state);
    const uint32_t live = start_transmittance(frame.view, tile_x, tile_y, state.T);
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
  frame.records.resize(frame.entries.size() * (NCH + (kGeometry ? kMoments : 0)));
  parallel_for(tiles, threads, [&](int64_t tile) {
    TileGradient<NCH> s;
    const int tile_x = int(tile) % view.tiles_x * kTile, tile_y = int(tile) / view.tiles_x * kTile;
    const uint32_t live = start_transmittance(view, tile_x, tile_y, s.T);
    std::fill(s.D, s.D + kTilePixels, 0.0f);
    std::fill(s.g, s.g + NCH * kTilePixels, 0.0f);
    for (int row = 0; row < std::min(kTile, view.height - tile_y); ++row)
      for (int col = 0; col < std::min(kTile, view.width - tile_x); ++col) {
        const int64_t pixel = (static_cast<int64_t>(tile_y + row) * view.width + tile_x + col) * in.width + offset;
        for (int k = 0; k < NCH; ++k) {
          s.g[k * kTilePixels + row * kTile + col] = in.gradient[pixel + k];
          if (kGeometry) s.D[row * kTile + col] += in.gradient[pixel + k] * in.value[pixel + k];
        }
      }
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
