// Attention of a single token in each column, as in speaking, and GELU: what waits for memory more than it computes.
#include <algorithm>
#include <cmath>

#include "simd.h"

namespace {

inline void prefetch(const float* from) { __builtin_prefetch(from); }

// One head of one column: `query` looks at `count` keys and values, PARTS vectors each. `scores` has room for all of
// them in whole vectors. Meanwhile the next head's keys, which stand at `next`, come into the cache.
template <int PARTS>
void attend(const float* query, const float* keys, const float* values, const float* next, int64_t count,
            float* scores, float* out) {
  constexpr int64_t SIZE = PARTS * VL, LINE = 16;
  const float scale = 1.0f / std::sqrt(float(SIZE));
  Vec q[PARTS];
  for (int p = 0; p < PARTS; p++) q[p] = load(query + p * VL) * scale;
  float most = -INFINITY;
  for (int64_t s = 0; s < count; s++) {
    for (int64_t line = 0; line < SIZE; line += LINE) prefetch(values + s * SIZE + line);
    Vec product = q[0] * load(keys + s * SIZE);
    for (int p = 1; p < PARTS; p++) product += q[p] * load(keys + s * SIZE + p * VL);
    scores[s] = sum_of(product);
    most = std::max(most, scores[s]);
  }
  const int64_t whole = (count + VL - 1) / VL * VL;
  for (int64_t s = count; s < whole; s++) scores[s] = -INFINITY;  // e^-87 beside a sum of 1 or more: nothing
  Vec sums = Vec{};
  for (int64_t s = 0; s < whole; s += VL) {
    const Vec weight = exponential(load(scores + s) - most);
    store(scores + s, weight);
    sums += weight;
  }
  Vec even[PARTS] = {}, odd[PARTS] = {};  // two sums, so that no addition waits for the one before
  for (int64_t s = 0; s < count; s++) {
    for (int64_t line = 0; line < SIZE; line += LINE) prefetch(next + s * SIZE + line);
    for (int p = 0; p < PARTS; p++) (s % 2 ? odd : even)[p] += scores[s] * load(values + s * SIZE + p * VL);
  }
  const float inverse = 1.0f / sum_of(sums);
  for (int p = 0; p < PARTS; p++) store(out + p * VL, (even[p] + odd[p]) * inverse);
}

template <int PARTS>
void attend_all(int64_t B, int64_t heads, int64_t capacity, int64_t threads, const int64_t* place, const float* parts,
                float* kept, float* out) {
  constexpr int64_t SIZE = PARTS * VL;
  const int64_t rows = B * heads, block = capacity * SIZE;
  float *const keys = kept, *const values = kept + rows * block;
#pragma omp parallel num_threads(threads)
  {
    Array<float> scores((capacity + VL - 1) / VL * VL);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
      const int64_t b = row / heads, h = row % heads, slot = row * block + place[b] * SIZE;
      const float* const query = parts + (b * 3 * heads + h) * SIZE;
      std::memcpy(keys + slot, query + heads * SIZE, SIZE * sizeof(float));
      std::memcpy(values + slot, query + 2 * heads * SIZE, SIZE * sizeof(float));
      const int64_t next = std::min(row + 1, rows - 1) * block;
      attend<PARTS>(query, keys + row * block, values + row * block, keys + next, place[b] + 1, scores.data(),
                    out + row * SIZE);
    }
  }
}

}  // namespace

extern "C" {

// parts [B, 3, heads, size] are queries, keys and values; the latter go to `kept` [2, B, heads, capacity, size] at slot
// place[b], and the query looks at all slots up to there. out [B, heads, size]. `size` is 1 to 8 vectors.
void attend_next(int64_t B, int64_t heads, int64_t capacity, int64_t size, int64_t threads, const int64_t* place,
                 const float* parts, float* kept, float* out) {
  switch (size / VL) {
#define CASE(PARTS) \
  case PARTS:       \
    return attend_all<PARTS>(B, heads, capacity, threads, place, parts, kept, out);
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
  }
}

// `count` is a number of whole vectors.
void gelu_in_place(int64_t count, int64_t threads, float* x) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; i += VL) {
    store(x + i, gelu(load(x + i)));
  }
}

// y = gelu(x + bias) for `count` numbers in rows of `width`, both whole vectors; and from dy and x the gradient dx.
void gelu_forward(int64_t count, int64_t width, int64_t threads, const float* x, const float* bias, float* y) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < count; row += width)
    for (int64_t i = 0; i < width; i += VL) store(y + row + i, gelu(load(x + row + i) + load(bias + i)));
}

void gelu_backward(int64_t count, int64_t width, int64_t threads, const float* x, const float* bias, const float* dy,
                   float* dx) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < count; row += width)
    for (int64_t i = 0; i < width; i += VL)
      store(dx + row + i, load(dy + row + i) * gelu_slope(load(x + row + i) + load(bias + i)));
}
}
