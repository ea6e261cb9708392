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
  alignas(64) float alpha[kTilePixels], T[kTilePixels], D[kTilePixels], g[NCH * kTilePixels], depth[kTilePixels];  // depth: see start_pixels
};

// Per-lane sums over the rows of one strip. dx is constant in a lane, so its moments are folded in once per entry.
template <int NCH>
struct LaneSums {
  vf v0, v1, v2, channel[NCH];
};

// A step of the forward pass once more, and what it adds to the sums. BASE = 4: channel 3 is the depth.
template <int BASE, int NCH, bool kGeometry>
LTGS_INLINE void differentiate_step(vf dy, const vf* channel, TileGradient<NCH>& pixels, int at, LaneSums<NCH>& sums) {
  const vf alpha = load(pixels.alpha + at);
  const Composited c = composite_step(alpha, pixels.T + at);
  vf along = splat(0.0f);
  for (int k = 0; k < NCH; ++k) {
    const vf gradient = load(pixels.g + k * kTilePixels + at);
    sums.channel[k] = fma(c.weight, gradient, sums.channel[k]);
    if (kGeometry) along = fma(BASE == 4 && k == 3 ? channel[k] - load(pixels.depth + at) : channel[k], gradient, along);
  }
  if (kGeometry) {
    const vf gain = c.weight * along, rest = load(pixels.D + at) - gain;
    store(pixels.D + at, rest);
    // A clamped alpha does not depend on the splat any more.
    const vf v = keep(less(alpha, splat(kMaxAlpha)), gain - rest * (c.weight / c.next)), vdy = v * dy;
    sums.v0 += v;
    sums.v1 += vdy;
    sums.v2 = fma(vdy, dy, sums.v2);
  }
}

// Lane sums of one entry in the order of its record: moments, then channels.
template <int NCH, bool kGeometry>
LTGS_INLINE void fold_strip(const LaneSums<NCH>& s, vf dx, vf* total) {
  if (kGeometry) {
    const vf v0dx = s.v0 * dx;
    total[0] += s.v0, total[1] += v0dx, total[2] += s.v1, total[3] += v0dx * dx, total[4] += s.v1 * dx, total[5] += s.v2;
  }
  for (int k = 0; k < NCH; ++k) total[(kGeometry ? kMoments : 0) + k] += s.channel[k];
}

template <int kRecord>
LTGS_INLINE void sum_record(const vf* total, float* record) {
  int k = 0;
  for (; k + 8 <= kRecord; k += 8) sum8(total + k, record + k);
  for (; k < kRecord; ++k) record[k] = sum(total[k]);
}

// Write the record of every entry of a tile.
template <int BASE, int F, bool kGeometry>
void differentiate_tile(Frame& frame, int tile, const FeatureSource& features, TileGradient<BASE + F>& state, StepMask live) {
  constexpr int NCH = BASE + F, kRecord = NCH + (kGeometry ? kMoments : 0);
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
      if (e % kLiveCheck == 0) live = without_dead(live, state.T);
      float* record = records + static_cast<size_t>(entries[from + e].slot) * kRecord;
      const StepMask steps = live ? live & batch.steps[e] : 0;
      if (!steps) {
        std::fill(record, record + kRecord, 0.0f);
        continue;
      }
      const Splat& s = *batch.splat[e];
      vf channel[NCH], total[kRecord] = {};
      if (kGeometry) load_channels<BASE, F>(s, entries[from + e].gaussian, features, channel);
      const RowOffsets rows(s, at);
      write_alphas(s, at, steps, rows, lane_cols, lane_rows, state.alpha);
      for_each_run(steps, [&](int strip, int row, int length) {
        LaneSums<NCH> sums{};
        for (int i = (strip * kTile + row) * kCols, last = i + length * W; i < last; i += W, row += kRows)
          differentiate_step<BASE, NCH, kGeometry>(rows.dy(row, lane_rows), channel, state, i, sums);
        fold_strip<NCH, kGeometry>(sums, strip_dx(s, at, strip, lane_cols), total);
      });
      sum_record<kRecord>(total, record);
    }
  }
}

// Gradients of the loss that reach the images, and the images where they are needed; any may be null.
struct ImageGradients {
  const float *rgb, *alpha, *depth;   // [H, W, 3], [H, W], [H, W]
  const float* rgb_value;             // the rendered rgb
  const float* features;              // [H, W, width]
  const float* feature_image;         // the rendered features, needed for geometry only
  const float* feature_values;        // [N, width], likewise
  int width;
};

template <int BASE, int F, bool kGeometry>
LTGS_INLINE void start_pixels(const Frame& frame, const TilePlace& at, const ImageGradients& in, const FeatureSource& source,
                              TileGradient<BASE + F>& s) {
  std::memset(s.D, 0, sizeof s.D);
  std::memset(s.g, 0, sizeof s.g);
  if (BASE == 4) std::memset(s.depth, 0, sizeof s.depth);
  for_each_span(frame.view, at, [&](int to, int64_t pixel, int count) {
    float d[kCols] = {};
    for (int i = 0; BASE && in.alpha && i < count; ++i) d[i] = -in.alpha[pixel + i] * frame.transmittance[pixel + i];
    if (BASE && in.rgb) {
      float value[3 * kCols];
      read_rgb(in.rgb + 3 * pixel, count, s.g + to, kTilePixels);
      read_rgb(in.rgb_value + 3 * pixel, count, value, kCols);
      for (int k = 0; k < 3; ++k)
        for (int i = 0; i < kCols; ++i) d[i] += s.g[k * kTilePixels + to + i] * value[k * kCols + i];
    }
    // depth = sum w z / sum w, so dL/dw = g (z - depth): a channel centred on the pixel's own depth, whose D starts at
    // zero. Without the centring D would be the difference of two large numbers.
    for (int i = 0; BASE == 4 && i < count; ++i)
      if (frame.weight_sum[pixel + i] > 0.0f) {
        s.g[3 * kTilePixels + to + i] = in.depth[pixel + i] / frame.weight_sum[pixel + i];
        s.depth[to + i] = frame.depth_mean[pixel + i];
      }
    for (int i = 0; F && i < count; ++i)
      for (int k = 0; k < source.width; ++k) {
        const int64_t from = (pixel + i) * source.stride + source.offset + k;
        s.g[(BASE + k) * kTilePixels + to + i] = in.features[from];
        if (kGeometry) d[i] += in.features[from] * in.feature_image[from];
      }
    std::copy(d, d + kCols, s.D + to);
  });
}

// Fill frame.records for a loss on the splats' own channels (BASE of them) and on up to kFeatures features from `offset`.
template <int BASE, int F, bool kGeometry>
void differentiate_pass(Frame& frame, const ImageGradients& in, int offset, int threads) {
  const int64_t tiles = static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y;
  const FeatureSource source{in.feature_values, in.width, offset, std::min(kFeatures, in.width - offset)};
  frame.record_base = BASE, frame.record_features = F, frame.record_moments = kGeometry ? kMoments : 0;
  frame.records.resize(frame.pairs() * frame.record_size());
  parallel_for(tiles, threads, [&](int64_t tile) {
    if (frame.tile_begin[tile] == frame.tile_begin[tile + 1]) return;
    TileGradient<BASE + F> state;
    const TilePlace at = place_of(frame.view, int(tile));
    start_pixels<BASE, F, kGeometry>(frame, at, in, source, state);
    if (BASE && in.rgb) {
      prefetch_next_tile<false>(frame.view, int(tile), in.rgb, 3);
      prefetch_next_tile<false>(frame.view, int(tile), in.rgb_value, 3);
    }
    const StepMask live = start_transmittance(frame, at, state.T);
    differentiate_tile<BASE, F, kGeometry>(frame, int(tile), source, state, live);
  });
}

// Sum the records of every Gaussian: features are added to out [N, width] (may be null), moments to extra_geometry.
inline void reduce_feature_records(Frame& frame, int offset, int width, float* out, int threads) {
  const int size = frame.record_size(), moments = frame.record_moments, used = std::min(kFeatures, width - offset);
  const int64_t chunks = (frame.count + kChunk - 1) / kChunk;
  parallel_for(chunks, threads, [&](int64_t chunk) {
    for (int64_t i = chunk * kChunk; i < std::min(frame.count, (chunk + 1) * kChunk); ++i) {
      float total[kMoments + kFeatures] = {};
      const float* record = frame.records.data() + static_cast<size_t>(frame.first_slot[i]) * size;
      for (uint32_t n = frame.num_tiles[i]; n > 0; --n, record += size)
        for (int k = 0; k < size; ++k) total[k] += record[k];
      for (int k = 0; k < moments; ++k) frame.extra_geometry[i * kMoments + k] += total[k];
      for (int k = 0; out && k < used; ++k) out[i * width + offset + k] += total[moments + k];
    }
  });
}

// Without geometry: the gradient of the features alone, added to out [N, width].
inline void differentiate_features(Frame& frame, const ImageGradients& in, float* out, int threads) {
  for (int offset = 0; offset < in.width; offset += kFeatures) {
    with_feature_width(std::min(kFeatures, in.width - offset), [&](auto width) {
      constexpr int F = decltype(width)::value;
      if constexpr (F > 0) differentiate_pass<0, F, false>(frame, in, offset, threads);
    });
    reduce_feature_records(frame, offset, in.width, out, threads);
  }
}

// With geometry: features that did not fit beside the colours are summed first; afterwards frame.records holds everything
// else, for the projection's backward pass.
inline void differentiate_images(Frame& frame, const ImageGradients& in, float* out_features, int threads) {
  const int width = in.features ? in.width : 0;
  frame.has_extra_geometry = width > kFeatures;
  if (frame.has_extra_geometry) {
    float* extra = frame.extra_geometry.resize(frame.count * kMoments);
    std::fill(extra, extra + frame.count * kMoments, 0.0f);
  }
  for (int offset = kFeatures; offset < width; offset += kFeatures) {
    with_feature_width(std::min(kFeatures, width - offset), [&](auto features) {
      constexpr int F = decltype(features)::value;
      if constexpr (F > 0) differentiate_pass<0, F, true>(frame, in, offset, threads);
    });
    reduce_feature_records(frame, offset, width, out_features, threads);
  }
  with_feature_width(std::min(kFeatures, width), [&](auto features) {
    constexpr int F = decltype(features)::value;
    if (in.depth)
      differentiate_pass<4, F, true>(frame, in, 0, threads);
    else if (in.rgb || in.alpha)
      differentiate_pass<3, F, true>(frame, in, 0, threads);
    else if constexpr (F > 0)
      differentiate_pass<0, F, true>(frame, in, 0, threads);
  });
}

}  // namespace
}  // namespace ltgs
