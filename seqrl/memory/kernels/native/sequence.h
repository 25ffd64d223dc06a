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
  Array<float> none = Array<float>(H, 0.0f);

  const float* operator()(int64_t t, int64_t b) const {
    if (is_first[t * B + b]) return none.data();
    return t ? states + ((t - 1) * B + b) * H : initial + b * H;
  }
};

// The rows of numbers that a step's products read: themselves, or rounded copies.
template <typename Operand>
struct Rows {
  int64_t length;  // numbers in a row
  std::vector<const Operand*> rows;
  Array<Operand> copies;

  Rows(int64_t count, int64_t length) : length(length), rows(count) {
    if (!std::is_same_v<Operand, float>) copies.resize(count * num_operands<Operand>(length));
  }

  void set(int64_t i, const float* row) {
    if constexpr (std::is_same_v<Operand, float>) {
      rows[i] = row;
    } else {
      Operand* const copy = copies.data() + i * num_operands<Operand>(length);
      round_row(row, length, copy);
      rows[i] = copy;
    }
  }
};

// `count` numbers from d + begin as operands, as far from the pointer that is returned: themselves, or copies.
template <typename Operand>
const Operand* as_operands(const float* d, int64_t begin, int64_t count, Array<Operand>& copies) {
  if constexpr (std::is_same_v<Operand, float>) {
    return d;
  } else {
    round_row(d + begin, count, copies.data() + begin / NUMBERS<Operand>);
    return copies.data();
  }
}

// f<Operand>() for products in bfloat16 or in float32.
template <typename F>
void with_operands(bool bfloat16, const F& f) {
  if (bfloat16)
    f.template operator()<Rounded>();
  else
    f.template operator()<float>();
}
