// What a GPT-2 is made of: its weights, sorted for products, and the keys and values of a column.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cmath>
#include <cstdlib>

#include "products.h"

// x w with w [K, N] in parts of rows that stay in the nearest cache together with what they are multiplied by.
struct Product {
  static constexpr int64_t PART = 128;
  int64_t K, N;
  std::vector<Array<float>> memory;
  std::vector<ByColumns<float>> parts;

  Product(const float* w, int64_t K, int64_t N) : K(K), N(N), memory((K + PART - 1) / PART) {
    for (int64_t k = 0; k < K; k += PART)
      parts.emplace_back(w + k * N, std::min(PART, K - k), N, memory[k / PART]);
  }

  // out += x w, for `count` rows x [K] and out [N]; with `add` false the first part is not added, but written.
  template <bool add>
  void operator()(const float* x, int64_t count, float* out, int64_t stride) const {
    const auto row = [=](int64_t r) { return out + r * stride; };
    multiply_rows<add>(x, K, count, parts[0], row);
    for (size_t p = 1; p < parts.size(); p++) multiply_rows<true>(x + p * PART, K, count, parts[p], row);
  }
};

struct Norm {
  const float *weight, *bias;

  void operator()(const float* x, int64_t size, float epsilon, float* out) const {
    Vec sum = Vec{}, squares = Vec{};
    for (int64_t i = 0; i < size; i += VL) sum += load(x + i);
    const float mean = sum_of(sum) / size;
    for (int64_t i = 0; i < size; i += VL) {
      const Vec centred = load(x + i) - mean;
      squares += centred * centred;
    }
    const float scale = 1.0f / std::sqrt(sum_of(squares) / size + epsilon);
    for (int64_t i = 0; i < size; i += VL)
      store(out + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
  }
};

// A layer's weights, in the order in which `speak` is given them, and its keys and values
// [2, B, heads, capacity, size].
struct Layer {
  Norm attention_norm, inner_norm;
  const float *parts_bias, *out_bias, *inner_bias, *inner_out_bias;
  Product parts, out, inner, inner_out;
  float* kept;

  Layer(const float* const* w, int64_t H)
      : attention_norm{w[0], w[1]}, inner_norm{w[6], w[7]}, parts_bias(w[3]), out_bias(w[5]), inner_bias(w[9]),
        inner_out_bias(w[11]), parts(w[2], H, 3 * H), out(w[4], H, H), inner(w[8], H, 4 * H),
        inner_out(w[10], 4 * H, H), kept(const_cast<float*>(w[12])) {}
};

struct Model {
  int64_t B, V, H, heads, size, capacity;
  float epsilon;
  const float *embedding, *position;
  Norm norm;
  std::vector<Layer> layers;
  Product head;
};

// Memory that a thread keeps, as fresh pages take longer than what is done with them. Large pages, where Linux has
// them, bring keys and values a quarter sooner.
struct Pages {
  float* data = nullptr;
  size_t bytes = 0;

  float* with_room_for(size_t count) {
    constexpr size_t PAGE = 2 << 20;
    const size_t wanted = (count * sizeof(float) + PAGE - 1) / PAGE * PAGE;
    if (wanted > bytes) {
      std::free(data);
      bytes = 0, data = static_cast<float*>(std::aligned_alloc(PAGE, wanted));
      if (!data) throw std::bad_alloc();
      bytes = wanted;
#if defined(__linux__)
      madvise(data, bytes, MADV_HUGEPAGE);
#endif
    }
    return data;
  }
  ~Pages() { std::free(data); }
};

// One column's keys and values in one layer: [room / VL][heads][size][VL] and [room][heads][size]. The first `common`
// slots, whole vectors of them, are those of another column, which began with the same tokens.
struct Kept {
  float *keys, *values;
  const float *common_keys, *common_values;
  int64_t common, heads, size;

  void write(int64_t slot, int64_t h, const float* key, const float* value) {
    float* const block = keys + (slot / VL * heads + h) * size * VL + slot % VL;
    if (slot % VL == 0) std::memset(block, 0, size * VL * sizeof(float));  // what is hidden must be a number
    for (int64_t d = 0; d < size; d++) block[d * VL] = key[d];
    std::memcpy(values + (slot * heads + h) * size, value, size * sizeof(float));
  }

  void read(int64_t slot, int64_t h, float* key, float* value) const {
    const float* const block = keys + (slot / VL * heads + h) * size * VL + slot % VL;
    for (int64_t d = 0; d < size; d++) key[d] = block[d * VL];
    std::memcpy(value, values + (slot * heads + h) * size, size * sizeof(float));
  }
};
