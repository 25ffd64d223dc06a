// What the GRU and the LSTM share: how sequences are cut among threads and into blocks, and what a step reads.
#pragma once

#include <omp.h>

#include "gradients.h"

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

// Where the PARTS vectors stand that step t keeps for backward of row b's units from `unit` on. They lie in the order
// in which they are written, [T, H / VL, B, PARTS, VL]: one stream a thread, at which the caches are quickest.
template <int PARTS>
inline int64_t saved_at(const Sizes& sizes, int64_t t, int64_t unit, int64_t b) {
  return ((t * sizes.H + unit) * sizes.B + b * VL) * PARTS;
}

// Sums over all rows, of which each thread begins its own at zero: the first one's is the result, and those of the
// others lie in `others`, where they stay for the next call, as fresh pages take longer than what is done with them.
struct Sums {
  float *result, *others;
  int64_t size;  // whole vectors

  Sums(float* result, int64_t size, int64_t threads, Array<float>& memory) : result(result), size(size) {
    memory.resize((threads - 1) * size);
    others = memory.data();
  }
  float* begin(int64_t thread) const {
    float* const own = thread ? others + (thread - 1) * size : result;
    std::fill_n(own, size, 0.0f);
    return own;
  }
  // result += others, once all threads have come here; each adds a part of it.
  void end(int64_t thread) const {
    const int64_t threads = omp_get_num_threads(), vectors = size / VL;
    if (threads == 1) return;
#pragma omp barrier
    for (int64_t i = vectors * thread / threads * VL; i < vectors * (thread + 1) / threads * VL; i += VL) {
      Vec sum = load(result + i);
      for (int64_t other = 0; other < threads - 1; other++) sum += load(others + other * size + i);
      store(result + i, sum);
    }
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
    if (!std::is_same_v<Operand, float>) copies.resize((count + beyond<Operand>) * num_operands<Operand>(length));
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
