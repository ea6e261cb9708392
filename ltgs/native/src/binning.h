// Depth order and tile lists: one radix sort of the visible Gaussians, then a stable counting sort into tiles, so that
// no tile has to be sorted on its own.
#pragma once

#include <array>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "frame.h"

namespace ltgs {
namespace {

constexpr int kRadixBits = 11;
constexpr uint32_t kRadix = 1u << kRadixBits;

// Fill frame.order with the visible Gaussians, nearest first; equal depths keep Gaussian order.
inline void sort_by_depth(Frame& frame) {
  uint64_t* from = frame.sort_a.resize(frame.count);
  uint64_t* to = frame.sort_b.resize(frame.count);
  std::array<std::array<uint32_t, kRadix>, 3> histogram{};
  size_t n = 0;
  for (int64_t i = 0; i < frame.count; ++i) {
    if (!frame.num_tiles[i]) continue;
    uint32_t key;  // the bits of a positive float order like the float
    std::memcpy(&key, &frame.splats[i].channel[3], sizeof key);
    from[n++] = static_cast<uint64_t>(key) << 32 | static_cast<uint32_t>(i);
    for (int pass = 0; pass < 3; ++pass) ++histogram[pass][(key >> (pass * kRadixBits)) & (kRadix - 1)];
  }
  for (int pass = 0; pass < 3; ++pass) {
    uint32_t start = 0;
    for (uint32_t& bucket : histogram[pass]) start += std::exchange(bucket, start);
    const int shift = 32 + pass * kRadixBits;
    for (size_t j = 0; j < n; ++j) to[histogram[pass][(from[j] >> shift) & (kRadix - 1)]++] = from[j];
    std::swap(from, to);
  }
  uint32_t* order = frame.order.resize(n);
  for (size_t j = 0; j < n; ++j) order[j] = static_cast<uint32_t>(from[j]);
  frame.visible = static_cast<int64_t>(n);
}

// Number the (Gaussian, tile) pairs in Gaussian order; the backward pass writes one gradient record per number and
// sums them by streaming through memory.
inline void assign_slots(Frame& frame) {
  const int64_t chunks = (frame.count + kChunk - 1) / kChunk;
  uint64_t total = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) total += frame.chunk_tiles[chunk].size();
  if (total > 0xfffffff0ull) throw std::length_error("the Gaussians cover too many tiles (over 4e9 pairs)");
  uint32_t* slot_tile = frame.slot_tile.resize(total);
  uint32_t* first_slot = frame.first_slot.resize(frame.count);
  uint32_t next = 0;
  for (int64_t i = 0; i < frame.count; ++i) {
    first_slot[i] = next;
    next += frame.num_tiles[i];
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const auto& tiles = frame.chunk_tiles[chunk];
    slot_tile = std::copy(tiles.begin(), tiles.end(), slot_tile);
  }
}

inline void bin(Frame& frame) {
  assign_slots(frame);
  sort_by_depth(frame);
  const size_t tiles = static_cast<size_t>(frame.view.tiles_x) * frame.view.tiles_y, total = frame.slot_tile.size();
  uint32_t* begin = frame.tile_begin.resize(tiles + 1);
  std::fill(begin, begin + tiles + 1, 0u);
  for (size_t slot = 0; slot < total; ++slot) ++begin[frame.slot_tile[slot]];
  uint32_t start = 0;
  for (size_t tile = 0; tile <= tiles; ++tile) start += std::exchange(begin[tile], start);
  // A batch of padding after the last entry, so that the rasteriser may fetch ahead.
  Entry* entries = frame.entries.resize(total + 2 * kBatch);
  std::fill(entries + total, entries + total + 2 * kBatch, Entry{0, 0});
  for (size_t j = 0; j < frame.order.size(); ++j) {
    const uint32_t gaussian = frame.order[j], first = frame.first_slot[gaussian];
    for (uint32_t slot = first; slot < first + frame.num_tiles[gaussian]; ++slot)
      entries[begin[frame.slot_tile[slot]]++] = Entry{gaussian, slot};
  }
  // Filling moved every start to the next tile's start.
  for (size_t tile = tiles; tile > 0; --tile) begin[tile] = begin[tile - 1];
  begin[0] = 0;
}

}  // namespace
}  // namespace ltgs
