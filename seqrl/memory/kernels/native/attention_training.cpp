// Attention of whole conversations, forward and backward, where those of a group begin with the same rows: these are
// attended to by all of the group, but computed once. Queries, keys and values are read where the projection has put
// them, and gradients are written there. A thread has one head of one group at a time.
#include <omp.h>

#include "attention_head.h"

namespace {

// Rows [groups, before] that all of a group share, and behind them [groups, alike, own].
struct Sizes {
  int64_t groups, alike, before, own, heads;
};

template <int PARTS>
void attend(const Sizes& sizes, int64_t threads, const float* parts, const float* bias, float* out, float* total,
            const float* d_out, float* d_parts) {
  const int64_t P = sizes.before, R = sizes.own, heads = sizes.heads, size = PARTS * VL;
#pragma omp parallel num_threads(threads)
  {
    Head<PARTS> head(heads, P + R, d_out);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < sizes.groups * heads; task++) {
      const int64_t group = task / heads, h = task % heads;
      // Rows from `row` on, which see what is in the slots before them.
      const auto run = [&](int64_t row, int64_t before, int64_t count) {
        const int64_t at = row * heads * size + h * size, three = row * 3 * heads * size + h * size;
        head.take(parts + three, bias + h * size, before, count);
        if (!d_out) return head.forward(before, count, out + at, total + row * heads + h);
        head.begin(before, count);
        head.backward(before, count, out + at, total + row * heads + h, d_out + at, d_parts + three);
        if (before || !P) head.give(d_parts + three, before, count);
      };
      if (P) run(group * P, 0, P);
      for (int64_t c = 0; c < sizes.alike && R; c++) run(sizes.groups * P + (group * sizes.alike + c) * R, P, R);
      if (d_out && P) head.give(d_parts + group * P * 3 * heads * size + h * size, 0, P);
    }
  }
}

}  // namespace

extern "C" {

// parts [rows, 3, heads, size] without their bias [3, heads, size], out and d_out [rows, heads, size], total
// [rows, heads]; with `d_out` the gradient d_parts is computed, else out and total. `size` is 1, 2, 4 or 8 vectors.
void attend_whole(int64_t groups, int64_t alike, int64_t before, int64_t own, int64_t heads, int64_t size,
                  int64_t threads, const float* parts, const float* bias, float* out, float* total, const float* d_out,
                  float* d_parts) {
  const Sizes sizes{groups, alike, before, own, heads};
  switch (size / VL) {
#define CASE(PARTS) \
  case PARTS:       \
    return attend<PARTS>(sizes, threads, parts, bias, out, total, d_out, d_parts);
    CASE(1) CASE(2) CASE(4) CASE(8)
#undef CASE
  }
}
}
