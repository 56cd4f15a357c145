// AVX2 without VNNI.
#include "eight.h"
#include "instruction_sets.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace avx2 {

using namespace eight;

// As many products as fit are added up in 16 bits. Levels of 8 bits are centred and give their signs to x; their middle
// is 128, so that nothing is to be shifted.
template <typename Kind>
struct Products {
  static constexpr bool kWide = Kind::kBits == 8 || Kind::kCodebook;
  static constexpr int kFit = INT16_MAX / (2 * 127 * ((1 << Kind::kBits) - 1));
  Ints sum, pairs;

  void start(int32_t shift) { sum = _mm256_set1_epi32(kWide ? 0 : shift); }

  void add(int i, Ints levels, int32_t four) {
    const Ints x = _mm256_set1_epi32(four);
    if (kWide) {
      const Ints centred = levels ^ _mm256_set1_epi8(char(128));
      return add_pairs(_mm256_maddubs_epi16(_mm256_abs_epi8(centred), _mm256_sign_epi8(x, centred)));
    }
    constexpr int kTogether = std::max(1, std::min(kFit, Kind::kFours));
    const Ints products = _mm256_maddubs_epi16(levels, x);
    pairs = i % kTogether ? _mm256_add_epi16(pairs, products) : products;
    asm("" : "+x"(pairs));  // or the compiler would add up later, and have no registers for that
    if ((i + 1) % kTogether == 0) add_pairs(pairs);
  }

  void add_pairs(Ints words) {
    sum = eight::add(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
    asm("" : "+x"(sum));
  }
};

#include "multiply.h"

}  // namespace avx2

#pragma GCC pop_options
