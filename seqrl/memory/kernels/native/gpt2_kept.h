// Attention of one row over a column's keys and values, which lie in the order in which they are read.
#pragma once

#include "attention_head.h"
#include "gpt2.h"

inline int64_t whole_vectors(int64_t n) { return (n + VL - 1) / VL * VL; }

// f<PARTS>() for heads of so many vectors.
template <typename F>
void by_vectors(int64_t vectors, const F& f) {
  switch (vectors) {
#define CASE(PARTS) \
  case PARTS:       \
    return f.template operator()<PARTS>();
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
  }
}

// One column's keys and values in one layer: [slots / VL][heads][size][VL] and
// [slots][heads][size]. The first `common` slots, whole vectors of them, are those of another column, which began
// with the same tokens.
struct Kept {
  float *keys, *values;
  const float *common_keys, *common_values;
  int64_t common, heads, size;

  void write(int64_t slot, int64_t h, const float* key, const float* value) {
    float* const block = keys + (slot / VL * heads + h) * size * VL + slot % VL;
    if (slot % VL == 0) std::memset(block, 0, size * VL * sizeof(float));  // what is hidden must be a number
    for (int64_t d = 0; d < size; d++) block[d * VL] = key[d];
    std::memcpy(values + (slot * heads + h) * size, value, size * sizeof(float));
  }

  void read(int64_t slot, int64_t h, float* key, float* value) const {
    const float* const block = keys + (slot / VL * heads + h) * size * VL + slot % VL;
    for (int64_t d = 0; d < size; d++) key[d] = block[d * VL];
    std::memcpy(value, values + (slot * heads + h) * size, size * sizeof(float));
  }
};

// Scores of a row, and what they become.
struct KeptAttention {
  int64_t heads, stride;      // of a head's scores
  Array<float> scores;        // [heads, stride]
  Array<float> most, totals;  // of each head

  KeptAttention(int64_t heads, int64_t slots)
      : heads(heads), stride(whole_vectors(slots + 1)), scores(heads * stride), most(heads), totals(heads) {}

  // `scores` of `count` keys and of `own`, if given, and `most`, the largest of each head.
  void score(const float* query, const Kept& kept, const float* own, int64_t count) {
    const int64_t size = kept.size, whole = whole_vectors(count + 1);
    const float scale = 1.0f / std::sqrt(float(size));
    for (int64_t s = 0; s < count; s += VL) {
      const float* keys = (s < kept.common ? kept.common_keys : kept.keys) + s * heads * size;
      for (int64_t h = 0; h < heads; h++) {
        const float* const q = query + h * size;
        Vec sums[4] = {};  // four, so that no addition waits for the one before
        for (int64_t d = 0; d < size; d += 4, keys += 4 * VL)
#pragma GCC unroll 4
          for (int i = 0; i < 4; i++) sums[i] += q[d + i] * load(keys + i * VL);
        store(scores.data() + h * stride + s, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale);
      }
    }
    for (int64_t h = 0; h < heads; h++) {
      float* const row = scores.data() + h * stride;
      Vec product = Vec{};
      for (int64_t d = h * size; own && d < (h + 1) * size; d += VL) product += load(query + d) * load(own + d);
      // What is hidden becomes e^-87 beside a sum of 1 or more: nothing.
      const float hidden = -INFINITY, own_score = own ? sum_of(product) * scale : hidden;
      const int32_t left = count + VL - whole;
      const Vec last = load(row + whole - VL);
      store(row + whole - VL, LANES < left ? last : LANES == left ? all(own_score) : all(hidden));
      Vec largest = load(row);
      for (int64_t s = VL; s < whole; s += VL) largest = load(row + s) > largest ? load(row + s) : largest;
      most[h] = largest_of(largest);
    }
  }

  // Scores, and that of `own` if there is one, become e^(score − most), and `totals` their sums.
  void weigh(int64_t count) {
    for (int64_t h = 0; h < heads; h++) {
      float* const row = scores.data() + h * stride;
      Vec sums = Vec{};
      for (int64_t s = 0; s < whole_vectors(count + 1); s += VL) {
        const Vec weight = exponential(load(row + s) - most[h]);
        store(row + s, weight);
        sums += weight;
      }
      totals[h] = sum_of(sums);
    }
  }

  // out = Σ_s scores[s] values[s] / totals, `own` behind them if there is one.
  void add_up(const Kept& kept, const float* own, int64_t count, float* out) const {
    by_vectors(kept.size / VL, [&]<int PARTS>() { add_up<PARTS>(kept, own, count, out); });
  }

  // Of as many heads at a time as have eight vectors of sums.
  template <int PARTS>
  void add_up(const Kept& kept, const float* own, int64_t count, float* out) const {
    constexpr int64_t SIZE = PARTS * VL;
    in_parts<8 / PARTS>(heads, [&]<int M>(int64_t h) {
      const float* const weights = scores.data() + h * stride;
      Vec sum[M][PARTS] = {};
      const auto add = [&](int64_t s, const float* from) {
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
#pragma GCC unroll 8
          for (int p = 0; p < PARTS; p++) sum[m][p] += weights[m * stride + s] * load(from + m * SIZE + p * VL);
      };
      for (int64_t s = 0; s < kept.common; s++) add(s, kept.common_values + (s * heads + h) * SIZE);
      for (int64_t s = kept.common; s < count; s++) add(s, kept.values + (s * heads + h) * SIZE);
      if (own) add(count, own + h * SIZE);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int p = 0; p < PARTS; p++) store(out + (h + m) * SIZE + p * VL, sum[m][p] * (1.0f / totals[h + m]));
    });
  }
};
