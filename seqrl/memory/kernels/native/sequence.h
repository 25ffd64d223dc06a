// What the GRU and the LSTM share: how sequences are cut among threads and into blocks, and what a step reads.
#pragma once

#include <omp.h>

#include "products.h"

struct Sizes {
  int64_t T, B, D, H;
};

// The batch's rows that this thread of a parallel region works on, from the first step to the last: no step waits.
struct Share {
  int64_t thread = omp_get_thread_num(), begin, end, count;

  explicit Share(int64_t B) {
    begin = B * thread / omp_get_num_threads();
    end = B * (thread + 1) / omp_get_num_threads();
    count = end - begin;
  }
};

// Steps whose gradients are kept in the cache until those of the weights are taken from them.
inline int64_t block_steps(int64_t T, int64_t rows) {
  const int64_t in_cache = 256;
  return std::max<int64_t>(1, std::min(T, in_cache / std::max<int64_t>(rows, 1)));
}

// The state [H] that row b reads at step t: none after a reset, else what the step before left, at the start `initial`.
struct Before {
  const float *states, *initial;
  const uint8_t* is_first;
  int64_t B, H;
  std::vector<float> none = std::vector<float>(H, 0.0f);

  const float* operator()(int64_t t, int64_t b) const {
    if (is_first[t * B + b]) return none.data();
    return t ? states + ((t - 1) * B + b) * H : initial + b * H;
  }
};
