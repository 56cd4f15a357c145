// AVX-512 with VNNI.
#include "avx512.h"

#include "instruction_sets.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")

namespace avx512 {

#include "multiply.h"

}  // namespace avx512

#pragma GCC pop_options
