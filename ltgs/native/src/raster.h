// Front-to-back compositing of one 16x16 tile. The outer loop runs over Gaussians, the inner one over the steps each can
// reach; the pixels' state (4-13 KB) stays in the first-level cache.
#pragma once

#include "parallel.h"
#include "tile.h"

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

// Composite the tile's entries into T and, channel by channel, acc; returns the number of evaluated (Gaussian, pixel)
// pairs. With kWeights the plane after the channels collects the sum of the weights: 1 - T equals it, but has lost its
// digits where T is close to 1.
template <int BASE, int F, bool kWeights = false>
uint64_t composite_tile(const Frame& frame, int tile, const FeatureSource& features, float* T, float* acc) {
  constexpr int NCH = BASE + F;
  const TilePlace at = place_of(frame.view, tile);
  StepMask live = start_transmittance(frame, at, T);
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
      vf channel[NCH];
      load_channels<BASE, F>(*batch.splat[e], entries[from + e].gaussian, features, channel);
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
  float* features;             // [H, W, width] or null
  const float* feature_values; // [N, width]
  int width;
};

// `weights` is the plane of summed weights, null without depth.
inline void finish_pixels(Frame& frame, int tile, const float* T, const float* acc, const float* weights, const Images& out) {
  write_tile(frame.view, tile, acc, 3, out.rgb, 3, 0);
  for_each_pixel(frame.view, place_of(frame.view, tile), [&](int pixel, int64_t to) {
    const float t = std::fabs(T[pixel]);
    frame.transmittance[to] = t;
    out.alpha[to] = 1.0f - t;
    if (!weights) return;
    const float weight = weights[pixel], mean = weight > 0.0f ? acc[3 * kTilePixels + pixel] / weight : 0.0f;
    frame.weight_sum[to] = weight;
    frame.depth_mean[to] = out.depth[to] = mean;
  });
}

template <int BASE, int F>
void render_tile(Frame& frame, int tile, const FeatureSource& features, const Images& out) {
  constexpr int NCH = BASE + F;
  alignas(64) float T[kTilePixels], acc[(NCH + 1) * kTilePixels];
  frame.tile_pairs[tile] = composite_tile<BASE, F, BASE == 4>(frame, tile, features, T, acc);
  finish_pixels(frame, tile, T, acc, BASE == 4 ? acc + NCH * kTilePixels : nullptr, out);
  if (F) write_tile(frame.view, tile, acc + BASE * kTilePixels, features.width, out.features, out.width, 0);
}

// The channels of a wide feature image that did not fit beside the colours.
inline void render_more_features(Frame& frame, int tile, const Images& out) {
  alignas(64) float T[kTilePixels], acc[kFeatures * kTilePixels];
  for (int offset = kFeatures; offset < out.width; offset += kFeatures) {
    const FeatureSource source{out.feature_values, out.width, offset, std::min(kFeatures, out.width - offset)};
    with_feature_width(source.width, [&](auto width) { composite_tile<0, decltype(width)::value>(frame, tile, source, T, acc); });
    write_tile(frame.view, tile, acc, source.width, out.features, out.width, offset);
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
