// Attention over the rows that keys and values are made of, for a model of few heads that speaks.
//
//     query_h · key_s = (W_h query_h) · x_s + b_h · query_h,      Σ_s p_s value_s = (Σ_s p_s x_s) W'_h + b'_h Σ_s p_s
//
// A row is half as long as its key and value, so it comes from memory in half their time. Products with W and W' are as
// many as keys and values would have taken; of products with x_s there are as many times as many as heads.
#pragma once

#include "gpt2_kept.h"

// w[i · row_step + j · column_step] as [rows, columns].
inline Array<float> part_of(const float* w, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
  Array<float> part(rows * columns);
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) part[i * columns + j] = w[i * row_step + j * column_step];
  return part;
}

// A layer's weights in this form, from those of queries, keys and values side by side, [H, 3H].
struct RowWeights {
  Product query;                     // [H, H]
  std::vector<Product> to_rows;      // W of each head, [size, H]
  std::vector<Array<float>> values;  // W' of each head, [H, size]
  const float *query_bias, *key_bias, *value_bias;

  RowWeights() = default;
  RowWeights(const float* w, const float* bias, int64_t heads, int64_t size)
      : query(part_of(w, heads * size, heads * size, 3 * heads * size, 1).data(), heads * size, heads * size),
        query_bias(bias), key_bias(bias + heads * size), value_bias(bias + 2 * heads * size) {
    const int64_t H = heads * size;
    for (int64_t h = 0; h < heads; h++) {
      to_rows.emplace_back(part_of(w + H + h * size, size, H, 1, 3 * H).data(), size, H);
      values.push_back(part_of(w + 2 * H + h * size, H, size, 3 * H, 1));
    }
  }
};

// Keys and values of rows, [count, 2H].
struct KeysAndValues {
  int64_t H;
  const float* bias;
  Product product;

  KeysAndValues(const float* w, const float* bias, int64_t H)
      : H(H), bias(bias + H), product(part_of(w + H, H, 2 * H, 3 * H, 1).data(), H, 2 * H) {}

  Array<float> of(const float* rows, int64_t count) const {
    Array<float> out(count * 2 * H);
    fill_rows(out.data(), count, 2 * H, bias, 2 * H);
    product.operator()<true>(rows, count, out.data(), 2 * H);
    return out;
  }
};

// Lane l is what the lanes of of[l] add up to: vectors exchange lanes pair by pair, until each holds one sum a lane.
template <int STEP = 1>
inline Vec sums_of(const Vec* of) {
  if constexpr (STEP == VL) {
    return *of;
  } else {
    IntVec kept, moved;
    for (int i = 0; i < VL; i++) {
      const int other = i & STEP ? VL : 0;
      kept[i] = i + other, moved[i] = (i ^ STEP) + other;
    }
    Vec half[VL / STEP / 2];
#pragma GCC unroll 8
    for (int i = 0; i < VL / STEP / 2; i++)
      half[i] = __builtin_shuffle(of[2 * i], of[2 * i + 1], kept) + __builtin_shuffle(of[2 * i], of[2 * i + 1], moved);
    return sums_of<2 * STEP>(half);
  }
}

// out [columns, H] += sums W'_h + mass b'_h, of one head of PARTS vectors; a column's sums are `step` · H apart.
template <int PARTS>
void values_of(const RowWeights& layer, int64_t h, int64_t columns, const float* sums, const float* mass, int64_t step,
               float* out) {
  const int64_t H = layer.query.K, at = h * PARTS * VL;
  in_parts<std::clamp(max_rows<PARTS>, 1, 4)>(columns, [&]<int M>(int64_t start) {
    const float* rows[M];
    Vec c[M][PARTS];
    for (int m = 0; m < M; m++) {
      const int64_t column = start + m;
      rows[m] = sums + column * step * H;
      for (int p = 0; p < PARTS; p++)
        c[m][p] = load(out + column * H + at + p * VL) + mass[column * step] * load(layer.value_bias + at + p * VL);
    }
    multiply(c, rows, H, layer.values[h].data());
    for (int m = 0; m < M; m++)
      for (int p = 0; p < PARTS; p++) store(out + (start + m) * H + at + p * VL, c[m][p]);
  });
}

// Of a few columns, each of which looks at its own rows. HEADS divides a vector, whose lanes are those of a few slots.
template <int HEADS>
struct RowAttention {
  static constexpr int SLOTS = VL / HEADS;
  const Model& model;
  const float scale;
  Array<float> queries, sums, mass;  // [columns, HEADS, H], twice, and [columns, HEADS]
  Array<float> weights;              // [slots, HEADS]

  RowAttention(const Model& model, int64_t columns, int64_t slots)
      : model(model), scale(1.0f / std::sqrt(float(model.size))), queries(columns * HEADS * model.H),
        sums(columns * HEADS * model.H), mass(columns * HEADS), weights(slots * HEADS) {}

  // From `query` [columns, 3H], of which the first H are read, what rows are multiplied by.
  void begin(const RowWeights& layer, const float* query, int64_t columns) {
    for (int64_t h = 0; h < HEADS; h++)
      multiply_rows<false>(query + h * model.size, 3 * model.H, columns, layer.to_rows[h].parts[0],
                           [&](int64_t r) { return queries.data() + (r * HEADS + h) * model.H; });
  }

  // Scores of a column's rows [count, H], and `most` [HEADS], which becomes no less than any of them. What stands
  // behind the rows, up to a multiple of SLOTS, may be anything.
  void score(const RowWeights& layer, const float* query, const float* rows, int64_t column, int64_t count,
             float* most) {
    const int64_t H = model.H;
    Vec shift, largest = all(-INFINITY);
    for (int64_t h = 0; h < HEADS; h++) {
      Vec product = Vec{};
      for (int64_t d = h * model.size; d < (h + 1) * model.size; d += VL)
        product += load(query + d) * load(layer.key_bias + d);
      const float by_bias = sum_of(product) * scale;
      for (int lane = h; lane < VL; lane += HEADS) shift[lane] = by_bias;
    }
    for (int64_t s = 0; s < count; s += SLOTS, rows += SLOTS * H) {
      Vec c[VL] = {};
      for (int64_t d = 0; d < H; d += VL) {
        Vec by[HEADS];
#pragma GCC unroll 4
        for (int h = 0; h < HEADS; h++) by[h] = load_once(queries.data() + (column * HEADS + h) * H + d);
#pragma GCC unroll 16
        for (int slot = 0; slot < SLOTS; slot++) {
          const Vec row = load_once(rows + slot * H + d);
#pragma GCC unroll 4
          for (int h = 0; h < HEADS; h++) c[slot * HEADS + h] += row * by[h];
        }
      }
      const Vec scores = sums_of(c) * scale + shift;
      const int32_t left = (count - s) * HEADS;
      store(weights.data() + s * HEADS, LANES < left ? scores : all(-INFINITY));
      largest = load(weights.data() + s * HEADS) > largest ? load(weights.data() + s * HEADS) : largest;
    }
    for (int lane = 0; lane < VL; lane++) most[lane % HEADS] = std::max(most[lane % HEADS], largest[lane]);
  }

  // Scores become e^(score − most), whose sums are added to `total`.
  void weigh(int64_t column, int64_t count, const float* most, float* total) {
    Vec largest, sum = Vec{};
    for (int lane = 0; lane < VL; lane++) largest[lane] = most[lane % HEADS];
    for (int64_t i = 0; i < count * HEADS; i += VL) {
      const Vec weight = exponential(load(weights.data() + i) - largest);
      store(weights.data() + i, weight);
      sum += weight;
    }
    float* const own = mass.data() + column * HEADS;
    std::fill_n(own, HEADS, 0.0f);
    for (int lane = 0; lane < VL; lane++) own[lane % HEADS] += sum[lane];
    for (int h = 0; h < HEADS; h++) total[h] += own[h];
  }

  // Rows [count, H] are added up by their weights, whose totals are given.
  void add_up(const float* rows, int64_t column, int64_t count, const float* totals) {
    const int64_t H = model.H;
    float* const out = sums.data() + column * HEADS * H;
    in_parts<std::min((REGISTERS - 1) / (HEADS + 1), 4)>(H / VL, [&]<int N>(int64_t first) {
      Vec c[HEADS][N] = {};
      const float* from = rows + first * VL;
      for (int64_t s = 0; s < count; s++, from += H) {
        Vec row[N];
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) row[n] = load_once(from + n * VL);
#pragma GCC unroll 4
        for (int h = 0; h < HEADS; h++)
#pragma GCC unroll 16
          for (int n = 0; n < N; n++) c[h][n] += weights[s * HEADS + h] * row[n];
      }
#pragma GCC unroll 4
      for (int h = 0; h < HEADS; h++)
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) store(out + h * H + (first + n) * VL, c[h][n] * (1.0f / totals[h]));
    });
    for (int h = 0; h < HEADS; h++) mass[column * HEADS + h] /= totals[h];
  }

  // out [columns, H] += what was attended to. A head has 1, 2, 4 or 8 vectors.
  void end(const RowWeights& layer, int64_t columns, float* out) const {
    for (int64_t h = 0; h < HEADS; h++) {
      const float *const of = sums.data() + h * model.H, *const own = mass.data() + h;
      switch (model.size / VL) {
#define CASE(PARTS)                                           \
  case PARTS:                                                 \
    values_of<PARTS>(layer, h, columns, of, own, HEADS, out); \
    break;
        CASE(1) CASE(2) CASE(4) CASE(8)
#undef CASE
      }
    }
  }
};
