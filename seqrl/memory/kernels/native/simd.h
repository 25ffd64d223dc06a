// Vectors of the processor's own length, by the compilers' vector extensions (GCC and Clang).
#pragma once

#include <cstdint>
#include <cstring>

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

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }

// A vector that stays in a register. For a few rows GCC would read it from memory again for each of them, which takes
// longer than the arithmetic.
inline Vec load_once(const float* p) {
  Vec v = load(p);
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

// e^x to 2 units in the last place. x = n ln 2 + r with |r| <= ln 2 / 2: the Taylor series of e^r to the seventh power,
// and n put into the exponent's bits. ln 2 comes in two parts, so that n ln 2 does not round away r's last digits.
// Beyond ±87 the results are those at ±87, which no gate can tell from 0 and infinity; NaN stays NaN.
inline Vec exponential(Vec x) {
  x = x > 87.0f ? all(87.0f) : x;
  x = x < -87.0f ? all(-87.0f) : x;
  const float round = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the mantissa
  const Vec shifted = x * 1.44269504f + round;
  const Vec n = shifted - round;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec sum = all(1.0f / 5040);
  for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) sum = sum * r + coefficient;
  IntVec bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127) << 23;
  Vec power;
  std::memcpy(&power, &bits, sizeof power);
  return sum * power;
}

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exponential(-x)); }
inline Vec tangent(Vec x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }
