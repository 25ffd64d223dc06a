// Vectors of the processor's own length, by the compilers' vector extensions (GCC and Clang).
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int VL = 16, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VL = 8, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VL = 4, REGISTERS = 32;
#else
constexpr int VL = 4, REGISTERS = 16;
#endif

typedef float Vec __attribute__((vector_size(4 * VL)));
typedef int32_t IntVec __attribute__((vector_size(4 * VL)));
typedef float UnalignedVec __attribute__((vector_size(4 * VL), aligned(4), may_alias));

// Arrays that begin with a cache line: a vector of 64 bytes that lies across two takes two reads.
template <typename T>
struct CacheLines {
  using value_type = T;
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  template <typename U>
  void construct(U*) {}  // not filled with zeros
  bool operator==(const CacheLines&) const = default;
};
template <typename T>
using Array = std::vector<T, CacheLines<T>>;

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

// A vector that stays in a register. For a few rows GCC would read it from memory again for each of them, which takes
// longer than the arithmetic.
inline Vec load_once(const void* p) {
  Vec v = load(static_cast<const float*>(p));
#if defined(__AVX__)
  asm("" : "+v"(v));
#elif defined(__SSE__)
  asm("" : "+x"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

inline Vec all(float x) { return x - Vec{}; }

inline float sum_of(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  float sum = 0.0f;
  for (int i = 0; i < VL; i++) sum += v[i];
  return sum;
#endif
}

inline float largest_of(Vec v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(v);
#else
  float largest = v[0];
  for (int i = 1; i < VL; i++) largest = v[i] > largest ? v[i] : largest;
  return largest;
#endif
}

// Row v's number k becomes row k's number v.
inline void transpose(Vec (&rows)[VL]) {
#if defined(__AVX512F__)
  const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#pragma GCC unroll 4
  for (int s = 1; s < VL; s *= 2) {  // squares of s rows and columns change places beside the diagonal
    const IntVec low = (lane & s) ? lane + VL - s : lane, high = (lane & s) ? lane + VL : lane + s;
#pragma GCC unroll 16
    for (int v = 0; v < VL; v++) {
      if (v & s) continue;
      const Vec a = rows[v], b = rows[v + s];
      rows[v] = _mm512_permutex2var_ps(a, (__m512i)low, b);
      rows[v + s] = _mm512_permutex2var_ps(a, (__m512i)high, b);
    }
  }
#else
  for (int v = 0; v < VL; v++)
    for (int k = 0; k < v; k++) {
      const float below = rows[v][k];
      rows[v][k] = rows[k][v];
      rows[k][v] = below;
    }
#endif
}

inline IntVec bits_of(Vec v) {
  IntVec bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}

inline Vec of_bits(IntVec bits) {
  Vec v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// What a product multiplies in bfloat16: two numbers, which lie side by side in the sum, where the processor is quicker
// with them. Else one as a float: Intel's (told by AVX512-FP16) takes twice as long for two pairs as for two vectors,
// and a tenth of that in tiles, where it has them.
enum class Rounded : uint32_t {};
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define TILES 1
#else
#define TILES 0
#endif
#if TILES || (defined(__AVX512BF16__) && !defined(__AVX512FP16__))
#define PAIRS 1
#else
#define PAIRS 0
#endif

// Numbers in an operand.
template <typename Operand>
constexpr int64_t NUMBERS = 1;
template <>
constexpr int64_t NUMBERS<Rounded> = PAIRS ? 2 : 1;

// Operands that hold `count` numbers.
template <typename Operand>
constexpr int64_t num_operands(int64_t count) {
  return (count + NUMBERS<Operand> - 1) / NUMBERS<Operand>;
}

inline Vec all(Rounded x) { return of_bits(IntVec{} + int32_t(x)); }

// c + a b, of numbers or of pairs.
template <typename Operand>
inline Vec multiply_add(Vec c, Vec a, Vec b) {
#if PAIRS
  if constexpr (NUMBERS<Operand> == 2) return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#endif
  return c + a * b;
}

// The nearest number of bfloat16, its bits.
inline uint32_t rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  return is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Operand k of the K numbers w[0], w[stride], …; beyond the last one stands 0.
template <typename Operand>
inline Operand operand(const float* w, int64_t stride, int64_t K, int64_t k) {
  if constexpr (std::is_same_v<Operand, float>) {
    return w[k * stride];
  } else if constexpr (PAIRS) {
    const uint32_t second = 2 * k + 1 < K ? rounded(w[(2 * k + 1) * stride]) : 0;
    return Operand(rounded(w[2 * k * stride]) | second << 16);
  } else {
    return Operand(rounded(w[k * stride]) << 16);
  }
}

// A row of K numbers as operands.
inline void round_row(const float* row, int64_t K, Rounded* to) {
  int64_t k = 0;
#if PAIRS
  for (; k + 2 * VL <= K; k += 2 * VL) {
    const __m512bh pairs = _mm512_cvtne2ps_pbh(load(row + k + VL), load(row + k));
    std::memcpy(to + k / 2, &pairs, sizeof pairs);
  }
#endif
  for (k /= NUMBERS<Rounded>; k < num_operands<Rounded>(K); k++) to[k] = operand<Rounded>(row, 1, K, k);
}

// N numbers of two rows side by side, in bfloat16.
inline void pair_rows(const float* first, const float* second, int64_t N, Rounded* to) {
  int64_t n = 0;
#if PAIRS
  for (; n + VL <= N; n += VL) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(load(first + n)));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(load(second + n)));
    const __m512i pairs = low | _mm512_slli_epi32(high, 16);
    std::memcpy(to + n, &pairs, sizeof pairs);
  }
#endif
  for (; n < N; n++) to[n] = Rounded(rounded(first[n]) | rounded(second[n]) << 16);
}

// e^x to 2 units in the last place. x = n ln 2 + r with |r| <= ln 2 / 2: the Taylor series of e^r to the seventh power,
// and n put into the exponent's bits. ln 2 comes in two parts, so that n ln 2 does not round away r's last digits.
// Beyond ±87 the results are those at ±87, which no gate can tell from 0 and infinity; NaN stays NaN.
inline Vec exponential(Vec x) {
#if defined(__AVX512F__)
  x = _mm512_max_ps(all(-87.0f), _mm512_min_ps(all(87.0f), x));  // NaN in the second place stays
#else
  x = x > 87.0f ? all(87.0f) : x;
  x = x < -87.0f ? all(-87.0f) : x;
#endif
  const float round = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the mantissa
  const Vec shifted = x * 1.44269504f + round;
  const Vec n = shifted - round;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec sum = all(1.0f / 5040);
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + coefficient;
  return sum * of_bits((bits_of(shifted) + 127) << 23);
}

// 1 / x to 1 unit in the last place, for x from 1 to 1e38.
inline Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
  const Vec y = _mm512_rcp14_ps(x);  // to 14 bits; a step of Newton's doubles them, in a third of a division's time
  return y + y * (1.0f - x * y);
#else
  return 1.0f / x;
#endif
}

inline Vec square_root(Vec x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#else
  for (int i = 0; i < VL; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

inline Vec sigmoid(Vec x) { return reciprocal(1.0f + exponential(-x)); }
inline Vec tangent(Vec x) { return 1.0f - 2.0f * reciprocal(1.0f + exponential(2.0f * x)); }

// x / 2 (1 + tanh(√(2/π) (x + 0.044715 x³))), which is x sigmoid(2 …).
inline Vec gelu(Vec x) { return x * sigmoid(x * (1.59576912f + 0.0713548163f * x * x)); }

inline Vec gelu_slope(Vec x) {
  const Vec s = sigmoid(x * (1.59576912f + 0.0713548163f * x * x));
  return s + x * s * (1.0f - s) * (1.59576912f + 0.214064449f * x * x);
}
