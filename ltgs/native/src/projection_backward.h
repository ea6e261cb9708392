// From screen-space gradients back to the stored parameters and the camera pose, in Gaussian order.
#pragma once

#include "projection.h"
#include "raster_backward.h"

namespace ltgs {
namespace {

struct ParameterGradients {
  float *means, *quats, *log_scales, *opacity_logits, *sh;  // any may be null
  float* pose;                                              // [12] rows of [R | t], or null
  float* features;                                          // [N, feature_width], always added to, or null
  int feature_width;
  bool accumulate;                                          // add to what is there (several views) or overwrite
};

constexpr int kPoseTerms = 15;  // dL/dR (9), dL/dt (3), dL/d(camera centre) (3)

// Screen-space gradients of one block, one row per quantity.
struct BlockGradient {
  alignas(64) float moment[kMoments][W], channel[kChannels][W];
};

// Add up a Gaussian's records; for colours alone, with a size known to the compiler, in registers.
LTGS_INLINE void add_records(const float* record, uint32_t count, int size, float* total) {
  constexpr int kColours = kMoments + 3;
  if (size == kColours) {
    for (; count > 0; --count, record += kColours)
      for (int k = 0; k < kColours; ++k) total[k] += record[k];
    return;
  }
  for (; count > 0; --count, record += size)
    for (int k = 0; k < size; ++k) total[k] += record[k];
}

LTGS_INLINE void sum_records(const Frame& frame, int64_t base, unsigned visible, const ParameterGradients& out, BlockGradient& g) {
  std::memset(&g, 0, sizeof g);
  const int size = frame.record_size(), own = frame.record_base, features = std::min(frame.record_features, out.feature_width);
  for (unsigned left = visible; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    const int64_t i = base + lane;
    float total[kMoments + kChannels + kFeatures] = {};
    add_records(frame.records.data() + static_cast<size_t>(frame.first_slot[i]) * size, frame.num_tiles[i], size, total);
    if (out.features)
      for (int k = 0; k < features; ++k) out.features[i * out.feature_width + k] += total[kMoments + own + k];
    if (frame.has_extra_geometry)
      for (int k = 0; k < kMoments; ++k) total[k] += frame.extra_geometry[i * kMoments + k];
    for (int k = 0; k < kMoments; ++k) g.moment[k][lane] = total[k];
    for (int k = 0; k < own; ++k) g.channel[k][lane] = total[kMoments + k];
  }
}

struct BlockResult {
  vf mean[3], quat[4], log_scale[3], logit;
};

// dL/d(covariance), as h11, h12, h22 of the symmetric matrix, from the gradient of the conic Y = C^-1: H = -Y G Y.
LTGS_INLINE void covariance_gradient(const View& view, const Geometry& g, const vf* m, vf& h11, vf& h12, vf& h22) {
  const vf half = splat(0.5f), inv = splat(1.0f) / g.det;
  const vf a = g.c22 * inv, b = splat(0.0f) - g.c12 * inv, c = g.c11 * inv;
  const vf ga = splat(0.0f) - half * m[3], gb = splat(0.0f) - half * m[4], gc = splat(0.0f) - half * m[5];  // G, symmetric
  const vf p11 = a * ga + b * gb, p12 = a * gb + b * gc, p21 = b * ga + c * gb, p22 = b * gb + c * gc;
  h11 = splat(0.0f) - (p11 * a + p12 * b);
  h12 = splat(0.0f) - (p11 * b + p12 * c);
  h22 = splat(0.0f) - (p21 * b + p22 * c);
  if (view.fitted_blur >= view.blur) return;
  // The opacity factor sqrt(det0 / det) adds half the log-determinant gradients of both covariances.
  const vf weight = half * m[0], inv0 = splat(1.0f) / g.det0, more = splat(view.blur - view.fitted_blur);
  h11 += weight * ((g.c22 - more) * inv0 - a);
  h12 += weight * (splat(0.0f) - g.c12 * inv0 - b);
  h22 += weight * ((g.c11 - more) * inv0 - c);
}

LTGS_INLINE void quaternion_gradient(const Geometry& g, const vf* d, vf* out) {
  const vf two = splat(2.0f);
  const vf w = g.q[0], x = g.q[1], y = g.q[2], z = g.q[3];
  const vf dw = two * (x * (d[7] - d[5]) + y * (d[2] - d[6]) + z * (d[3] - d[1]));
  const vf dx = two * (y * (d[1] + d[3]) + z * (d[2] + d[6]) + w * (d[7] - d[5]) - two * x * (d[4] + d[8]));
  const vf dy = two * (x * (d[1] + d[3]) + z * (d[5] + d[7]) + w * (d[2] - d[6]) - two * y * (d[0] + d[8]));
  const vf dz = two * (x * (d[2] + d[6]) + y * (d[5] + d[7]) + w * (d[3] - d[1]) - two * z * (d[0] + d[4]));
  const vf radial = w * dw + x * dx + y * dy + z * dz;  // removed: the norm of a quaternion has no effect
  out[0] = (dw - radial * w) * g.inv_norm, out[1] = (dx - radial * x) * g.inv_norm;
  out[2] = (dy - radial * y) * g.inv_norm, out[3] = (dz - radial * z) * g.inv_norm;
}

// Gradients of means, rotations, scales and opacities of one block; pose (may be null) collects dL/dR and dL/dt.
LTGS_INLINE void unproject_block(const View& view, const ParameterBlock& in, const Geometry& g, const BlockGradient& up, vm visible,
                                 BlockResult& out, vf* pose) {
  vf m[kMoments];
  for (int k = 0; k < kMoments; ++k) m[k] = load(up.moment[k]);
  const vf inv = splat(1.0f) / g.det, fx = splat(view.fx), fy = splat(view.fy);
  const vf gx = (g.c22 * m[1] - g.c12 * m[2]) * inv, gy = (g.c11 * m[2] - g.c12 * m[1]) * inv;
  vf h11, h12, h22;
  covariance_gradient(view, g, m, h11, h12, h22);

  const vf jx = fx * g.rz, jy = fy * g.rz, two = splat(2.0f);
  vf g0[3], g1[3], gV[9];
  for (int j = 0; j < 3; ++j) {
    g0[j] = two * (h11 * g.r0[j] + h12 * g.r1[j]);
    g1[j] = two * (h22 * g.r1[j] + h12 * g.r0[j]);
    gV[j] = jx * g0[j], gV[3 + j] = jy * g1[j];
    gV[6 + j] = splat(0.0f) - (g.u_clamped * gV[j] + g.v_clamped * gV[3 + j]);
  }
  const vm u_free = less_equal(g.u - g.u_clamped, splat(0.0f)), u_free2 = less_equal(g.u_clamped - g.u, splat(0.0f));
  const vm v_free = less_equal(g.v - g.v_clamped, splat(0.0f)), v_free2 = less_equal(g.v_clamped - g.v, splat(0.0f));
  const vf gu = fx * gx - keep(both(u_free, u_free2), jx * dot3(g0, g.V + 6));
  const vf gv = fy * gy - keep(both(v_free, v_free2), jy * dot3(g1, g.V + 6));
  const vf g_rz = (dot3(g0, g.r0) + dot3(g1, g.r1)) * g.cam[2] + gu * g.cam[0] + gv * g.cam[1];
  const vf g_cam[3] = {keep(visible, gu * g.rz), keep(visible, gv * g.rz),
                       keep(visible, load(up.channel[3]) - g_rz * g.rz * g.rz)};

  vf gM[9], gR[9];
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j)
      gM[3 * i + j] = splat(view.rotation[i]) * gV[j] + splat(view.rotation[3 + i]) * gV[3 + j] +
                      splat(view.rotation[6 + i]) * gV[6 + j];
  for (int j = 0; j < 3; ++j) {
    out.log_scale[j] = gM[j] * g.M[j] + gM[3 + j] * g.M[3 + j] + gM[6 + j] * g.M[6 + j];
    for (int i = 0; i < 3; ++i) gR[3 * i + j] = gM[3 * i + j] * g.scale[j];
  }
  quaternion_gradient(g, gR, out.quat);
  for (int i = 0; i < 3; ++i)
    out.mean[i] = splat(view.rotation[i]) * g_cam[0] + splat(view.rotation[3 + i]) * g_cam[1] + splat(view.rotation[6 + i]) * g_cam[2];
  out.logit = m[0] * vexp(splat(0.0f) - in.logit) * g.opacity;
  if (!pose) return;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      const vf turned = dot3(gV + 3 * i, g.M + 3 * j);  // dL/dR_cam through V = R_cam M
      pose[3 * i + j] += keep(visible, g_cam[i] * in.mean[j] + turned);
    }
    pose[9 + i] += g_cam[i];
  }
}

// SH coefficients and, through the view direction, the means and the camera centre.
LTGS_INLINE void colour_backward(const Parameters& in, const Frame& frame, const ParameterBlock& block, int64_t base, unsigned visible,
                                 const BlockGradient& up, const ParameterGradients& out, vf* mean, vf* pose) {
  const int degree = frame.view.sh_degree, bases = (degree + 1) * (degree + 1);
  alignas(64) float basis[16][W], basis_gradient[16][W];
  vf d[3], inverse;
  view_directions(frame.view, block, d, inverse);
  sh_basis(d[0], d[1], d[2], degree, basis);
  const bool direction = degree > 0 && (out.means || pose);
  if (direction) std::memset(basis_gradient, 0, sizeof basis_gradient);
  for (; visible; visible &= visible - 1) {
    const int lane = __builtin_ctz(visible);
    const int64_t i = base + lane;
    const float* shown = frame.splats[i].channel;
    quad g = {0, 0, 0, 0};
    for (int c = 0; c < 3; ++c) g[c] = shown[c] > 0.0f ? up.channel[c][lane] : 0.0f;
    const float* sh = in.sh + i * in.bases * 3;
    if (direction)
      for (int k = 1; k < bases; ++k) basis_gradient[k][lane] = sh[3 * k] * g[0] + sh[3 * k + 1] * g[1] + sh[3 * k + 2] * g[2];
    if (!out.sh) continue;
    float* to = out.sh + i * in.bases * 3;
    for (int k = 0; k < in.bases; ++k) {
      const quad value = k < bases ? g * basis[k][lane] : quad{0, 0, 0, 0};
      if (out.accumulate)
        for (int c = 0; c < 3; ++c) to[3 * k + c] += value[c];
      else if (k + 1 < in.bases)
        store_quad(to + 3 * k, value);  // the fourth float is overwritten by the next basis
      else
        for (int c = 0; c < 3; ++c) to[3 * k + c] = value[c];
    }
  }
  if (!direction) return;
  vf g[3];
  sh_direction_gradient(d[0], d[1], d[2], degree, basis_gradient, g[0], g[1], g[2]);
  const vf radial = dot3(g, d);
  for (int i = 0; i < 3; ++i) {
    const vf along = finite_or_zero((g[i] - radial * d[i]) * inverse);
    mean[i] += along;
    if (pose) pose[12 + i] -= along;
  }
}

LTGS_INLINE void transpose_out(const vf* values, int64_t first, int lanes, int stride, unsigned visible, bool accumulate, float* out) {
  if (!out) return;
  alignas(64) float rows[4][W];
  for (int k = 0; k < stride; ++k) store(rows[k], values[k]);
  for (int lane = 0; lane < lanes; ++lane) {
    float* p = out + (first + lane) * stride;
    const bool seen = visible >> lane & 1u;
    for (int k = 0; k < stride; ++k) {
      const float value = seen ? rows[k][lane] : 0.0f;
      p[k] = accumulate ? p[k] + value : value;
    }
  }
}

inline void clear_invisible_sh(const Parameters& in, const ParameterGradients& out, int64_t base, int lanes, unsigned visible) {
  if (!out.sh || out.accumulate) return;
  const int64_t stride = static_cast<int64_t>(in.bases) * 3;
  for (int lane = 0; lane < lanes; ++lane)
    if (!(visible >> lane & 1u)) std::memset(out.sh + (base + lane) * stride, 0, stride * sizeof(float));
}

LTGS_INLINE void store_block(const ParameterGradients& out, const BlockResult& r, int64_t base, int lanes, unsigned visible) {
  transpose_out(r.mean, base, lanes, 3, visible, out.accumulate, out.means);
  transpose_out(r.quat, base, lanes, 4, visible, out.accumulate, out.quats);
  transpose_out(r.log_scale, base, lanes, 3, visible, out.accumulate, out.log_scales);
  transpose_out(&r.logit, base, lanes, 1, visible, out.accumulate, out.opacity_logits);
}

inline void unproject_chunk(const Parameters& in, const Frame& frame, int64_t first, int64_t last, const ParameterGradients& out,
                            double* pose_sums) {
  vf pose[kPoseTerms] = {};
  for (int64_t base = first; base < last; base += W) {
    const int lanes = static_cast<int>(std::min<int64_t>(W, last - base));
    unsigned visible = 0;
    alignas(64) float flag[W] = {};
    for (int lane = 0; lane < lanes; ++lane)
      if (frame.num_tiles[base + lane]) visible |= 1u << lane, flag[lane] = 1.0f;
    clear_invisible_sh(in, out, base, lanes, visible);
    BlockResult result{};
    if (visible) {
      BlockGradient up;
      sum_records(frame, base, visible, out, up);
      const ParameterBlock block = load_block(in, base, lanes);
      Geometry g;
      project_block(frame.view, block, g);
      unproject_block(frame.view, block, g, up, less(splat(0.0f), load(flag)), result, out.pose ? pose : nullptr);
      if (frame.record_base)
        colour_backward(in, frame, block, base, visible, up, out, result.mean, out.pose ? pose : nullptr);
      else
        clear_invisible_sh(in, out, base, lanes, 0u);
    }
    store_block(out, result, base, lanes, visible);
  }
  if (out.pose)
    for (int k = 0; k < kPoseTerms; ++k) pose_sums[k] = sum(pose[k]);
}

// The camera centre is -R^T t, so its gradient joins those of R and t.
inline void finish_pose(const View& view, const double* sums, float* pose) {
  for (int i = 0; i < 3; ++i) {
    double t = sums[9 + i];
    for (int j = 0; j < 3; ++j) {
      pose[4 * i + j] = static_cast<float>(sums[3 * i + j] - double(view.translation[i]) * sums[12 + j]);
      t -= double(view.rotation[3 * i + j]) * sums[12 + j];
    }
    pose[4 * i + 3] = static_cast<float>(t);
  }
}

inline void unproject(const Parameters& in, Frame& frame, const ParameterGradients& out, int threads) {
  const int64_t chunks = (in.count + kChunk - 1) / kChunk;
  double* pose = frame.chunk_pose.resize(chunks * kPoseTerms);
  parallel_for(chunks, threads, [&](int64_t chunk) {
    unproject_chunk(in, frame, chunk * kChunk, std::min(in.count, (chunk + 1) * kChunk), out, pose + chunk * kPoseTerms);
  });
  if (!out.pose) return;
  double total[kPoseTerms] = {};
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int k = 0; k < kPoseTerms; ++k) total[k] += pose[chunk * kPoseTerms + k];
  finish_pose(frame.view, total, out.pose);
}

}  // namespace
}  // namespace ltgs
