// Matrix products that keep their sums in registers, of a handful of rows and of vectors of columns at a time.
//
// Every sum is taken over its terms in order, whatever the number of rows and of threads: a row's results do not depend
// on the rows beside it, to the last bit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tiles.h"

// Rows whose sums fit into the registers, with N vectors of each, N of the other operand and one to spare; or a tile's.
template <int N, typename Operand = float>
constexpr int max_rows = tiled<Operand> ? TILE : std::min((REGISTERS - N - 1) / N, 8);

constexpr int LINE = 64;  // bytes of the cache that come together

// c[m] += Σ_k a[m][k] b[k], with K operands in a row a[m], and b [K, N vectors]. Meanwhile K lines of the cache that
// stand at `next`, if given, come nearer.
template <int M, int N, typename Operand>
__attribute__((always_inline)) inline void multiply(Vec (&c)[M][N], const Operand* const* a, int64_t K,
                                                    const Operand* b, const char* next = nullptr) {
  for (int64_t k = 0; k < K; k++, b += N * VL) {
    if (next) __builtin_prefetch(next + k * LINE, 0, 2);
    Vec b_k[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) b_k[n] = load_once(b + n * VL);
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      const Vec a_mk = all(a[m][k]);
#pragma GCC unroll 8
      for (int n = 0; n < N; n++) c[m][n] = multiply_add<Operand>(c[m][n], a_mk, b_k[n]);
    }
  }
}

// The same for M rows that stand equally far from each other, with room for a tile of sums where it takes tiles. Then
// whole tiles are read of each row, and a tile of rows, though not all of them count.
template <int M, int ROOM, int N, typename Operand>
__attribute__((always_inline)) inline void multiply_operands(Vec (&c)[ROOM][N], const Operand* const* a, int64_t K,
                                                            const Operand* b, const char* next = nullptr) {
  if constexpr (!tiled<Operand>) {
    multiply(c, a, K, b, next);
  } else {
    const int64_t in_tiles = tiles_are_had() ? K / TILE * TILE : 0;
    float* const to = reinterpret_cast<float*>(c);
    if (in_tiles) multiply_tiles<N>(to, N * VL, a[0], M > 1 ? a[1] - a[0] : K, in_tiles, b, N * VL);
    for (int m = 0; m < M && in_tiles < K; m++) {
      const Operand* const rest[] = {a[m] + in_tiles};
      multiply(reinterpret_cast<Vec(&)[1][N]>(c[m]), rest, K - in_tiles, b + in_tiles * N * VL);
    }
  }
}

// f<M>(start) for parts of `count` rows, M <= MAX of them and about as many in each.
template <int MAX, int M = MAX, typename F>
inline void call_for(int64_t rows, int64_t start, const F& f) {
  if (rows == M) {
    f.template operator()<M>(start);
  } else if constexpr (M > 1) {
    call_for<MAX, M - 1>(rows, start, f);
  }
}

template <int MAX, typename F>
inline void in_parts(int64_t count, const F& f) {
  const int64_t parts = (count + MAX - 1) / MAX;
  for (int64_t p = 0; p < parts; p++) {
    const int64_t start = count * p / parts, end = count * (p + 1) / parts;
    call_for<MAX>(end - start, start, f);
  }
}

// w [num_gates · H, K] as [H / VL][K][num_gates][VL], in `out`: for each vector of units, what its gates read one after
// another.
template <typename Operand>
const Operand* by_units(const float* w, int num_gates, int64_t H, int64_t K, int64_t threads, Array<Operand>& out) {
  const int64_t length = num_operands<Operand>(K);
  out.resize(num_gates * H * length);
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < num_gates * H; row += VL) {
    const int64_t gate = row / H, unit = row % H;
    Operand* to = out.data() + unit * length * num_gates + gate * VL;
    int64_t k = 0;
    if constexpr (std::is_same_v<Operand, float>)
      for (; k + VL <= K; k += VL) {
        Vec rows[VL];
        for (int v = 0; v < VL; v++) rows[v] = load(w + (row + v) * K + k);
        transpose(rows);
        for (int v = 0; v < VL; v++, to += num_gates * VL) store(to, rows[v]);
      }
    for (; k < length; k++, to += num_gates * VL)
      for (int v = 0; v < VL; v++) to[v] = operand<Operand>(w + (row + v) * K, 1, K, k);
  }
  return out.data();
}

constexpr int COLUMNS = 4;  // vectors of columns at a time, in the products below

// w [K, N] as [N / (COLUMNS · VL), rounded up][K][COLUMNS · VL] in `memory`, filled up with zeros.
template <typename Operand>
struct ByColumns {
  int64_t K, N;  // K in operands
  const Operand* data;
  bool comes_from_afar = false;  // so the next columns are asked for while some are multiplied

  ByColumns(const float* w, int64_t rows, int64_t N, Array<Operand>& memory, int64_t threads = 1)
      : K(num_operands<Operand>(rows)), N(N) {
    const int64_t width = COLUMNS * VL, blocks = (N + width - 1) / width;
    memory.resize(blocks * width * K);
    Operand* const to = memory.data();
    data = to;
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < blocks * K; row++) {
      const int64_t n = row / K * width, k = row % K;
      for (int64_t i = 0; i < width; i++)
        to[row * width + i] = n + i < N ? operand<Operand>(w + n + i, N, rows, k) : Operand{};
    }
  }
};

// out(r) = a_r w, or with `add` out(r) += a_r w, for rows a_r = a + r · stride. With `add`, N is whole vectors.
template <bool add, typename Operand, typename Out>
void multiply_rows(const Operand* a, int64_t stride, int64_t count, const ByColumns<Operand>& w, const Out& out) {
  for (int64_t n = 0; n < w.N; n += COLUMNS * VL) {
    const int64_t width = std::min<int64_t>(COLUMNS * VL, w.N - n);
    const Operand *const now = w.data + n * w.K, *const then = now + COLUMNS * VL * w.K;
    const bool asks = w.comes_from_afar && n + COLUMNS * VL < w.N;
    const char* next = asks ? reinterpret_cast<const char*>(then) : nullptr;
    in_parts<max_rows<COLUMNS, Operand>>(count, [&]<int M>(int64_t start) {
      const Operand* rows[M];
      Vec c[room<M, Operand>][COLUMNS];
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        rows[m] = a + (start + m) * stride;
#pragma GCC unroll 8
        for (int v = 0; v < COLUMNS; v++)
          c[m][v] = add && v * VL < width ? load(out(start + m) + n + v * VL) : Vec{};
      }
      multiply_operands<M>(c, rows, w.K, now, next);
      if (next && (next += w.K * LINE) >= reinterpret_cast<const char*>(then + COLUMNS * VL * w.K)) next = nullptr;
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        float* const to = out(start + m) + n;
        if (width == COLUMNS * VL) {
#pragma GCC unroll 8
          for (int v = 0; v < COLUMNS; v++) store(to + v * VL, c[m][v]);
        } else {
          Vec part[COLUMNS];
#pragma GCC unroll 8
          for (int v = 0; v < COLUMNS; v++) part[v] = c[m][v];
          std::memcpy(to, part, 4 * width);
        }
      }
    });
  }
}
