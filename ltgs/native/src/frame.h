// What one rendered view keeps between its forward and its backward pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <mutex>
#include <vector>

#include "memory.h"

namespace ltgs {
namespace {

constexpr int kTile = 16;             // pixels; one row of a tile is one AVX-512 register
constexpr int kTilePixels = kTile * kTile;
constexpr int kBatch = 32;            // entries of a tile that are prepared together
constexpr int kChunk = 1024;          // Gaussians per parallel task: fixed, so sums do not depend on the thread count
constexpr int kChannels = 4;          // of a splat: r, g, b, depth
constexpr int kFeatures = 8;          // further channels composited in the same pass; wider ones take more passes
constexpr float kMaxAlpha = 0.999f;
constexpr float kMinTransmittance = 1e-4f;
constexpr float kMinAlpha = 1.0f / 255.0f;
constexpr float kLog2MinAlpha = -7.99435344f;
constexpr float kSlack = 2e-3f;       // pixels by which footprints are widened against rounding before the exact test
constexpr float kExponentScale = 0.72134752f;  // log2(e) / 2: turns a squared Mahalanobis distance into a power of two

struct View {
  float rotation[9], translation[3];  // cam_from_world
  float center[3];                    // camera centre in the world, -R^T t
  float fx, fy, cx, cy, near, far;
  float u_min, u_max, v_min, v_max;   // where the Jacobian stops following x/z, 30 % of half the field outside the image
  int width, height, tiles_x, tiles_y;
  int sh_degree;
  float blur, fitted_blur;  // px^2 added to the projected covariance (low-pass filter), and how much of it opacities go with
};

// A projected Gaussian, one cache line. Conic (a, b, c) and log_opacity are scaled so that
// alpha = 2^(log_opacity - (a dx^2 + 2 b dx dy + c dy^2)).
struct alignas(64) Splat {
  float x, y, b, c, log_opacity, det;
  float dx_bottom;        // dx (relative to the centre) where the ellipse reaches furthest down; mirrored upwards
  float a;
  float channel[kChannels];  // r, g, b, depth
  float inv_a;
  float dy_right;         // likewise dy where it reaches furthest right
  float x_extent, y_extent;
};
static_assert(sizeof(Splat) == 64, "a splat is one cache line");

struct Entry {
  uint32_t gaussian, slot;  // slot: index of this (Gaussian, tile) pair in Gaussian order
};

struct Parameters {
  const float *means, *quats, *log_scales, *opacity_logits, *sh;
  int64_t count;
  int bases;  // stored SH bases per channel
};

// Process CPU time of the stages of a view, in microseconds; the benchmark reports it.
enum Stage { kProject, kBin, kRaster, kRasterBackward, kUnproject, kStages };
constexpr const char* kStageNames[kStages] = {"us_project", "us_bin", "us_raster", "us_raster_backward", "us_unproject"};

class StageClock {
 public:
  explicit StageClock(int64_t* stages) : stages_(stages) {}
  void lap(Stage stage) {
    const std::clock_t now = std::clock();
    stages_[stage] += static_cast<int64_t>(now - at_) * (1000000 / CLOCKS_PER_SEC);
    at_ = now;
  }

 private:
  int64_t* stages_;
  std::clock_t at_ = std::clock();
};

struct Frame {
  View view{};
  int64_t count = 0;
  Buffer<Splat> splats;             // [N], written where num_tiles > 0
  Buffer<uint32_t> num_tiles;       // [N]
  Buffer<uint32_t> first_slot;      // [N]
  std::vector<std::vector<uint32_t>> chunk_tiles;  // per chunk of Gaussians: tile ids in Gaussian order
  Buffer<uint32_t> slot_tile;       // [E] the same, concatenated
  Buffer<uint32_t> order;           // [visible] by depth, front first
  Buffer<uint64_t> sort_a, sort_b;  // scratch of the depth sort
  Buffer<uint32_t> tile_begin;      // [tiles + 1]
  Buffer<Entry> entries;            // [E + padding] by tile, each tile front first
  Buffer<float> transmittance;      // [H, W] final T
  Buffer<float> weight_sum;         // [H, W] sum of w, when depth was asked for
  Buffer<float> depth_mean;         // [H, W] sum of w z / sum of w, likewise
  Buffer<float> records;            // [E, 6 + channels + features] gradient of every (Gaussian, tile) pair
  Buffer<float> extra_geometry;     // [N, 6] screen-space gradient contributed by further passes for wide features
  Buffer<uint64_t> tile_pairs;      // [tiles] evaluated (Gaussian, pixel) pairs
  Buffer<double> chunk_pose;        // [chunks, 15]
  Buffer<uint32_t> chunk_dropped;   // [chunks]
  Buffer<uint8_t> region;           // [H, W] pixels wanted, when a region was given
  Buffer<uint8_t> tile_wanted;      // [tiles] whether one of its pixels is
  bool has_extra_geometry = false, with_depth = false, has_region = false;
  int record_base = 0, record_features = 0, record_moments = 0;  // what a record holds: moments, own channels, features
  int record_size() const { return record_moments + record_base + record_features; }
  int64_t dropped = 0, visible = 0;
  size_t pairs() const { return slot_tile.size(); }  // E, the (Gaussian, tile) pairs
  int64_t stage_us[kStages] = {};
};

// Frames are recycled: a training loop then touches the same warm pages at every step.
class FramePool {
 public:
  std::unique_ptr<Frame> take() {
    const std::lock_guard<std::mutex> lock(guard_);
    if (idle_.empty()) return std::make_unique<Frame>();
    auto frame = std::move(idle_.back());
    idle_.pop_back();
    return frame;
  }
  void give(std::unique_ptr<Frame> frame) {
    const std::lock_guard<std::mutex> lock(guard_);
    if (idle_.size() < kKept) idle_.push_back(std::move(frame));
  }

 private:
  static constexpr size_t kKept = 2;
  std::mutex guard_;
  std::vector<std::unique_ptr<Frame>> idle_;
};

}  // namespace
}  // namespace ltgs
