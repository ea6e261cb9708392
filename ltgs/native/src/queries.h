// Questions about a view that need its tile lists but no colours.
#pragma once

#include "raster.h"

namespace ltgs {
namespace {

// Per pixel the Gaussian with the largest weight T alpha, the nearer one of equals, or -1; both images are [H, W].
inline void top_contributor_tile(const Frame& frame, int tile, int32_t* ids, float* weights) {
  const TilePlace at = place_of(frame.view, tile);
  alignas(64) float alpha[kTilePixels], T[kTilePixels], best[kTilePixels];
  alignas(64) int32_t who[kTilePixels];
  StepMask live = start_transmittance(frame, at, T);
  std::fill(best, best + kTilePixels, 0.0f);
  std::fill(who, who + kTilePixels, -1);
  const Entry* entries = frame.entries.data();
  const vf lane_cols = lane_columns(), lane_rows = lane_row_numbers();
  Batch batch;
  for (uint32_t from = frame.tile_begin[tile], end = frame.tile_begin[tile + 1]; from < end && live; from += kBatch) {
    const int count = static_cast<int>(std::min<uint32_t>(kBatch, end - from));
    load_batch(frame, entries + from, count, at, batch);
    for (int e = 0; e < count; ++e) {
      if (e % kLiveCheck == 0) live = without_dead(live, T);
      const StepMask steps = live & batch.steps[e];
      const Splat& s = *batch.splat[e];
      const vf id = (vf)isplat(static_cast<int32_t>(entries[from + e].gaussian));
      write_alphas(s, at, steps, RowOffsets(s, at), lane_cols, lane_rows, alpha);
      for_each_run(steps, [&](int strip, int row, int length) {
        for (int i = (strip * kTile + row) * kCols, last = i + length * W; i < last; i += W) {
          const vf weight = composite_step(load(alpha + i), T + i).weight;
          float *leader = best + i, *name = reinterpret_cast<float*>(who + i);
          const vm better = less(load(leader), weight);
          store(leader, vmax(load(leader), weight));
          store(name, select(better, id, load(name)));
        }
      });
    }
  }
  for_each_span(frame.view, at, [&](int pixel, int64_t to, int count) {
    std::copy(who + pixel, who + pixel + count, ids + to);
    std::copy(best + pixel, best + pixel + count, weights + to);
  });
}

inline void top_contributors(const Frame& frame, int32_t* ids, float* weights, int threads) {
  parallel_for(static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y, threads,
               [&](int64_t tile) { top_contributor_tile(frame, int(tile), ids, weights); });
}

}  // namespace
}  // namespace ltgs
