// y = x · Wᵀ with AMX, for blocks of many rows of x: the same bits as AVX-512's, since dot products of integers are
// exact and the rest is done in the same order.
#include "instruction_sets.h"

#ifdef HAS_AMX
#include <sys/syscall.h>
#include <unistd.h>

#include "avx512.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,amx-tile,amx-int8")

namespace avx512 {

#include "tiles.h"

}  // namespace avx512

namespace amx {

using namespace panels;

constexpr int kWorthUnpacking = 32;  // rows of x
constexpr int kGroupsAtOnce = 16;    // dot products of so many stay in the first cache

// Linux lends the tiles to processes that ask for them.
bool is_usable() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool usable = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                             syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return usable;
}

// GCC does not know what instructions for tiles read: it has to have written it.
inline void flush(const void* memory) { asm volatile("" : : "r"(memory) : "memory"); }

struct alignas(64) Config {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tile 0 holds dot products of a block of x and a panel, tile 1 x, tile 2 W.
struct Tiles {
  explicit Tiles(int group) {
    Config config;
    config.rows[0] = config.rows[1] = kBlock;
    config.rows[2] = uint8_t(group / 4);
    config.row_bytes[0] = config.row_bytes[2] = 64;
    config.row_bytes[1] = uint16_t(group);
    flush(&config);
    _tile_loadconfig(&config);
  }
  ~Tiles() { _tile_release(); }
};

struct alignas(64) Fours {
  int8_t levels[kPanel][4];
};

struct alignas(64) Numbers {
  float of[kPanel];
};

// A panel, unpacked: levels with the middle one at zero.
struct Panel {
  std::vector<Fours> fours;
  std::vector<Numbers> scales, offsets;
};

template <typename Kind>
void unpack(const Weights& weights, int index, Panel& out) {
  constexpr size_t kBytes = Kind::kLevels + Kind::kNumbers;
  const int groups = weights.num_groups(), span = weights.shape.span;
  out.fours.resize(size_t(groups) * Kind::kFours);
  out.scales.resize(groups);
  out.offsets.resize(groups);
  Fours* fours = out.fours.data();
  Numbers *scales = out.scales.data(), *offsets = out.offsets.data();
  const uint8_t* w = weights.panel(index);
  const __m512i middle = _mm512_set1_epi8(char(weights.zero)), codebook = avx512::codebook_of<Kind>(weights);
  const __m512 zero = _mm512_set1_ps(float(weights.zero));
  for (int group = 0; group < groups; w += Kind::kNumbers) {
    const uint8_t* numbers = w + span * Kind::kLevels;
    const __m512 scale = avx512::scales<Kind>(numbers, 0);
    const __m512 offset = avx512::offsets<Kind>(numbers, 0, scale, zero);
    for (const int end = group + span; group < end; group++, w += Kind::kLevels) {
      avx512::prefetch<4 * kBytes, kBytes>(w);
      _mm512_store_ps(scales++, scale);
      _mm512_store_ps(offsets++, offset);
#pragma GCC unroll 8
      for (int i = 0; i < Kind::kFours; i++)
        _mm512_store_si512(fours++, _mm512_sub_epi8(avx512::level<Kind>(w, i, codebook), middle));
    }
  }
}

// The block of x that begins with `row`. Tiles and floats take turns of several groups: side by side they take a tenth
// longer, as if floats had one port instead of two.
template <int kGroup, bool kOffset>
void multiply_block(const Weights& weights, const Panel& panel, const Rounded& x, int row, int index, float* y) {
  alignas(64) int32_t dots[kGroupsAtOnce][kBlock][kPanel];
  __m512 sum[kBlock];
#pragma GCC unroll 16
  for (int r = 0; r < kBlock; r++) sum[r] = _mm512_setzero_ps();
  size_t at = x.at(row);
  for (int begin = 0; begin < x.groups; begin += kGroupsAtOnce) {
    const int count = std::min(kGroupsAtOnce, x.groups - begin);
    for (int i = 0; i < count; i++) {
      _tile_zero(0);
      _tile_loadd(1, &x.levels[(at + i * x.block) * kGroup], kGroup);
      _tile_loadd(2, &panel.fours[(begin + i) * (kGroup / 4)], 64);
      _tile_dpbssd(0, 1, 2);
      _tile_stored(0, dots[i], 64);
    }
    for (int i = 0; i < count; i++, at += x.block) {
      const __m512 scale = _mm512_load_ps(panel.scales[begin + i].of);
      const __m512 offset = _mm512_load_ps(panel.offsets[begin + i].of);
#pragma GCC unroll 16
      for (int r = 0; r < kBlock; r++) {
        const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x.scales[at + r]));
        sum[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(dots[i][r])), both, sum[r]);
        if (kOffset) sum[r] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.sums[at + r]), sum[r]);
      }
    }
  }
  const int first = index * kPanel, lanes = std::min(kPanel, weights.rows - first);
  const auto mask = __mmask16((1u << lanes) - 1);
#pragma GCC unroll 16
  for (int r = 0; r < kBlock; r++) _mm512_mask_storeu_ps(y + size_t(row + r) * weights.rows + first, mask, sum[r]);
}

template <typename Kind>
void multiply_panels(const Weights& weights, const Rounded& x, int from, int to, int first, int last, float* y) {
  const Tiles tiles(Kind::kGroup);
  thread_local Panel panel;
  for (int index = first; index < last; index++) {
    unpack<Kind>(weights, index, panel);
    flush(panel.fours.data());
    for (int row = from; row < to; row += kBlock)
      multiply_block<Kind::kGroup, Kind::kOffset>(weights, panel, x, row, index, y);
  }
}

using Multiply = void (*)(const Weights&, const Rounded&, int, int, int, int, float*);

// As avx512::multiply.
void multiply(const Weights& weights, const Rounded& x, int from, int to, int first, int last, float* y) {
  const auto multiply_of = [](auto kind) -> Multiply { return multiply_panels<decltype(kind)>; };
  const int rest = to - from < kWorthUnpacking ? from : to - (to - from) % kBlock;
  if (from < rest) visit_kind(weights.shape, multiply_of)(weights, x, from, rest, first, last, y);
  if (rest < to) avx512::multiply(weights, x, rest, to, first, last, y);
}

}  // namespace amx

#pragma GCC pop_options

#endif
