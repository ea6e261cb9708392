// The only question that must be answered before one of the kernel modules can be chosen: what this machine can run.
// A module of its own, built for the oldest machine, so that choosing loads no kernels that are then left unused.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

namespace {

std::string best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "avx512";
  if (__builtin_cpu_supports("x86-64-v3")) return "avx2";
#endif
  return "baseline";
}

}  // namespace

NB_MODULE(_cpu, m) { m.def("best_isa", &best_isa, "The widest instruction set this machine can run."); }
