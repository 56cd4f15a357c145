// y = x · Wᵀ with AVX-512 VNNI. W: panels of 16 rows, their levels as the dot product of bytes wants them. x: rounded
// to int8 for each group of columns, as ONNX Runtime's MatMulNBits does. What a row gives does not depend on other
// rows.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "formats.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")

namespace vnni {

constexpr int kPanel = 16;        // rows of W that a register holds
constexpr int kTile = 8;          // rows of x that share what was loaded of W
constexpr int kBlock = 16;        // rows of x that lie together
constexpr int kRowsAtOnce = 240;  // of x, so that they stay in the cache while panels pass
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

// Where the levels of a group lie: bytes, or nibbles and then a bit plane for each bit above them.
inline void place_levels(const Shape& shape, const uint8_t* levels, int lane, uint8_t* target) {
  const int fours = shape.group / 4, half = fours / 2;
  for (int column = 0; column < shape.group; column++) {
    const uint8_t level = levels[column];
    const int four = column / 4, byte = lane * 4 + column % 4;
    if (shape.bits == 8) {
      target[four * 64 + byte] = level;
      continue;
    }
    // The low nibbles of a register hold the group's first half, the high ones its second.
    target[four % half * 64 + byte] |= (level & 15) << (four < half ? 0 : 4);
    uint8_t* plane = target + half * 64 + four * 8;
    for (int bit = 4; bit < shape.bits; bit++, plane += fours * 8) plane[byte / 8] |= (level >> bit & 1) << (byte % 8);
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

template <int kGroup>
void round_row(const float* x, int zero, size_t at, Rounded& out) {
  for (int group = 0; group < out.groups; group++, x += kGroup, at += out.block) {
    const __m512 first = _mm512_loadu_ps(x), second = kGroup == 32 ? _mm512_loadu_ps(x + 16) : _mm512_setzero_ps();
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(first), _mm512_abs_ps(second)));
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
    const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
    auto* levels = reinterpret_cast<__m128i*>(&out.levels[at * kGroup]);
    _mm_storeu_si128(levels, _mm512_cvtsepi32_epi8(a));
    if (kGroup == 32) _mm_storeu_si128(levels + 1, _mm512_cvtsepi32_epi8(b));
    out.sums[at] = _mm512_reduce_add_ps(_mm512_add_ps(first, second));
    out.scales[at] = most / 127.0f + 0.0f * out.sums[at];  // what is no number stays none
    out.shifts[at] = -zero * _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
  }
}

inline void round_rows(const Weights& weights, const float* x, int from, int to, Rounded& out) {
  const auto round = weights.shape.group == 32 ? round_row<32> : round_row<16>;
  for (int row = from; row < to; row++) round(x + size_t(row) * weights.columns, weights.zero, out.at(row), out);
}

template <bool kHalf>
__m512 sixteen(const uint8_t* numbers) {
  if (kHalf) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers)));
  return _mm512_loadu_ps(numbers);
}

inline __mmask64 plane(const uint8_t* bits) {
  uint64_t value;
  std::memcpy(&value, bits, sizeof value);
  return _cvtu64_mask64(value);
}

template <size_t kAhead, size_t kBytes>
void prefetch(const uint8_t* w) {
  for (size_t i = 0; i < kBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(w + kAhead + i), _MM_HINT_T0);
}

// What the middle level stands for.
template <bool kHalf, bool kZeros>
__m512 offsets(const uint8_t* numbers, __m512 scale, __m512 zero) {
  if (kZeros) {
    const __m512i points = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(numbers)));
    return _mm512_mul_ps(scale, _mm512_sub_ps(zero, _mm512_cvtepi32_ps(points)));
  }
  const __m512 offset = sixteen<kHalf>(numbers);
  return kHalf ? _mm512_fmadd_ps(scale, zero, offset) : offset;
}

// What a kernel is compiled for.
template <int kBitsOf, int kGroupOf, bool kOffsetOf, bool kHalfOf, bool kCodebookOf = false, bool kZerosOf = false>
struct Kind {
  static constexpr int kBits = kBitsOf, kGroup = kGroupOf, kFours = kGroup / 4;
  static constexpr bool kOffset = kOffsetOf, kHalf = kHalfOf, kCodebook = kCodebookOf, kZeros = kZerosOf;
  static constexpr size_t kLevels = size_t(kPanel) * kGroup * kBits / 8, kScales = kPanel * (kHalf ? 2 : 4);
  static constexpr size_t kNumbers = kScales + (kZeros ? kPanel : kOffset ? kScales : 0);
};

template <typename Kind>
__m512i codebook_of(const Weights& weights) {
  if (!Kind::kCodebook) return _mm512_setzero_si512();
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights.shape.codebook)));
}

// Columns 4 · i to 4 · i + 4 of a group, of each row of a panel.
template <typename Kind>
__m512i level(const uint8_t* w, int i, __m512i codebook) {
  constexpr int kBits = Kind::kBits, kLoaded = Kind::kFours / 2;
  if (kBits == 8) return _mm512_loadu_si512(w + 64 * i);
  const __m512i loaded = _mm512_loadu_si512(w + 64 * (i % kLoaded));
  __m512i q = _mm512_and_si512(i < kLoaded ? loaded : _mm512_srli_epi16(loaded, 4), _mm512_set1_epi8(15));
  for (int bit = 4; bit < kBits; bit++) {
    const __mmask64 set = plane(w + 64 * kLoaded + 8 * (Kind::kFours * (bit - 4) + i));
    q = _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(char(1 << bit)));
  }
  return Kind::kCodebook ? _mm512_shuffle_epi8(codebook, q) : q;
}

// Rows `row` to `row + kRows` of x, all of a block, with one panel. Row after row within four columns, so that products
// do not wait for each other.
template <typename Kind, int kRows>
void tile(const Weights& weights, const Rounded& x, int row, int panel, float* y) {
  constexpr int kGroup = Kind::kGroup;
  constexpr size_t kBytes = Kind::kLevels + Kind::kNumbers;
  const int groups = weights.num_groups(), span = weights.shape.span;
  const uint8_t* w = weights.panel(panel);
  size_t at = x.at(row);
  __m512 sum[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) sum[r] = _mm512_setzero_ps();
  const __m512 zero = _mm512_set1_ps(float(weights.zero));
  const __m512i codebook = codebook_of<Kind>(weights);
  for (int group = 0; group < groups; w += Kind::kNumbers) {
    const uint8_t* numbers = w + span * Kind::kLevels;
    const __m512 scale = sixteen<Kind::kHalf>(numbers);
    const __m512 offset =
        Kind::kOffset ? offsets<Kind::kHalf, Kind::kZeros>(numbers + Kind::kScales, scale, zero) : scale;
    for (const int end = group + span; group < end; group++, w += Kind::kLevels, at += x.block) {
      prefetch<4 * kBytes, kBytes>(w);
      __m512i dot[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; r++) dot[r] = _mm512_set1_epi32(x.shifts[at + r]);
      const auto* fours = reinterpret_cast<const int32_t*>(&x.levels[at * kGroup]);
#pragma GCC unroll 8
      for (int i = 0; i < Kind::kFours; i++) {
        const __m512i q = level<Kind>(w, i, codebook);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++)
          dot[r] = _mm512_dpbusd_epi32(dot[r], q, _mm512_set1_epi32(fours[r * Kind::kFours + i]));
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; r++) {
        const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at + r]));
        sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), both, sum[r]);
        if (Kind::kOffset) sum[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.sums[at + r]), sum[r]);
      }
    }
  }
  const int first = panel * kPanel, lanes = std::min(kPanel, weights.rows - first);
  const auto mask = __mmask16((1u << lanes) - 1);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; r++) _mm512_mask_storeu_ps(y + size_t(row + r) * weights.rows + first, mask, sum[r]);
}

using Tile = void (*)(const Weights&, const Rounded&, int, int, float*);
using Tiles = Tile (*)(int rows);

template <typename Kind>
Tile tile_of(int rows) {
#define TILE(n) tile<Kind, n>
  static const Tile tiles[] = {TILE(1), TILE(2), TILE(3), TILE(4), TILE(5), TILE(6), TILE(7), TILE(8)};
#undef TILE
  return tiles[rows - 1];
}

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

// `from`: the first row of a block.
inline void multiply(const Weights& weights, const Rounded& x, int from, int to, int first, int last, float* y) {
  const Tiles tiles = visit_kind(weights.shape, [](auto kind) -> Tiles { return tile_of<decltype(kind)>; });
  for (int panel = first; panel < last; panel++)
    for (int row = from; row < to; row += kTile) {
      const int rows = std::min(kTile, to - row);
      tiles(rows)(weights, x, row, panel, y);
    }
}

}  // namespace vnni

#pragma GCC pop_options
