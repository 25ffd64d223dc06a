// What a replay does for every batch: draws from a tree of sums, and blocks of rows gathered from places that are in no
// cache. Both wait for memory, so whatever does not depend on each other is asked for at once.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t LINE = 64, AHEAD = 384;  // bytes
constexpr int64_t WIDTH = 8;               // numbers of a block: sum_tree.py's, and tested to be

// `memcpy` of a size known only when running is a call, which takes longer than to copy a few numbers.
inline void copy(char* to, const char* from, int64_t size) {
  if (size < 16 || size > 256) {
    std::memcpy(to, from, size);
    return;
  }
  for (int64_t b = 0; b + 16 < size; b += 16) std::memcpy(to + b, from + b, 16);
  std::memcpy(to + size - 16, from + size - 16, 16);
}

inline void prefetch(const char* from, int64_t size) {
  for (int64_t b = 0; b < size; b += LINE) __builtin_prefetch(from + b);
}

inline int64_t in_blocks(int64_t size) { return (size + WIDTH - 1) / WIDTH * WIDTH; }

inline double sum_of(const double* block) {
  double sum = 0.0;
  for (int64_t k = 0; k < WIDTH; k++) sum += block[k];
  return sum;
}

// From a place among the sums `above` to one in its block in `level`: the first whose running sum is at least `rest`;
// what stands before it is taken off that.
inline void go_down(const double* above, const double* level, int64_t& place, double& rest) {
  const double *block = level + place * WIDTH, sum = above[place], goal = rest < sum ? rest : sum;
  double up_to = 0.0, before = 0.0;
  int64_t num_below = 0;
  for (int64_t k = 0; k < WIDTH; k++) {  // to the end: no branch to foresee, so draws overlap
    up_to += block[k];
    before = up_to < goal ? up_to : before;
    num_below += up_to < goal;
  }
  place = place * WIDTH + num_below;
  rest = goal - before;
}

}  // namespace

extern "C" {

int64_t sum_tree_width() { return WIDTH; }

// out[t, n] = source[first(n) + t], rows of `row_bytes` bytes: [length, count] of them. Block b begins at the row
// b % columns * column_rows + b / columns * stride. Time is the outer loop: what is written is one stream, and what is
// read are `count` streams, each asked for some rows ahead.
void gather_blocks(int64_t count, int64_t length, int64_t row_bytes, int64_t columns, int64_t column_rows,
                   int64_t stride, const char* source, const int64_t* blocks, char* out) {
  const int64_t block = length * row_bytes, ahead = block < AHEAD ? block : AHEAD;
  std::vector<const char*> first(count);
  for (int64_t n = 0; n < count; n++) {
    first[n] = source + (blocks[n] % columns * column_rows + blocks[n] / columns * stride) * row_bytes;
    prefetch(first[n], ahead);
  }
  for (int64_t t = 0; t < length; t++) {
    const int64_t left = block - t * row_bytes - ahead, next = left < row_bytes ? left : row_bytes;
    for (int64_t n = 0; n < count; n++, out += row_bytes) {
      const char* row = first[n] + t * row_bytes;
      prefetch(row + ahead, next);
      copy(out, row, row_bytes);
    }
  }
}

// In `tree`: leaves and the sums of their blocks, the sums of these sums' blocks, and so on, one level behind the other,
// each in whole blocks of WIDTH numbers; the last level is the first that has no more than `top`.

// leaves[index] = value, the largest where an index comes several times; and the sums above. `index` is overwritten.
void sum_tree_set(int64_t count, int64_t num_leaves, int64_t top, double* tree, int64_t* index, const double* value) {
  int64_t size = in_blocks(num_leaves);
  for (int64_t n = 0; n < count; n++) tree[index[n]] = 0.0;
  for (int64_t n = 0; n < count; n++)
    if (!(tree[index[n]] >= value[n])) tree[index[n]] = value[n];
  for (double* level = tree; size > top; level += size, size = in_blocks(size / WIDTH)) {
    for (int64_t n = 0, last = -1; n < count; n++) {
      const int64_t block = index[n] / WIDTH;
      if (block != last) level[size + block] = sum_of(level + block * WIDTH);
      last = index[n] = block;
    }
  }
}

// Draws leaves `index` in proportion to their numbers, and their `probability`: the n-th from the n-th of `count` equal
// parts of the total, at its fraction uniform[n].
void sum_tree_sample(int64_t count, int64_t num_leaves, int64_t top, const double* tree, const double* uniform,
                     int64_t* index, double* probability) {
  const double *level = tree, *levels[64];
  int64_t depth = 0, size = in_blocks(num_leaves);
  for (; size > top; level += size, size = in_blocks(size / WIDTH)) levels[depth++] = level;
  std::vector<double> up_to(level, level + size), rest(count);
  std::partial_sum(level, level + size, up_to.begin());
  const double total = up_to.back(), end = std::nextafter(total, 0.0), part = total / count;
  for (int64_t n = 0; n < count; n++) {
    const double point = std::min((n + uniform[n]) * part, end);
    index[n] = std::upper_bound(up_to.begin(), up_to.end() - 1, point) - up_to.begin();
    rest[n] = up_to[index[n]] - point;
  }
  for (const double* above = level; depth-- > 0; above = level) {
    level = levels[depth];
    const int64_t bytes = WIDTH * sizeof(double);
    for (int64_t n = 0; n < count; n++) prefetch(reinterpret_cast<const char*>(level) + index[n] * bytes, bytes);
    for (int64_t n = 0; n < count; n++) go_down(above, level, index[n], rest[n]);
  }
  for (int64_t n = 0; n < count; n++) probability[n] = tree[index[n]] / total;
}

}  // extern "C"
