// Chunked loops over threads. Results never depend on the number of threads: chunks have fixed bounds and every chunk
// writes only its own output; anything summed across chunks is summed afterwards in chunk order.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace ltgs {
namespace {

// Call body(i) for i in [0, count). An exception (out of memory) cannot leave an OpenMP region, so the first one is
// kept and thrown again on the calling thread.
template <class Body>
void parallel_for(int64_t count, int threads, const Body& body) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::exception_ptr failure;
  std::mutex guard;
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
#endif
  for (int64_t i = 0; i < count; ++i) {
    try {
      body(i);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace
}  // namespace ltgs
