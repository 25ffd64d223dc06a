// Gradients of weights: sums, over rows, of outer products of what was multiplied and of a gradient.
#pragma once

#include "products.h"

// out [K, N] += Σ_r a[r]ᵀ d_r for rows d_r = d + r · stride of N operands, whole vectors. Four rows a turn and no branches
// in between: counting and jumping go through ports that multiply, too.
template <typename Operand>
void add_outer_products(const Operand* const* a, int64_t K, const Operand* d, int64_t stride, int64_t N, int64_t count,
                        float* out) {
  const auto columns_from = [&]<int V>(int64_t n) {
    in_parts<max_rows<COLUMNS>>(K, [&]<int M>(int64_t k) {
      Vec c[M][V] = {};
      const Operand* d_r = d + n;
#pragma GCC unroll 4
      for (int64_t r = 0; r < count; r++, d_r += stride) {
        const Operand* const a_r = a[r] + k;
        Vec columns[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) columns[v] = load_once(d_r + v * VL);
#pragma GCC unroll 8
        for (int m = 0; m < M; m++) {
          const Vec a_rm = all(a_r[m]);
#pragma GCC unroll 8
          for (int v = 0; v < V; v++) c[m][v] = multiply_add<Operand>(c[m][v], a_rm, columns[v]);
        }
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) {
          float* const to = out + (k + m) * N + n + v * VL;
          store(to, load(to) + c[m][v]);
        }
    });
  };
  for (int64_t n = 0; n < N; n += COLUMNS * VL)
    call_for<COLUMNS>(std::min<int64_t>(COLUMNS, (N - n) / VL), n, columns_from);
}

// Row v's operand k, of VL rows that stand `stride` from each other, becomes row k's operand v.
inline void transpose_square(const Rounded* from, int64_t stride, Rounded* to, int64_t to_stride) {
  Vec rows[VL];
  for (int v = 0; v < VL; v++) std::memcpy(rows + v, from + v * stride, sizeof(Vec));
  transpose(rows);
  for (int v = 0; v < VL; v++) std::memcpy(to + v * to_stride, rows + v, sizeof(Vec));
}

// Pairs that `count` rows make, with none left over in a tile.
inline int64_t num_pairs(int64_t count) {
  const int64_t pairs = num_operands<Rounded>(count);
  return TILES ? (pairs + TILE - 1) / TILE * TILE : pairs;
}

// `count` rows of N numbers as [num_pairs(count), N] in `memory`. Beyond the last one stand zeros.
template <typename Row>
const Rounded* in_pairs(int64_t N, int64_t count, const Row& row, Array<Rounded>& memory) {
  const std::vector<float> none(N);
  memory.resize(num_pairs(count) * N);
  for (int64_t r = 0; r < num_pairs(count); r++) {
    const float* const first = 2 * r < count ? row(2 * r) : none.data();
    pair_rows(first, 2 * r + 1 < count ? row(2 * r + 1) : none.data(), N, memory.data() + r * N);
  }
  return memory.data();
}

// `count` rows of gradients, [count, stride] at `d`. Where pairs are multiplied they are rounded, and so is what they
// are multiplied with: two rows of each are a pair.
template <typename Operand>
struct RowGradients {
  const float* d;
  int64_t stride, count;
  const Rounded* pairs = nullptr;

  RowGradients(const float* d, int64_t stride, int64_t count) : d(d), stride(stride), count(count) {
    thread_local Array<Rounded> memory;
    if (NUMBERS<Operand> == 2) pairs = in_pairs(stride, count, [&](int64_t r) { return d + r * stride; }, memory);
  }

  // out [K, N] += Σ_r a[r]ᵀ d_r for the N = NUM_GATES · H columns from `first` on.
  template <int NUM_GATES>
  void multiply(const float* const* a, int64_t K, int64_t first, int64_t N, float* out) const {
    if constexpr (NUMBERS<Operand> == 1) {
      add_outer_products(a, K, d + first, stride, N, count, out);
    } else {
      thread_local Array<Rounded> memory, columns;
      const int64_t length = num_pairs(count), in_tiles = tiles_are_had() ? K / TILE * TILE : 0;
      const Rounded* const a_pairs = in_pairs(K, count, [&](int64_t r) { return a[r]; }, memory);
      columns.resize(in_tiles * length);
      for (int64_t k = 0; k < in_tiles; k += TILE)
        for (int64_t r = 0; r < length; r += TILE)
          transpose_square(a_pairs + r * K + k, K, columns.data() + k * length + r, length);
      for (int64_t n = 0; n < N && in_tiles; n += NUM_GATES * VL)
        for (int64_t k = 0; k < in_tiles; k += TILE)
          multiply_tiles<NUM_GATES>(out + k * N + n, N, columns.data() + k * length, length, length, pairs + first + n,
                                    stride);
      std::vector<const Rounded*> rest(length);
      for (int64_t r = 0; r < length; r++) rest[r] = a_pairs + r * K + in_tiles;
      add_outer_products(rest.data(), K - in_tiles, pairs + first, stride, N, length, out + in_tiles * N);
    }
  }
};

// out [N] += Σ_r d_r for rows d_r = d + r · N of whole vectors.
inline void add_rows(const float* d, int64_t N, int64_t count, float* out) {
  for (int64_t n = 0; n < N; n += VL) {
    Vec sum = load(out + n);
    for (int64_t r = 0; r < count; r++) sum += load(d + r * N + n);
    store(out + n, sum);
  }
}
