// Front-to-back compositing of one 16x16 tile. The outer loop runs over Gaussians, the inner one over the steps each can
// reach; the pixels' state (4-13 KB) stays in the first-level cache.
#pragma once

#include "parallel.h"
#include "spans.h"

namespace ltgs {
namespace {

// Extra channels composited beside the splat's own: `width` floats per Gaussian, from `offset` on, `stride` floats apart.
struct FeatureSource {
  const float* data = nullptr;
  int64_t stride = 0;
  int offset = 0, width = 0;
};

// Call body(std::integral_constant<int, F>) with the smallest compiled number of channels that holds `width` of them.
template <class Body>
LTGS_INLINE void with_feature_width(int width, const Body& body) {
  if (width == 0) return body(std::integral_constant<int, 0>{});
  if (width == 1) return body(std::integral_constant<int, 1>{});
  if (width == 2) return body(std::integral_constant<int, 2>{});
  if (width <= 4) return body(std::integral_constant<int, 4>{});
  body(std::integral_constant<int, kFeatures>{});
}

// The first BASE channels come from the splat (r, g, b, depth), the next F from the features, padded with zeros.
template <int BASE, int F>
LTGS_INLINE void load_channels(const Splat& splat_, uint32_t gaussian, const FeatureSource& features, vf* channel) {
  for (int k = 0; k < BASE; ++k) channel[k] = splat(splat_.channel[k]);
  const float* values = F ? features.data + gaussian * features.stride + features.offset : nullptr;
  for (int k = 0; k < F; ++k) channel[BASE + k] = splat(k < features.width ? values[k] : 0.0f);
}

// What a tile's pixels have gathered, and scratch for the alphas of one Gaussian.
template <int SUMS>
struct TileSums {
  alignas(64) float alpha[kTilePixels], T[kTilePixels], sum[SUMS][kTilePixels];
};

// Composite the tile's entries into T and, channel by channel, the sums; returns the number of evaluated (Gaussian,
// pixel) pairs. With kWeights the plane after the channels collects the sum of the weights: 1 - T equals it, but has
// lost its digits where T is close to 1.
template <int BASE, int F, bool kWeights = false>
uint64_t composite_tile(const Frame& frame, int tile, const FeatureSource& features, TileSums<BASE + F + kWeights>& pixels) {
  constexpr int NCH = BASE + F;
  const TilePlace at = place_of(frame.view, tile);
  StepMask live = start_transmittance(frame, at, pixels.T);
  std::memset(pixels.sum, 0, sizeof pixels.sum);
  const Entry* entries = frame.entries.data();
  const vf lane_cols = lane_columns(), lane_rows = lane_row_numbers();
  uint64_t steps_done = 0;
  Batch batch;
  for (uint32_t from = frame.tile_begin[tile], end = frame.tile_begin[tile + 1]; from < end && live; from += kBatch) {
    const int count = static_cast<int>(std::min<uint32_t>(kBatch, end - from));
    load_batch(frame, entries + from, count, at, batch);
    for (int e = 0; e < count; ++e) {
      if (e % kLiveCheck == 0) live = without_dead(live, pixels.T);
      const StepMask steps = live & batch.steps[e];
      if (!steps) continue;
      const Splat& s = *batch.splat[e];
      vf channel[NCH];
      load_channels<BASE, F>(s, entries[from + e].gaussian, features, channel);
      steps_done += __builtin_popcountll(steps);
      write_alphas(s, at, steps, RowOffsets(s, at), lane_cols, lane_rows, pixels.alpha);
      for_each_run(steps, [&](int strip, int row, int length) {
        for (int i = (strip * kTile + row) * kCols, last = i + length * W; i < last; i += W) {
          const vf weight = composite_step(load(pixels.alpha + i), pixels.T + i).weight;
          for (int k = 0; k < NCH; ++k) store(pixels.sum[k] + i, fma(weight, channel[k], load(pixels.sum[k] + i)));
          if (kWeights) store(pixels.sum[NCH] + i, load(pixels.sum[NCH] + i) + weight);
        }
      });
    }
  }
  return steps_done * W;
}

struct Images {
  float *rgb, *alpha, *depth;  // [H, W, 3], [H, W], [H, W] or null
  float* features;             // [H, W, width] or null
  const float* feature_values; // [N, width]
  int width;
};

template <int BASE, int F>
void render_tile(Frame& frame, int tile, const FeatureSource& features, const Images& out) {
  constexpr bool kDepth = BASE == 4;
  TileSums<BASE + F + kDepth> pixels;
  frame.tile_pairs[tile] = composite_tile<BASE, F, kDepth>(frame, tile, features, pixels);
  const TilePlace at = place_of(frame.view, tile);
  prefetch_next_tile<true>(frame.view, tile, out.rgb, 3);
  prefetch_next_tile<true>(frame.view, tile, out.alpha, 1);
  prefetch_next_tile<true>(frame.view, tile, frame.transmittance.data(), 1);
  for_each_span(frame.view, at, [&](int pixel, int64_t to, int count) {
    write_rgb(pixels.sum[0] + pixel, kTilePixels, count, out.rgb + 3 * to);
    float *transmittance = frame.transmittance.data() + to, *alpha = out.alpha + to;
    for (int i = 0; i < count; ++i) transmittance[i] = std::fabs(pixels.T[pixel + i]);
    for (int i = 0; i < count; ++i) alpha[i] = 1.0f - std::fabs(pixels.T[pixel + i]);
    for (int i = 0; kDepth && i < count; ++i) {
      const float weight = pixels.sum[BASE + F][pixel + i], mean = weight > 0.0f ? pixels.sum[3][pixel + i] / weight : 0.0f;
      frame.weight_sum[to + i] = weight;
      frame.depth_mean[to + i] = out.depth[to + i] = mean;
    }
  });
  if constexpr (F > 0) write_planes(frame.view, at, pixels.sum[BASE], features.width, out.features, out.width, 0);
}

// The channels of a wide feature image that did not fit beside the colours.
inline void render_more_features(Frame& frame, int tile, const Images& out) {
  for (int offset = kFeatures; offset < out.width; offset += kFeatures) {
    const FeatureSource source{out.feature_values, out.width, offset, std::min(kFeatures, out.width - offset)};
    with_feature_width(source.width, [&](auto width) {
      constexpr int F = decltype(width)::value;
      if constexpr (F > 0) {
        TileSums<F> pixels;
        composite_tile<0, F>(frame, tile, source, pixels);
        write_planes(frame.view, place_of(frame.view, tile), pixels.sum[0], source.width, out.features, out.width, offset);
      }
    });
  }
}

inline void render_images(Frame& frame, const Images& out, int threads) {
  const int64_t tiles = static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y;
  const size_t pixels = static_cast<size_t>(frame.view.width) * frame.view.height;
  frame.transmittance.resize(pixels);
  frame.with_depth = out.depth != nullptr;
  if (frame.with_depth) frame.weight_sum.resize(pixels), frame.depth_mean.resize(pixels);
  frame.tile_pairs.resize(tiles);
  const FeatureSource features{out.feature_values, out.width, 0, std::min(kFeatures, out.width)};
  with_feature_width(features.width, [&](auto width) {
    constexpr int F = decltype(width)::value;
    parallel_for(tiles, threads, [&](int64_t tile) {
      if (out.depth)
        render_tile<4, F>(frame, int(tile), features, out);
      else
        render_tile<3, F>(frame, int(tile), features, out);
      if (out.width > kFeatures) render_more_features(frame, int(tile), out);
    });
  });
}

}  // namespace
}  // namespace ltgs
