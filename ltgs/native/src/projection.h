// From stored Gaussian parameters to screen-space splats and the list of tiles each one touches.
#pragma once

#include <algorithm>
#include <cmath>

#include "frame.h"
#include "parallel.h"
#include "spherical.h"

namespace ltgs {
namespace {

// W Gaussians with their parameters transposed into registers.
struct ParameterBlock {
  vf mean[3], quat[4], log_scale[3], logit;
};

LTGS_INLINE void transpose_in(const float* source, int64_t first, int lanes, int stride, vf* out) {
  alignas(64) float rows[4][W];
  for (int lane = 0; lane < W; ++lane) {
    const float* p = source + (first + (lane < lanes ? lane : lanes - 1)) * stride;  // the tail repeats the last one
    for (int k = 0; k < stride; ++k) rows[k][lane] = p[k];
  }
  for (int k = 0; k < stride; ++k) out[k] = load(rows[k]);
}

LTGS_INLINE ParameterBlock load_block(const Parameters& p, int64_t first, int lanes) {
  ParameterBlock block;
  transpose_in(p.means, first, lanes, 3, block.mean);
  transpose_in(p.quats, first, lanes, 4, block.quat);
  transpose_in(p.log_scales, first, lanes, 3, block.log_scale);
  transpose_in(p.opacity_logits, first, lanes, 1, &block.logit);
  return block;
}

// Everything the forward and the backward projection both need; both compute it with this one function.
struct Geometry {
  vf cam[3], rz, u, v, u_clamped, v_clamped;  // u = x/z before and after the clamp of the Jacobian
  vf inv_norm, q[4], rot[9], scale[3];        // unit quaternion, its rotation, standard deviations
  vf M[9], V[9];                              // M = rot * diag(scale), V = R_cam * M
  vf r0[3], r1[3];                            // rows of J V: cov2d = [r0.r0, r0.r1; r0.r1, r1.r1] + blur
  vf c11, c12, c22, det0, det;                // blurred covariance, determinant with the fitted and with the whole blur
  vf opacity, log_opacity;                    // natural logarithm, including the factor of the blur beyond the fitted one
};

LTGS_INLINE vf dot3(const vf* a, const vf* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

LTGS_INLINE void rotation_of(const vf* q, vf* r) {
  const vf one = splat(1.0f), two = splat(2.0f);
  const vf w = q[0], x = q[1], y = q[2], z = q[3];
  r[0] = one - two * (y * y + z * z), r[1] = two * (x * y - w * z), r[2] = two * (x * z + w * y);
  r[3] = two * (x * y + w * z), r[4] = one - two * (x * x + z * z), r[5] = two * (y * z - w * x);
  r[6] = two * (x * z - w * y), r[7] = two * (y * z + w * x), r[8] = one - two * (x * x + y * y);
}

LTGS_INLINE void project_block(const View& view, const ParameterBlock& in, Geometry& g) {
  const vf one = splat(1.0f), blur = splat(view.blur);
  for (int i = 0; i < 3; ++i)
    g.cam[i] = splat(view.rotation[3 * i]) * in.mean[0] + splat(view.rotation[3 * i + 1]) * in.mean[1] +
               splat(view.rotation[3 * i + 2]) * in.mean[2] + splat(view.translation[i]);
  g.rz = one / g.cam[2];
  g.u = g.cam[0] * g.rz, g.v = g.cam[1] * g.rz;
  g.u_clamped = vmin(vmax(g.u, splat(view.u_min)), splat(view.u_max));
  g.v_clamped = vmin(vmax(g.v, splat(view.v_min)), splat(view.v_max));

  g.inv_norm = one / vsqrt(in.quat[0] * in.quat[0] + dot3(in.quat + 1, in.quat + 1));
  for (int i = 0; i < 4; ++i) g.q[i] = in.quat[i] * g.inv_norm;
  rotation_of(g.q, g.rot);
  for (int j = 0; j < 3; ++j) g.scale[j] = vexp(in.log_scale[j]);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) g.M[3 * i + j] = g.rot[3 * i + j] * g.scale[j];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      g.V[3 * i + j] = splat(view.rotation[3 * i]) * g.M[j] + splat(view.rotation[3 * i + 1]) * g.M[3 + j] +
                       splat(view.rotation[3 * i + 2]) * g.M[6 + j];

  const vf jx = splat(view.fx) * g.rz, jy = splat(view.fy) * g.rz;
  for (int j = 0; j < 3; ++j) {
    g.r0[j] = jx * (g.V[j] - g.u_clamped * g.V[6 + j]);
    g.r1[j] = jy * (g.V[3 + j] - g.v_clamped * g.V[6 + j]);
  }
  const vf s11 = dot3(g.r0, g.r0), s22 = dot3(g.r1, g.r1);
  g.c11 = s11 + blur, g.c22 = s22 + blur, g.c12 = dot3(g.r0, g.r1);
  // |r0 x r1|^2 equals the unblurred determinant without the cancellation of s11 s22 - s12^2 for thin splats.
  const vf cross[3] = {g.r0[1] * g.r1[2] - g.r0[2] * g.r1[1], g.r0[2] * g.r1[0] - g.r0[0] * g.r1[2],
                       g.r0[0] * g.r1[1] - g.r0[1] * g.r1[0]};
  const vf sharp = dot3(cross, cross), fitted = splat(view.fitted_blur);
  g.det0 = sharp + fitted * (s11 + s22) + fitted * fitted;
  g.det = sharp + blur * (s11 + s22) + blur * blur;

  g.opacity = one / (one + vexp(splat(0.0f) - in.logit));
  vf visible_opacity = g.opacity;
  if (view.fitted_blur < view.blur) visible_opacity = visible_opacity * vsqrt(g.det0 / g.det);
  g.log_opacity = vlog(vmax(visible_opacity, splat(1e-30f)));
}

// Lanes whose parameters are finite, with a usable rotation and a covariance that float can hold.
LTGS_INLINE vm usable_lanes(const ParameterBlock& in, const Geometry& g) {
  const vf all = dot3(in.mean, in.mean) + dot3(in.log_scale, in.log_scale) + in.logit * splat(0.0f) + g.inv_norm +
                 g.det + g.c11 + g.c22 + g.u + g.v;
  return finite(all);
}

// Call emit(tile) for every tile in which the ellipse {power >= log2(1/255)} contains a pixel centre.
// Ranges are widened by kSlack pixels against rounding; the rasteriser applies the exact test per pixel.
// First and last pixel index whose centre lies in [low, high], clamped to the image before the conversion to int.
LTGS_INLINE int first_pixel(float low, int size) {
  return static_cast<int>(std::ceil(std::min(std::max(low - 0.5f - kSlack, 0.0f), float(size))));
}
LTGS_INLINE int last_pixel(float high, int size) {
  return static_cast<int>(std::floor(std::min(std::max(high - 0.5f + kSlack, -1.0f), float(size - 1))));
}

template <class Emit>
LTGS_INLINE void for_each_tile(const View& view, const Splat& s, const Emit& emit) {
  const float r2 = s.log_opacity - kLog2MinAlpha;
  const int first_row = first_pixel(s.y - s.y_extent, view.height);
  const int last_row = last_pixel(s.y + s.y_extent, view.height);
  for (int row = first_row; row <= last_row;) {
    const int ty = row / kTile, end = std::min(last_row, ty * kTile + kTile - 1);
    const float low = row + 0.5f - s.y, high = end + 0.5f - s.y;
    const auto edge = [&](float dy, float sign) {
      dy = std::min(std::max(dy, low), high);
      return (-s.b * dy + sign * std::sqrt(std::max(0.0f, s.a * r2 - s.det * dy * dy))) * s.inv_a;
    };
    const int first = first_pixel(s.x + edge(-s.dy_right, -1.0f), view.width);
    const int last = last_pixel(s.x + edge(s.dy_right, 1.0f), view.width);
    if (first <= last)
      for (int tx = first / kTile; tx <= last / kTile; ++tx) emit(static_cast<uint32_t>(ty * view.tiles_x + tx));
    row = end + 1;
  }
}

// Unit view directions of a block; returns the inverse distance as well because the backward pass needs it.
LTGS_INLINE void view_directions(const View& view, const ParameterBlock& in, vf* d, vf& inverse) {
  for (int i = 0; i < 3; ++i) d[i] = in.mean[i] - splat(view.center[i]);
  inverse = splat(1.0f) / vmax(vsqrt(dot3(d, d)), splat(1e-12f));
  for (int i = 0; i < 3; ++i) d[i] = d[i] * inverse;
}

// Splat fields of one block in lane order, ready to be picked lane by lane.
struct SplatLanes {
  alignas(64) float x[W], y[W], a[W], b[W], c[W], log_opacity[W], det[W], x_extent[W], y_extent[W], z[W];
};

LTGS_INLINE void splat_lanes(const View& view, const Geometry& g, SplatLanes& out) {
  const vf k = splat(kExponentScale), inv = k / g.det;
  const vf log2_opacity = g.log_opacity * splat(kLog2e);
  const vf reach = vmax(log2_opacity - splat(kLog2MinAlpha), splat(0.0f)) / k;  // squared Mahalanobis radius
  store(out.x, splat(view.fx) * g.u + splat(view.cx));
  store(out.y, splat(view.fy) * g.v + splat(view.cy));
  store(out.a, g.c22 * inv);
  store(out.b, splat(0.0f) - g.c12 * inv);
  store(out.c, g.c11 * inv);
  store(out.log_opacity, log2_opacity);
  store(out.det, k * inv);
  store(out.x_extent, vsqrt(reach * g.c11));
  store(out.y_extent, vsqrt(reach * g.c22));
  store(out.z, g.cam[2]);
}

LTGS_INLINE Splat pick_lane(const SplatLanes& lanes, int lane) {
  Splat s;
  s.x = lanes.x[lane], s.y = lanes.y[lane];
  s.a = lanes.a[lane], s.b = lanes.b[lane], s.c = lanes.c[lane];
  s.log_opacity = lanes.log_opacity[lane], s.det = lanes.det[lane], s.inv_a = 1.0f / s.a;
  s.x_extent = lanes.x_extent[lane], s.y_extent = lanes.y_extent[lane];
  s.dy_right = -s.b / s.c * s.x_extent;
  s.dx_bottom = -s.b * s.inv_a * s.y_extent;
  s.channel[3] = lanes.z[lane];
  return s;
}

// Remember the pixels that are wanted, [H, W]; null means all of them.
inline void set_region(Frame& frame, const uint8_t* region) {
  frame.has_region = region != nullptr;
  if (!region) return;
  const View& view = frame.view;
  const size_t pixels = static_cast<size_t>(view.width) * view.height, tiles = static_cast<size_t>(view.tiles_x) * view.tiles_y;
  std::copy(region, region + pixels, frame.region.resize(pixels));
  uint8_t* wanted = frame.tile_wanted.resize(tiles);
  std::fill(wanted, wanted + tiles, uint8_t{0});
  for (int y = 0; y < view.height; ++y)
    for (int x = 0; x < view.width; ++x)
      if (region[static_cast<size_t>(y) * view.width + x]) wanted[y / kTile * view.tiles_x + x / kTile] = 1;
}

// Project Gaussians [first, last) and append the tiles they touch, in Gaussian order.
inline void project_chunk(const Parameters& in, Frame& frame, int64_t first, int64_t last, std::vector<uint32_t>& tiles,
                          uint32_t& dropped) {
  const View& view = frame.view;
  const int bases = (view.sh_degree + 1) * (view.sh_degree + 1);
  const uint8_t* wanted = frame.has_region ? frame.tile_wanted.data() : nullptr;
  alignas(64) float basis[16][W];
  tiles.clear();
  dropped = 0;
  for (int64_t base = first; base < last; base += W) {
    const int lanes = static_cast<int>(std::min<int64_t>(W, last - base));
    const ParameterBlock block = load_block(in, base, lanes);
    Geometry g;
    project_block(view, block, g);
    const unsigned valid = (1u << lanes) - 1u;
    const unsigned in_range = bits(both(less_equal(splat(view.near), g.cam[2]), less_equal(g.cam[2], splat(view.far))));
    const unsigned usable = bits(usable_lanes(block, g));
    const unsigned out_of_range = bits(less(g.cam[2], splat(view.near))) | bits(less(splat(view.far), g.cam[2]));
    dropped += __builtin_popcount(valid & ~usable & ~out_of_range);
    SplatLanes fields;
    splat_lanes(view, g, fields);
    unsigned candidates = valid & in_range & usable & bits(less_equal(splat(kLog2MinAlpha), load(fields.log_opacity)));
    for (int lane = 0; lane < lanes; ++lane) frame.num_tiles[base + lane] = 0;
    bool have_basis = false;
    for (; candidates; candidates &= candidates - 1) {
      const int lane = __builtin_ctz(candidates);
      if (fields.x[lane] + fields.x_extent[lane] < 0.0f || fields.x[lane] - fields.x_extent[lane] > view.width) continue;
      Splat s = pick_lane(fields, lane);
      const size_t before = tiles.size();
      for_each_tile(view, s, [&](uint32_t tile) {
        if (!wanted || wanted[tile]) tiles.push_back(tile);
      });
      if (tiles.size() == before) continue;
      if (!have_basis) {
        vf d[3], inverse;
        view_directions(view, block, d, inverse);
        sh_basis(d[0], d[1], d[2], view.sh_degree, basis);
        have_basis = true;
      }
      const int64_t i = base + lane;
      const quad colour = sh_value(in.sh + i * in.bases * 3, bases, basis, lane);
      const float energy = colour[0] + colour[1] + colour[2];
      if (!(energy - energy == 0.0f)) {
        tiles.resize(before);
        ++dropped;
        continue;
      }
      for (int c = 0; c < 3; ++c) s.channel[c] = std::max(0.0f, colour[c] + 0.5f);
      frame.splats[i] = s;
      frame.num_tiles[i] = static_cast<uint32_t>(tiles.size() - before);
    }
  }
}

inline void project(const Parameters& in, Frame& frame, int threads) {
  const int64_t chunks = (in.count + kChunk - 1) / kChunk;
  frame.count = in.count;
  frame.splats.resize(in.count);
  frame.num_tiles.resize(in.count);
  frame.chunk_dropped.resize(chunks);
  frame.chunk_tiles.resize(std::max<size_t>(frame.chunk_tiles.size(), chunks));
  parallel_for(chunks, threads, [&](int64_t chunk) {
    project_chunk(in, frame, chunk * kChunk, std::min(in.count, (chunk + 1) * kChunk), frame.chunk_tiles[chunk],
                  frame.chunk_dropped[chunk]);
  });
  frame.dropped = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) frame.dropped += frame.chunk_dropped[chunk];
}

}  // namespace
}  // namespace ltgs
