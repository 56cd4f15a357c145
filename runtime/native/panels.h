// Both sides of y = x · Wᵀ, the same for all instruction sets. W: panels of 16 rows, their levels as the dot product of
// bytes wants them. x: rounded to int8 for each group of columns, as ONNX Runtime's MatMulNBits does.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "formats.h"

namespace panels {

constexpr int kPanel = 16;             // rows of W
constexpr int kRegister = 4 * kPanel;  // bytes: four columns of each row
constexpr int kBlock = 16;             // rows of x that lie together
constexpr int kRowsAtOnce = 240;       // of x, so that they stay in the cache while panels pass
constexpr int kLargestGroup = 32;

// `group`: columns that x is rounded in. `span`: groups that share numbers.
struct Shape {
  int bits, group, span;
  bool is_offset, is_half, has_zeros;
  const uint8_t* codebook;

  size_t levels() const { return size_t(kPanel) * group * bits / 8; }  // of one group of a panel
  size_t scales() const { return kPanel * (is_half ? 2 : 4); }
  size_t offsets() const { return has_zeros ? kPanel : is_offset ? scales() : 0; }
  size_t bytes() const { return span * levels() + scales() + offsets(); }  // of one span of a panel
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Span after span of each panel: levels of its groups, scales, then minima (halves), offsets (floats) or zero points
// (bytes).
struct Weights {
  Shape shape;
  int rows, columns, zero;
  std::unique_ptr<uint8_t, Free> panels;

  int num_groups() const { return columns / shape.group; }
  int num_panels() const { return (rows + kPanel - 1) / kPanel; }
  size_t panel_bytes() const { return num_groups() / shape.span * shape.bytes(); }
  uint8_t* panel(int index) const { return panels.get() + index * panel_bytes(); }
};

// Where the levels of a group lie: bytes, or nibbles and then a register of the bits above them.
inline void place_levels(const Shape& shape, const uint8_t* levels, int lane, uint8_t* target) {
  const int half = shape.group / 8, bits_above = shape.bits - 4;
  target += 4 * lane;
  const auto add = [](uint8_t* place, uint32_t four) {
    uint32_t there;
    std::memcpy(&there, place, sizeof there);
    there |= four;
    std::memcpy(place, &there, sizeof there);
  };
  for (int i = 0; i < shape.group / 4; i++) {
    uint32_t four;
    std::memcpy(&four, levels + 4 * i, sizeof four);
    if (shape.bits == 8) {
      add(target + i * kRegister, four);
      continue;
    }
    // The low nibbles of a register hold the group's first half, the high ones its second.
    add(target + i % half * kRegister, (four & 0x0f0f0f0f) << (i < half ? 0 : 4));
    if (bits_above) add(target + half * kRegister, (four >> 4 & 0x0f0f0f0f) << (i * bits_above));
  }
}

inline void place(const Weights& weights, const formats::Levels& from, int span, int lane, uint8_t* target) {
  const Shape& shape = weights.shape;
  for (int group = span * shape.span; group < (span + 1) * shape.span; group++, target += shape.levels())
    place_levels(shape, from.q + group * shape.group, lane, target);
  const bool has_minima = shape.is_offset && !shape.has_zeros;
  if (shape.is_half) {
    auto* halves = reinterpret_cast<uint16_t*>(target);
    halves[lane] = from.half_scale;
    if (has_minima) halves[kPanel + lane] = from.half_minimum;
  } else {
    auto* floats = reinterpret_cast<float*>(target);
    floats[lane] = from.scale[span];
    if (has_minima) floats[kPanel + lane] = from.minimum[span] + from.scale[span] * float(weights.zero);
  }
  if (shape.has_zeros) target[shape.scales() + lane] = from.zero;
}

inline void pack_panels(const formats::Format& format, const void* const* planes, const Weights& weights, int from,
                        int to) {
  const int blocks = weights.columns / format.columns, spans_a_block = format.columns / format.group;
  formats::Levels levels;
  for (int row = from * kPanel; row < std::min(to * kPanel, weights.rows); row++)
    for (int number = 0; number < blocks; number++) {
      formats::Block block{&format, {}};
      for (size_t i = 0; i < format.num_planes; i++) {
        const size_t before = (size_t(row) * blocks + number) * format.planes[i].bytes();
        block.planes[i] = static_cast<const uint8_t*>(planes[i]) + before;
      }
      format.read(block, levels);
      for (int span = 0; span < spans_a_block; span++) {
        const size_t before = size_t(number * spans_a_block + span) * weights.shape.bytes();
        place(weights, levels, span, row % kPanel, weights.panel(row / kPanel) + before);
      }
    }
}

// `threads`: that share the work.
inline Weights packed(const formats::Format& format, const void* const* planes, int rows, int columns, int threads) {
  const int group = std::min(format.group, kLargestGroup);
  const Shape shape{format.bits,      group,          format.group / group, format.is_offset, format.is_half,
                    format.has_zeros, format.codebook};
  Weights weights{shape, rows, columns, format.zero, nullptr};
  const int panels = weights.num_panels();
  const size_t size = panels * weights.panel_bytes();
  weights.panels.reset(static_cast<uint8_t*>(std::aligned_alloc(64, (size + 63) / 64 * 64)));
  if (!weights.panels) throw std::bad_alloc();
  std::memset(weights.panels.get(), 0, size);
  threads = std::min(threads, panels);
  std::vector<std::thread> others;
  others.reserve(threads);
  const auto share = [&](int index) {
    pack_panels(format, planes, weights, int(int64_t(panels) * index / threads),
                int(int64_t(panels) * (index + 1) / threads));
  };
  const auto start = [&](int index) {
    try {
      others.emplace_back(share, index);
    } catch (const std::system_error&) {  // no more threads are to be had
      share(index);
    }
  };
  for (int i = 1; i < threads; i++) start(i);
  share(0);
  for (std::thread& other : others) other.join();
  return weights;
}

// Rows of x: int8, and for each group its scale, its sum, and what the middle level takes off the dot product. Blocks
// of rows, group after group of each: what a tile reads lies together, wherever rows begin.
struct Rounded {
  int columns, groups, block;  // rows of a block
  std::vector<int8_t> levels;
  std::vector<float> scales, sums;
  std::vector<int32_t> shifts;

  void resize(int rows, int all_columns, int all_groups) {
    columns = all_columns;
    groups = all_groups;
    block = std::min(rows, kBlock);  // what one row has lies together, too
    const size_t most = size_t(rows + block - 1) / block * block;
    levels.resize(most * columns);
    scales.resize(most * groups);
    sums.resize(most * groups);
    shifts.resize(most * groups);
  }

  // Where the numbers of the first group of a row are. Those of the next one are `block` further.
  size_t at(int row) const { return size_t(row / block) * block * groups + row % block; }
};

// What a kernel is compiled for.
template <int kBitsOf, int kGroupOf, bool kOffsetOf, bool kHalfOf, bool kCodebookOf = false, bool kZerosOf = false>
struct Kind {
  static constexpr int kBits = kBitsOf, kGroup = kGroupOf, kFours = kGroup / 4;
  static constexpr bool kOffset = kOffsetOf, kHalf = kHalfOf, kCodebook = kCodebookOf, kZeros = kZerosOf;
  static constexpr size_t kLevels = size_t(kPanel) * kGroup * kBits / 8, kScales = kPanel * (kHalf ? 2 : 4);
  static constexpr size_t kNumbers = kScales + (kZeros ? kPanel : kOffset ? kScales : 0);
};

template <int kBits, int kGroup, typename Visit>
auto visit_integers(const Shape& shape, Visit visit) {
  if (shape.has_zeros)
    return shape.is_half ? visit(Kind<kBits, kGroup, true, true, false, true>{})
                         : visit(Kind<kBits, kGroup, true, false, false, true>{});
  return shape.is_half ? visit(Kind<kBits, kGroup, false, true>{}) : visit(Kind<kBits, kGroup, false, false>{});
}

// What `visit` makes of the kind of a shape.
template <typename Visit>
auto visit_kind(const Shape& shape, Visit visit) {
  if (shape.codebook)
    return shape.is_half ? visit(Kind<4, 32, false, true, true>{}) : visit(Kind<4, 32, false, false, true>{});
  if (shape.has_zeros || !shape.is_offset) {
    if (shape.bits == 4)
      return shape.group == 32 ? visit_integers<4, 32>(shape, visit) : visit_integers<4, 16>(shape, visit);
    if (shape.bits == 8)
      return shape.group == 32 ? visit_integers<8, 32>(shape, visit) : visit_integers<8, 16>(shape, visit);
    return shape.bits == 5 ? visit(Kind<5, 32, false, true>{}) : visit(Kind<6, 16, false, false>{});
  }
  if (shape.is_half) return shape.bits == 4 ? visit(Kind<4, 32, true, true>{}) : visit(Kind<5, 32, true, true>{});
  if (shape.group == 16) return visit(Kind<4, 16, true, false>{});
  return shape.bits == 4 ? visit(Kind<4, 32, true, false>{}) : visit(Kind<5, 32, true, false>{});
}

}  // namespace panels
