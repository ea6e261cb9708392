// Questions about a view that need its tile lists but no colours.
#pragma once

#include "raster.h"

namespace ltgs {
namespace {

// Per pixel the Gaussian with the largest weight T alpha, the nearer one of equals, or -1; both images are [H, W].
inline void top_contributor_tile(const Frame& frame, int tile, int32_t* ids, float* weights) {
  const TilePlace at = place_of(frame.view, tile);
  alignas(64) float T[kTilePixels], best[kTilePixels];
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
      const vf id = (vf)isplat(static_cast<int32_t>(entries[from + e].gaussian));
      for_each_strip(live & batch.steps[e], [&](int strip, StepMask left) {
        const StripPower power(*batch.splat[e], at, strip, lane_cols, lane_rows);
        vm fresh = none();
        for (StepMask todo = left; todo; todo &= todo - 1) {
          const int bit = __builtin_ctzll(todo);
          const Composited c = composite_step(power.at_dy(power.dy(bit)), T + bit * kCols);
          float *leader = best + bit * kCols, *name = reinterpret_cast<float*>(who + bit * kCols);
          const vm better = less(load(leader), c.weight);
          store(leader, vmax(load(leader), c.weight));
          store(name, select(better, id, load(name)));
          fresh = either(fresh, c.fresh);
        }
        if (any(fresh)) live = without_dead(live, left, T);
      });
    }
  }
  for_each_pixel(frame.view, at, [&](int pixel, int64_t to) { ids[to] = who[pixel], weights[to] = best[pixel]; });
}

inline void top_contributors(const Frame& frame, int32_t* ids, float* weights, int threads) {
  parallel_for(static_cast<int64_t>(frame.view.tiles_x) * frame.view.tiles_y, threads,
               [&](int64_t tile) { top_contributor_tile(frame, int(tile), ids, weights); });
}

}  // namespace
}  // namespace ltgs
