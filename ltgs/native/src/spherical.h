// Real spherical harmonics up to degree 3 in the basis of 3D Gaussian splatting.
#pragma once

#include "simd.h"

namespace ltgs {
namespace {

constexpr float kC0 = 0.28209479177387814f, kC1 = 0.4886025119029199f;
constexpr float kC2[5] = {1.0925484305920792f, -1.0925484305920792f, 0.31539156525252005f, -1.0925484305920792f,
                          0.5462742152960396f};
constexpr float kC3[7] = {-0.5900435899266435f, 2.890611442640554f,  -0.4570457994644658f, 0.3731763325901154f,
                          -0.4570457994644658f, 1.445305721320277f, -0.5900435899266435f};

// Basis values of W directions at once: basis[k][lane].
LTGS_INLINE void sh_basis(vf x, vf y, vf z, int degree, float (*basis)[W]) {
  store(basis[0], splat(kC0));
  if (degree < 1) return;
  store(basis[1], splat(-kC1) * y);
  store(basis[2], splat(kC1) * z);
  store(basis[3], splat(-kC1) * x);
  if (degree < 2) return;
  const vf xx = x * x, yy = y * y, zz = z * z, xy = x * y;
  const vf two = splat(2.0f), three = splat(3.0f), four = splat(4.0f);
  store(basis[4], splat(kC2[0]) * xy);
  store(basis[5], splat(kC2[1]) * y * z);
  store(basis[6], splat(kC2[2]) * (two * zz - xx - yy));
  store(basis[7], splat(kC2[3]) * x * z);
  store(basis[8], splat(kC2[4]) * (xx - yy));
  if (degree < 3) return;
  store(basis[9], splat(kC3[0]) * y * (three * xx - yy));
  store(basis[10], splat(kC3[1]) * xy * z);
  store(basis[11], splat(kC3[2]) * y * (four * zz - xx - yy));
  store(basis[12], splat(kC3[3]) * z * (two * zz - three * xx - three * yy));
  store(basis[13], splat(kC3[4]) * x * (four * zz - xx - yy));
  store(basis[14], splat(kC3[5]) * z * (xx - yy));
  store(basis[15], splat(kC3[6]) * x * (xx - three * yy));
}

// Gradient with respect to the direction, given g[k][lane] = dL/d basis_k; (x, y, z) are treated as independent.
LTGS_INLINE void sh_direction_gradient(vf x, vf y, vf z, int degree, const float (*g)[W], vf& gx, vf& gy, vf& gz) {
  gx = gy = gz = splat(0.0f);
  if (degree < 1) return;
  gy = splat(-kC1) * load(g[1]);
  gz = splat(kC1) * load(g[2]);
  gx = splat(-kC1) * load(g[3]);
  if (degree < 2) return;
  const vf two = splat(2.0f), three = splat(3.0f), four = splat(4.0f), six = splat(6.0f), eight = splat(8.0f);
  const vf h4 = splat(kC2[0]) * load(g[4]), h5 = splat(kC2[1]) * load(g[5]), h6 = splat(kC2[2]) * load(g[6]);
  const vf h7 = splat(kC2[3]) * load(g[7]), h8 = splat(kC2[4]) * load(g[8]);
  gx += h4 * y - two * x * h6 + h7 * z + two * x * h8;
  gy += h4 * x + h5 * z - two * y * h6 - two * y * h8;
  gz += h5 * y + four * z * h6 + h7 * x;
  if (degree < 3) return;
  const vf xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
  const vf h9 = splat(kC3[0]) * load(g[9]), h10 = splat(kC3[1]) * load(g[10]), h11 = splat(kC3[2]) * load(g[11]);
  const vf h12 = splat(kC3[3]) * load(g[12]), h13 = splat(kC3[4]) * load(g[13]), h14 = splat(kC3[5]) * load(g[14]);
  const vf h15 = splat(kC3[6]) * load(g[15]);
  gx += six * xy * h9 + yz * h10 - two * xy * h11 - six * xz * h12 + (four * zz - three * xx - yy) * h13 +
        two * xz * h14 + three * (xx - yy) * h15;
  gy += three * (xx - yy) * h9 + xz * h10 + (four * zz - xx - three * yy) * h11 - six * yz * h12 - two * xy * h13 -
        two * yz * h14 - six * xy * h15;
  gz += xy * h10 + eight * yz * h11 + (six * zz - three * xx - three * yy) * h12 + eight * xz * h13 + (xx - yy) * h14;
}

// sum_k basis_k sh_k for one Gaussian. Loading four floats per basis reads one float of the next basis, which is why
// the last basis is taken separately.
LTGS_INLINE quad sh_value(const float* sh, int bases, const float (*basis)[W], int lane) {
  quad even = {0, 0, 0, 0}, odd = {0, 0, 0, 0};
  int k = 0;
  for (; k + 2 < bases; k += 2) {
    even += load_quad(sh + 3 * k) * basis[k][lane];
    odd += load_quad(sh + 3 * k + 3) * basis[k + 1][lane];
  }
  for (; k < bases; ++k) even += quad{sh[3 * k], sh[3 * k + 1], sh[3 * k + 2], 0.0f} * basis[k][lane];
  return even + odd;
}

}  // namespace
}  // namespace ltgs
