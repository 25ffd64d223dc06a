// One head of attention over whole conversations, forward and backward. Keys are sorted once, and a few queries at a
// time go past vectors of slots. Every sum is taken over its terms in order, so a row does not depend on the rows beside
// or behind it.
#pragma once

#include <cmath>

#include "products.h"

constexpr int64_t WIDTH = COLUMNS * VL;  // slots whose scores are computed at a time
constexpr int64_t BEYOND = 8;            // slots behind those that a query sees, whose weights are zeros too

inline const IntVec LANES = [] {
  IntVec lanes;
  for (int i = 0; i < VL; i++) lanes[i] = i;
  return lanes;
}();

// f<M>(start, rows) for a few rows at a time, of which the i-th stands at from + i · stride.
template <int MAX, typename F>
void few_rows(const float* from, int64_t stride, int64_t first, int64_t count, const F& f) {
  in_parts<MAX>(count - first, [&]<int M>(int64_t start) {
    const float* rows[M];
    for (int m = 0; m < M; m++) rows[m] = from + (first + start + m) * stride;
    f.template operator()<M>(first + start, rows);
  });
}

// One head. Query i of a run of rows sees the slots 0 … before + i.
template <int PARTS>
struct Head {
  static constexpr int64_t SIZE = PARTS * VL;
  static constexpr int MOST = std::max(max_rows<PARTS>, 1);
  const int64_t heads, slots, padded;
  const float scale = 1.0f / std::sqrt(float(SIZE));
  Array<float> queries, keys, values;  // [slots, SIZE]
  Array<float> keys_t, values_t;       // [padded / WIDTH][SIZE][WIDTH]
  Array<float> weights, slopes;        // [slots, padded]
  Array<float> d_keys, d_values;       // [slots, SIZE]

  Head(int64_t heads, int64_t slots, bool backward)
      : heads(heads), slots(slots), padded((slots + BEYOND + WIDTH - 1) / WIDTH * WIDTH),
        queries(slots * SIZE), keys(slots * SIZE), values(slots * SIZE), keys_t(padded * SIZE),
        weights(slots * padded) {
    std::fill(keys_t.begin(), keys_t.end(), 0.0f);
    if (!backward) return;
    values_t.resize(padded * SIZE), slopes.resize(slots * padded);
    d_keys.resize(slots * SIZE), d_values.resize(slots * SIZE);
    std::fill(values_t.begin(), values_t.end(), 0.0f);
  }

  int64_t stride() const { return 3 * heads * SIZE; }  // of rows of queries, keys and values

  // The next `count` rows: their keys and values go to the slots from `before` on. `bias` is added, if given.
  void take(const float* query, const float* bias, int64_t before, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
      float* const to[] = {queries.data() + i * SIZE, keys.data() + (before + i) * SIZE,
                           values.data() + (before + i) * SIZE};
      for (int part = 0; part < 3; part++) {
        const int64_t at = part * heads * SIZE;
        for (int64_t d = 0; d < SIZE; d += VL)
          store(to[part] + d, load(query + i * stride() + at + d) + (bias ? load(bias + at + d) : Vec{}));
      }
      const int64_t slot = (before + i) / WIDTH * SIZE * WIDTH + (before + i) % WIDTH;
      for (int64_t d = 0; d < SIZE; d++) keys_t[slot + d * WIDTH] = to[1][d];
      for (int64_t d = 0; d < SIZE && !values_t.empty(); d++) values_t[slot + d * WIDTH] = to[2][d];
    }
  }

  // out [count, padded] = rows × sorted, where a row sees the slot.
  void score(const float* from, int64_t step, int64_t before, int64_t count, const float* sorted, float* out) {
    for (int64_t n = 0; n < before + count; n += WIDTH)
      few_rows<max_rows<COLUMNS>>(from, step, std::max<int64_t>(n - before, 0), count,
                                  [&]<int M>(int64_t start, const float* const* rows) {
        Vec c[M][COLUMNS] = {};
        multiply(c, rows, SIZE, sorted + n * SIZE);
        for (int m = 0; m < M; m++)
          for (int v = 0; v < COLUMNS; v++) store(out + (start + m) * padded + n + v * VL, c[m][v]);
      });
  }

  // What is not seen gets the weight 0, as far as sums of a few rows go.
  static void hide(float* row, int64_t seen) {
    const int64_t last = (seen - 1) / VL * VL;
    const int32_t left = seen - last;
    store(row + last, LANES < left ? load(row + last) : Vec{});
    for (int64_t s = last + VL; s < seen + BEYOND; s += VL) store(row + s, Vec{});
  }

  // out(i) = Σ_s by[i, s] from[s], at out + i · step.
  void add_up(const float* by, const float* from, int64_t before, int64_t count, float* out, int64_t step) {
    few_rows<MOST>(by, padded, 0, count, [&]<int M>(int64_t start, const float* const* rows) {
      Vec c[M][PARTS] = {};
      multiply(c, rows, before + start + M, from);
      for (int m = 0; m < M; m++)
        for (int p = 0; p < PARTS; p++) store(out + (start + m) * step + p * VL, c[m][p]);
    });
  }

  // out[s] += Σ_i by[i, s] row(i), with row(i) at from + i · step.
  void add_back(const float* by, const float* from, int64_t step, int64_t before, int64_t count, float* out) {
    in_parts<MOST>(before + count, [&]<int M>(int64_t slot) {
      Vec c[M][PARTS] = {};
      for (int64_t i = std::max<int64_t>(slot - before, 0); i < count; i++) {
        const float *const a = by + i * padded + slot, *const row = from + i * step;
#pragma GCC unroll 8
        for (int p = 0; p < PARTS; p++) {
          const Vec part = load_once(row + p * VL);
#pragma GCC unroll 8
          for (int m = 0; m < M; m++) c[m][p] += a[m] * part;
        }
      }
      for (int m = 0; m < M; m++)
        for (int p = 0; p < PARTS; p++) {
          float* const to = out + (slot + m) * SIZE + p * VL;
          store(to, load(to) + c[m][p]);
        }
    });
  }

  // Of the rows taken last: out(i) = Σ_s softmax(scale · query(i) keyᵀ)_s value(s); `total` are the logarithms of the
  // softmax's sums.
  void forward(int64_t before, int64_t count, float* out, float* total) {
    score(queries.data(), SIZE, before, count, keys_t.data(), weights.data());
    for (int64_t i = 0; i < count; i++) {
      float* const row = weights.data() + i * padded;
      const int64_t seen = before + i + 1;
      float most = -INFINITY;
      Vec largest = all(most), sums = Vec{};
      int64_t s = 0;
      for (; s + VL <= seen; s += VL) largest = load(row + s) > largest ? load(row + s) : largest;
      for (; s < seen; s++) most = std::max(most, row[s]);
      most = std::max(most, largest_of(largest));
      for (s = 0; s < seen; s += VL) store(row + s, exponential((load(row + s) - most) * scale));
      hide(row, seen);
      for (s = 0; s < seen; s += VL) sums += load(row + s);
      const float sum = sum_of(sums);
      for (s = 0; s < seen; s += VL) store(row + s, load(row + s) * (1.0f / sum));
      total[i * heads] = most * scale + std::log(sum);
    }
    add_up(weights.data(), values.data(), before, count, out, heads * SIZE);
  }

  // From d_out the gradients of queries, and what they add to those of keys and values.
  void backward(int64_t before, int64_t count, const float* out, const float* total, const float* d_out,
                float* d_query) {
    const int64_t step = heads * SIZE;
    score(queries.data(), SIZE, before, count, keys_t.data(), weights.data());
    score(d_out, step, before, count, values_t.data(), slopes.data());
    for (int64_t i = 0; i < count; i++) {
      float *const weight = weights.data() + i * padded, *const slope = slopes.data() + i * padded;
      const int64_t seen = before + i + 1;
      Vec products = Vec{};
      for (int64_t d = 0; d < SIZE; d += VL) products += load(out + i * step + d) * load(d_out + i * step + d);
      const float mean = sum_of(products);
      for (int64_t s = 0; s < seen; s += VL) {
        const Vec w = exponential(load(weight + s) * scale - total[i * heads]);
        store(weight + s, w);
        store(slope + s, w * (load(slope + s) - mean) * scale);
      }
      hide(weight, seen), hide(slope, seen);
    }
    add_up(slopes.data(), keys.data(), before, count, d_query, stride());
    add_back(slopes.data(), queries.data(), SIZE, before, count, d_keys.data());
    add_back(weights.data(), d_out, step, before, count, d_values.data());
  }

  // Gradients of keys and values begin at zero, and are written to where they belong.
  void begin(int64_t before, int64_t count) {
    std::fill_n(d_keys.data() + before * SIZE, count * SIZE, 0.0f);
    std::fill_n(d_values.data() + before * SIZE, count * SIZE, 0.0f);
  }
  void give(float* d_query, int64_t before, int64_t count) const {
    for (int64_t i = 0; i < count; i++) {
      float* const d_key = d_query + i * stride() + heads * SIZE;
      std::memcpy(d_key, d_keys.data() + (before + i) * SIZE, SIZE * sizeof(float));
      std::memcpy(d_key + heads * SIZE, d_values.data() + (before + i) * SIZE, SIZE * sizeof(float));
    }
  }
};
