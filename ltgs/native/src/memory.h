// Large blocks of memory that are used again at every step of a training loop, because the page faults of fresh memory
// cost more than the kernels' arithmetic.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ltgs {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

// Uninitialised memory, aligned to cache lines; from two huge pages on aligned to them, which saves page faults and the
// table walks of scattered access. To be released with std::free.
inline void* allocate_block(size_t bytes) {
  const bool huge = bytes >= 2 * kHugePage;
  const size_t unit = huge ? kHugePage : 64;
  bytes = (bytes + unit - 1) / unit * unit;
  void* memory = std::aligned_alloc(unit, bytes);
  if (!memory) throw std::bad_alloc();
#ifdef __linux__
  if (huge) madvise(memory, bytes, MADV_HUGEPAGE);  // advice only: where it is refused, small pages serve as well
#endif
  return memory;
}

struct FreeBlock {
  void operator()(void* p) const { std::free(p); }
};

// Memory that is never initialised and keeps its capacity.
template <class T>
class Buffer {
 public:
  T* resize(size_t size) {
    if (size > capacity_) {
      const size_t wanted = size + size / 4 + 64 / sizeof(T) + 1;
      data_.reset();  // first, so that the old and the new block never exist together
      capacity_ = size_ = 0;
      data_.reset(static_cast<T*>(allocate_block(wanted * sizeof(T))));
      capacity_ = wanted;
    }
    size_ = size;
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  size_t size() const { return size_; }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  std::unique_ptr<T, FreeBlock> data_;
  size_t size_ = 0, capacity_ = 0;
};

// A block that a tensor owns while it lives and that goes back to the pool afterwards.
struct Block {
  std::unique_ptr<void, FreeBlock> memory;
  size_t bytes = 0;
};

class BlockPool {
 public:
  BlockPool() { idle_.reserve(kKept); }  // so that giving back cannot fail

  // The best fitting idle block unless more than half of it would stay unused, otherwise a new one.
  Block take(size_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(guard_);
      auto best = idle_.end();
      for (auto it = idle_.begin(); it != idle_.end(); ++it)
        if (it->bytes >= bytes && it->bytes / 2 <= bytes && (best == idle_.end() || it->bytes < best->bytes)) best = it;
      if (best != idle_.end()) {
        Block found = std::move(*best);
        idle_.erase(best);
        return found;
      }
    }
    return {std::unique_ptr<void, FreeBlock>(allocate_block(bytes)), bytes};
  }
  // Keeps the most recent kKept blocks.
  void give(Block block) noexcept {
    const std::lock_guard<std::mutex> lock(guard_);
    if (idle_.size() == kKept) idle_.erase(idle_.begin());
    idle_.push_back(std::move(block));
  }

 private:
  static constexpr size_t kKept = 12;  // gradients of six tensors, four images, and two of another size
  std::mutex guard_;
  std::vector<Block> idle_;
};

}  // namespace
}  // namespace ltgs
