// Causal attention of whole episodes that stand end to end, without padding between them, and its gradients.
//
// Query i of an episode stands at row place[i] in it, and looks at the rows up to there. Keys and queries are turned
// by their place (rotary positions) here, in the cache, so that no turned copy of them goes through memory.
#include <algorithm>
#include <cmath>

#include "products.h"

namespace {

constexpr int WIDE = 2;  // vectors of keys, or of queries, of which scores are taken at once
constexpr int64_t BLOCK = WIDE * VL;

template <int PARTS>
constexpr int ROWS = std::max(1, std::min(max_rows<WIDE>, max_rows<PARTS>));

inline int64_t whole(int64_t count) { return (count + BLOCK - 1) / BLOCK * BLOCK; }

// All that the kernels read: `starts` [S + 1] are the episodes' first rows, `asking_starts` [S + 1] their first queries,
// `asking` [M] the queries' rows; query [M, heads, size], key_value [N, 2, heads, size]; cosines and sines
// [longest, size / 2] each, or null. lse [heads, M]: the logarithm of each query's sum of e to its scores.
struct Problem {
  int64_t N, M, S, heads, size, longest, threads;
  const int64_t *starts, *asking, *asking_starts;
  const float *cosines, *sines, *query, *key_value;
};

// to = from · scale, turned by the angles of `place`; back by them with `sign` −1.
inline void turn(const Problem& p, const float* from, int64_t place, float scale, float sign, float* to) {
  const int64_t half = p.size / 2;
  if (!p.cosines) {
    for (int64_t c = 0; c < p.size; c++) to[c] = from[c] * scale;
    return;
  }
  const float *cos = p.cosines + place * half, *sin = p.sines + place * half;
  for (int64_t c = 0; c < half; c++) {
    const float first = from[c] * scale, second = from[c + half] * scale, s = sign * sin[c];
    to[c] = first * cos[c] - second * s;
    to[c + half] = second * cos[c] + first * s;
  }
}

// Rows [count, size] as [blocks][size][BLOCK], zeros behind the last: what a product by them reads in order.
void pack(const float* rows, int64_t count, int64_t size, float* to) {
  for (int64_t start = 0; start < count; start += BLOCK, to += size * BLOCK) {
    const int64_t here = std::min(BLOCK, count - start);
    for (int64_t c = 0; c < size; c++)
      for (int64_t r = 0; r < BLOCK; r++) to[c * BLOCK + r] = r < here ? rows[(start + r) * size + c] : 0.0f;
  }
}

// One head of one episode, as a thread works on it.
struct Head {
  const Problem& p;
  int64_t first, n, first_query, m, head, width;
  float scale;
  Array<float> keys, values, queries, packed, packed_too, scores, slopes, turned, grads, places, lse, delta;

  explicit Head(const Problem& p) : p(p), width(whole(p.longest)), scale(1.0f / std::sqrt(float(p.size))) {
    for (auto* rows : {&keys, &values, &queries, &packed, &packed_too, &grads}) rows->resize(width * p.size);
    for (auto* square : {&scores, &slopes, &turned}) square->resize(width * width);
    for (auto* row : {&places, &lse, &delta}) row->resize(width);
  }

  const float* row_of(int64_t j, int which) const {
    return p.key_value + (((first + j) * 2 + which) * p.heads + head) * p.size;
  }
  int64_t query_at(int64_t i) const { return ((first_query + i) * p.heads + head) * p.size; }
  int64_t place(int64_t i) const { return p.asking[first_query + i] - first; }

  void begin(int64_t task) {
    const int64_t episode = task / p.heads;
    head = task % p.heads;
    first = p.starts[episode], n = p.starts[episode + 1] - first;
    first_query = p.asking_starts[episode], m = p.asking_starts[episode + 1] - first_query;
    for (int64_t j = 0; j < n; j++) {
      turn(p, row_of(j, 0), j, 1.0f, 1.0f, keys.data() + j * p.size);
      std::copy_n(row_of(j, 1), p.size, values.data() + j * p.size);
    }
    for (int64_t i = 0; i < m; i++) turn(p, p.query + query_at(i), place(i), scale, 1.0f, queries.data() + i * p.size);
  }

  // From scores of queries start … start + M − 1 to e^(score − max), 0 for keys that are not seen, and their `sums`.
  template <int M>
  void weigh(int64_t start, int64_t count, float* sums, float* all_lse) {
    for (int r = 0; r < M; r++) {
      float* const row = scores.data() + r * width;
      const int64_t seen = place(start + r) + 1, end = (seen + VL - 1) / VL * VL;
      for (int64_t j = seen; j < end; j++) row[j] = -INFINITY;
      Vec most = all(-INFINITY);
      for (int64_t j = 0; j < end; j += VL) {
        const Vec v = load(row + j);
        most = v > most ? v : most;
      }
      const float top = largest_of(most);
      Vec sum = Vec{};
      for (int64_t j = 0; j < end; j += VL) {
        const Vec weight = exponential(load(row + j) - top);
        store(row + j, weight);
        sum += weight;
      }
      std::fill(row + seen, row + std::max(seen, count), 0.0f);
      sums[r] = sum_of(sum);
      all_lse[head * p.M + first_query + start + r] = top + std::log(sums[r]);
    }
  }

  template <int PARTS>
  void forward(float* out, float* all_lse) {
    pack(keys.data(), n, p.size, packed.data());
    in_parts<ROWS<PARTS>>(m, [&]<int M>(int64_t start) {
      const float *asked[M], *weights[M];
      for (int r = 0; r < M; r++) {
        asked[r] = queries.data() + (start + r) * p.size, weights[r] = scores.data() + r * width;
      }
      const int64_t count = place(start + M - 1) + 1;
      for (int64_t j = 0; j < count; j += BLOCK) {
        Vec c[M][WIDE] = {};
        multiply<M, WIDE, float>(c, asked, p.size, packed.data() + j * p.size);
        for (int r = 0; r < M; r++)
          for (int v = 0; v < WIDE; v++) store(scores.data() + r * width + j + v * VL, c[r][v]);
      }
      float sums[M];
      weigh<M>(start, count, sums, all_lse);
      Vec c[M][PARTS] = {};
      multiply<M, PARTS, float>(c, weights, count, values.data());
      for (int r = 0; r < M; r++)
        for (int v = 0; v < PARTS; v++) store(out + query_at(start + r) + v * VL, c[r][v] * (1.0f / sums[r]));
    });
  }

  void begin_backward(const float* out, const float* dout, const float* all_lse) {
    for (int64_t i = 0; i < m; i++) {
      float* const row = grads.data() + i * p.size;
      std::copy_n(dout + query_at(i), p.size, row);
      Vec sum = Vec{};
      for (int64_t c = 0; c < p.size; c += VL) sum += load(row + c) * load(out + query_at(i) + c);
      delta[i] = sum_of(sum), lse[i] = all_lse[head * p.M + first_query + i], places[i] = place(i);
    }
    for (int64_t i = m; i < whole(m); i++) delta[i] = lse[i] = 0.0f, places[i] = -1.0f;  // it looks at no key
    pack(queries.data(), m, p.size, packed.data());
    pack(grads.data(), m, p.size, packed_too.data());
  }

  // Rows j of the transposed weights (`scores`) and of their slopes, for queries from `begin` on.
  template <int M>
  void slope(int64_t j, int64_t begin, const float* const* key, const float* const* value) {
    for (int64_t i = begin; i < m; i += BLOCK) {
      Vec score[M][WIDE] = {}, pull[M][WIDE] = {};
      multiply<M, WIDE, float>(score, key, p.size, packed.data() + i * p.size);
      multiply<M, WIDE, float>(pull, value, p.size, packed_too.data() + i * p.size);
      for (int r = 0; r < M; r++) {
        for (int v = 0; v < WIDE; v++) {
          const int64_t at = i + v * VL;
          const Vec weight = exponential(score[r][v] - load(lse.data() + at));
          const Vec seen = load(places.data() + at) >= float(j + r) ? weight : Vec{};
          store(scores.data() + r * width + at, seen);
          store(slopes.data() + r * width + at, seen * (pull[r][v] - load(delta.data() + at)));
        }
      }
      for (int r = 0; r < M; r++)
        for (int64_t q = i; q < std::min(i + BLOCK, m); q++) turned[q * width + j + r] = slopes[r * width + q];
    }
  }

  template <int PARTS>
  void backward(float* dquery, float* dkey_value) {
    in_parts<ROWS<PARTS>>(n, [&]<int M>(int64_t j) {
      const int64_t first_asking = std::lower_bound(places.data(), places.data() + m, float(j)) - places.data();
      const int64_t begin = first_asking / BLOCK * BLOCK;
      const float *key[M], *value[M], *weights[M], *pulls[M];
      for (int r = 0; r < M; r++) {
        key[r] = keys.data() + (j + r) * p.size, value[r] = values.data() + (j + r) * p.size;
        weights[r] = scores.data() + r * width + begin, pulls[r] = slopes.data() + r * width + begin;
      }
      slope<M>(j, begin, key, value);
      const int64_t count = std::max<int64_t>(m - begin, 0);
      Vec dk[M][PARTS] = {}, dv[M][PARTS] = {};
      multiply<M, PARTS, float>(dv, weights, count, grads.data() + begin * p.size);
      multiply<M, PARTS, float>(dk, pulls, count, queries.data() + begin * p.size);
      for (int r = 0; r < M; r++) {
        float row[PARTS * VL];
        float* const to = dkey_value + (row_of(j + r, 0) - p.key_value);
        for (int v = 0; v < PARTS; v++) store(row + v * VL, dk[r][v]), store(to + p.heads * p.size + v * VL, dv[r][v]);
        turn(p, row, j + r, 1.0f, -1.0f, to);
      }
    });
    in_parts<ROWS<PARTS>>(m, [&]<int M>(int64_t start) {
      const int64_t count = place(start + M - 1) + 1;
      const float* pulls[M];
      for (int r = 0; r < M; r++) {
        pulls[r] = turned.data() + (start + r) * width;
        const int64_t seen = place(start + r) + 1;
        std::fill(turned.data() + (start + r) * width + seen, turned.data() + (start + r) * width + count, 0.0f);
      }
      Vec c[M][PARTS] = {};
      multiply<M, PARTS, float>(c, pulls, count, keys.data());
      for (int r = 0; r < M; r++) {
        float row[PARTS * VL];
        for (int v = 0; v < PARTS; v++) store(row + v * VL, c[r][v]);
        turn(p, row, place(start + r), scale, -1.0f, dquery + query_at(start + r));
      }
    });
  }
};

template <int PARTS>
void forward_all(const Problem& p, float* out, float* lse) {
#pragma omp parallel num_threads(p.threads)
  {
    Head head(p);
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < p.S * p.heads; task++) {
      head.begin(task);
      head.forward<PARTS>(out, lse);
    }
  }
}

template <int PARTS>
void backward_all(const Problem& p, const float* out, const float* lse, const float* dout, float* dquery,
                  float* dkey_value) {
#pragma omp parallel num_threads(p.threads)
  {
    Head head(p);
#pragma omp for schedule(dynamic, 4)
    for (int64_t task = 0; task < p.S * p.heads; task++) {
      head.begin(task);
      head.begin_backward(out, dout, lse);
      head.backward<PARTS>(dquery, dkey_value);
    }
  }
}

}  // namespace

extern "C" {

#define CASES CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)

// out [M, heads, size] and lse [heads, M]; `size` is 1 to 8 vectors. Sizes of what is read: see Problem.
void attend_episodes(int64_t N, int64_t M, int64_t S, int64_t heads, int64_t size, int64_t longest, int64_t threads,
                     const int64_t* starts, const int64_t* asking, const int64_t* asking_starts, const float* cosines,
                     const float* sines, const float* query, const float* key_value, float* out, float* lse) {
  const Problem p{N, M, S, heads, size, longest, threads, starts, asking, asking_starts, cosines, sines,
                  query, key_value};
  switch (size / VL) {
#define CASE(PARTS) \
  case PARTS:       \
    return forward_all<PARTS>(p, out, lse);
    CASES
#undef CASE
  }
}

// From the gradient dout those of what was read, of the same shapes. All of their entries are written.
void attend_episodes_backward(int64_t N, int64_t M, int64_t S, int64_t heads, int64_t size, int64_t longest,
                              int64_t threads, const int64_t* starts, const int64_t* asking,
                              const int64_t* asking_starts, const float* cosines, const float* sines,
                              const float* query, const float* key_value, const float* out, const float* lse,
                              const float* dout, float* dquery, float* dkey_value) {
  const Problem p{N, M, S, heads, size, longest, threads, starts, asking, asking_starts, cosines, sines,
                  query, key_value};
  switch (size / VL) {
#define CASE(PARTS) \
  case PARTS:       \
    return backward_all<PARTS>(p, out, lse, dout, dquery, dkey_value);
    CASES
#undef CASE
  }
}
}
