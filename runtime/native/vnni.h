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
constexpr int kTile = 10;         // rows of x that share what was loaded of W
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

// Rows of x: int8, and for each group its scale, its sum, and what the middle level takes off the dot product.
struct Rounded {
  std::vector<int8_t> levels;
  std::vector<float> scales, sums;
  std::vector<int32_t> shifts;

  void resize(int rows, int columns, int groups) {
    levels.resize(size_t(rows) * columns);
    scales.resize(size_t(rows) * groups);
    sums.resize(size_t(rows) * groups);
    shifts.resize(size_t(rows) * groups);
  }
};

template <int kGroup>
void round_row(const float* x, int groups, int zero, int8_t* levels, float* scales, float* sums, int32_t* shifts) {
  for (int group = 0; group < groups; group++, x += kGroup, levels += kGroup) {
    const __m512 first = _mm512_loadu_ps(x), second = kGroup == 32 ? _mm512_loadu_ps(x + 16) : _mm512_setzero_ps();
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(first), _mm512_abs_ps(second)));
    const __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0.0f);
    const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
    const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(levels), _mm512_cvtsepi32_epi8(a));
    if (kGroup == 32) _mm_storeu_si128(reinterpret_cast<__m128i*>(levels + 16), _mm512_cvtsepi32_epi8(b));
    sums[group] = _mm512_reduce_add_ps(_mm512_add_ps(first, second));
    scales[group] = most / 127.0f + 0.0f * sums[group];  // what is no number stays none
    shifts[group] = -zero * _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
  }
}

inline void round_rows(const Weights& weights, const float* x, int from, int to, Rounded& out) {
  const int groups = weights.num_groups();
  const auto round = weights.shape.group == 32 ? round_row<32> : round_row<16>;
  for (int row = from; row < to; row++) {
    const size_t at = size_t(row) * groups;
    round(x + size_t(row) * weights.columns, groups, weights.zero, &out.levels[size_t(row) * weights.columns],
          &out.scales[at], &out.sums[at], &out.shifts[at]);
  }
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

// Rows `row` to `row + kRows` of x with one panel.
template <int kBits, int kGroup, bool kOffset, bool kHalf, bool kCodebook, bool kZeros, int kRows>
void tile(const Weights& weights, const Rounded& x, int row, int panel, float* y) {
  constexpr int kFours = kGroup / 4, kLoaded = kBits == 8 ? kFours : kFours / 2;
  constexpr size_t kLevels = size_t(kPanel) * kGroup * kBits / 8, kScales = kPanel * (kHalf ? 2 : 4);
  constexpr size_t kNumbers = kScales + (kZeros ? kPanel : kOffset ? kScales : 0), kBytes = kLevels + kNumbers;
  const int groups = weights.num_groups(), span = weights.shape.span;
  const uint8_t* w = weights.panel(panel);
  const int8_t* levels[kRows];
  size_t at[kRows];
  __m512 sum[kRows];
  for (int r = 0; r < kRows; r++) {
    levels[r] = &x.levels[size_t(row + r) * weights.columns];
    at[r] = size_t(row + r) * groups;
    sum[r] = _mm512_setzero_ps();
  }
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512 zero = _mm512_set1_ps(float(weights.zero));
  __m512i codebook;
  if (kCodebook)
    codebook = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights.shape.codebook)));
  for (int group = 0; group < groups; w += kNumbers) {
    const uint8_t* numbers = w + span * kLevels;
    const __m512 scale = sixteen<kHalf>(numbers);
    const __m512 offset = kOffset ? offsets<kHalf, kZeros>(numbers + kScales, scale, zero) : scale;
    for (const int end = group + span; group < end; group++, w += kLevels) {
      __m512i q[kFours];
      for (int i = 0; i < kLoaded; i++) {
        const __m512i loaded = _mm512_loadu_si512(w + 64 * i);
        if (kBits == 8) {
          q[i] = loaded;
        } else {
          q[i] = _mm512_and_si512(loaded, nibble);
          q[i + kLoaded] = _mm512_and_si512(_mm512_srli_epi16(loaded, 4), nibble);
        }
      }
      if (kBits != 8)
        for (int bit = 4; bit < kBits; bit++)
          for (int i = 0; i < kFours; i++) {
            const __mmask64 set = plane(w + 64 * kLoaded + 8 * (kFours * (bit - 4) + i));
            q[i] = _mm512_mask_add_epi8(q[i], set, q[i], _mm512_set1_epi8(char(1 << bit)));
          }
      if (kCodebook)
        for (__m512i& each : q) each = _mm512_shuffle_epi8(codebook, each);
      for (size_t ahead = 0; ahead < kBytes; ahead += 64)
        _mm_prefetch(reinterpret_cast<const char*>(w + 4 * kBytes + ahead), _MM_HINT_T0);
      for (int r = 0; r < kRows; r++) {
        const auto* fours = reinterpret_cast<const int32_t*>(levels[r] + size_t(group) * kGroup);
        __m512i dot = _mm512_set1_epi32(x.shifts[at[r] + group]);
        for (int i = 0; i < kFours; i++) dot = _mm512_dpbusd_epi32(dot, q[i], _mm512_set1_epi32(fours[i]));
        const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at[r] + group]));
        sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), both, sum[r]);
        if (kOffset) sum[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.sums[at[r] + group]), sum[r]);
      }
    }
  }
  const int first = panel * kPanel, lanes = std::min(kPanel, weights.rows - first);
  const auto mask = __mmask16((1u << lanes) - 1);
  for (int r = 0; r < kRows; r++) _mm512_mask_storeu_ps(y + size_t(row + r) * weights.rows + first, mask, sum[r]);
}

using Tile = void (*)(const Weights&, const Rounded&, int, int, float*);

template <int kBits, int kGroup, bool kOffset, bool kHalf, bool kCodebook = false, bool kZeros = false>
Tile tile_of(int rows) {
#define TILE(n) tile<kBits, kGroup, kOffset, kHalf, kCodebook, kZeros, n>
  static const Tile tiles[] = {TILE(1), TILE(2), TILE(3), TILE(4), TILE(5),
                               TILE(6), TILE(7), TILE(8), TILE(9), TILE(10)};
#undef TILE
  return tiles[rows - 1];
}

using Tiles = Tile (*)(int rows);

template <int kBits, int kGroup>
Tiles integer_tiles(const Shape& shape) {
  if (shape.has_zeros)
    return shape.is_half ? tile_of<kBits, kGroup, true, true, false, true>
                         : tile_of<kBits, kGroup, true, false, false, true>;
  return shape.is_half ? tile_of<kBits, kGroup, false, true> : tile_of<kBits, kGroup, false, false>;
}

inline Tiles tiles_of(const Shape& shape) {
  if (shape.codebook) return shape.is_half ? tile_of<4, 32, false, true, true> : tile_of<4, 32, false, false, true>;
  if (shape.has_zeros || !shape.is_offset) {
    if (shape.bits == 4) return shape.group == 32 ? integer_tiles<4, 32>(shape) : integer_tiles<4, 16>(shape);
    if (shape.bits == 8) return shape.group == 32 ? integer_tiles<8, 32>(shape) : integer_tiles<8, 16>(shape);
    return shape.bits == 5 ? tile_of<5, 32, false, true> : tile_of<6, 16, false, false>;
  }
  if (shape.is_half) return shape.bits == 4 ? tile_of<4, 32, true, true> : tile_of<5, 32, true, true>;
  if (shape.group == 16) return tile_of<4, 16, true, false>;
  return shape.bits == 4 ? tile_of<4, 32, true, false> : tile_of<5, 32, true, false>;
}

inline void multiply(const Weights& weights, const Rounded& x, int from, int to, int first, int last, float* y) {
  const Tiles tiles = tiles_of(weights.shape);
  for (int panel = first; panel < last; panel++)
    for (int row = from; row < to; row += kTile) {
      const int rows = std::min(kTile, to - row);
      tiles(rows)(weights, x, row, panel, y);
    }
}

}  // namespace vnni

#pragma GCC pop_options
