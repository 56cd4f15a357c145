// AVX2 with VNNI.
#include "instruction_sets.h"

#ifdef HAS_AVXVNNI
#include "eight.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")

namespace avxvnni {

using namespace eight;

template <typename Kind>
struct Products {
  Ints sum;

  void start(int32_t shift) { sum = _mm256_set1_epi32(shift); }
  void add(int, Ints levels, int32_t four) { sum = _mm256_dpbusd_avx_epi32(sum, levels, _mm256_set1_epi32(four)); }
};

#include "multiply.h"

}  // namespace avxvnni

#pragma GCC pop_options

#endif
