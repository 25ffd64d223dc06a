// What a GPT-2 is made of: its weights, sorted for products, and the keys and values of a column.
#pragma once

#include <cmath>

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

// `weights` are pointers: embedding [V, H], position, the last norm's weight and bias, the head [H, V], then of each
// layer those of `Layer`. `capacity` are the slots of its keys and values, for B columns.
struct Model {
  int64_t B, V, H, heads, size, capacity;
  float epsilon;
  const float *embedding, *position;
  Norm norm;
  std::vector<Layer> layers;

  Model(int64_t B, int64_t V, int64_t num_layers, int64_t heads, int64_t size, int64_t capacity, float epsilon,
        const float* const* weights)
      : B(B), V(V), H(heads * size), heads(heads), size(size), capacity(capacity), epsilon(epsilon),
        embedding(weights[0]), position(weights[1]), norm{weights[2], weights[3]} {
    for (int64_t l = 0; l < num_layers; l++) layers.emplace_back(weights + 5 + 13 * l, H);
  }

  // Key or value (`part` 0 or 1) of a head of a column, at a slot.
  float* kept(int64_t l, int64_t part, int64_t b, int64_t h, int64_t slot) const {
    return layers[l].kept + (((part * B + b) * heads + h) * capacity + slot) * size;
  }
};

// Rows on their way through the layers.
struct Stream {
  const Model& model;
  Array<float> x, normed, parts, attended, inner;

  Stream(const Model& model, int64_t rows)
      : model(model), x(rows * model.H), normed(rows * model.H), parts(rows * 3 * model.H), attended(rows * model.H),
        inner(rows * 4 * model.H) {}

  void begin(int64_t row, int64_t token, int64_t place) {
    const float *e = model.embedding + token * model.H, *p = model.position + place * model.H;
    for (int64_t i = 0; i < model.H; i += VL) store(x.data() + row * model.H + i, load(e + i) + load(p + i));
  }

  // `parts` of so many rows: queries, keys and values.
  void before_attention(const Layer& layer, int64_t rows) {
    const int64_t H = model.H;
    for (int64_t row = 0; row < rows; row++) {
      layer.attention_norm(x.data() + row * H, H, model.epsilon, normed.data() + row * H);
      std::memcpy(parts.data() + row * 3 * H, layer.parts_bias, 3 * H * sizeof(float));
    }
    layer.parts.operator()<true>(normed.data(), rows, parts.data(), 3 * H);
  }

  // The layer's end, from `attended`.
  void after_attention(const Layer& layer, int64_t rows) {
    const int64_t H = model.H;
    add_to_rows(layer.out_bias, rows);
    layer.out.operator()<true>(attended.data(), rows, x.data(), H);
    for (int64_t row = 0; row < rows; row++) {
      layer.inner_norm(x.data() + row * H, H, model.epsilon, normed.data() + row * H);
      std::memcpy(inner.data() + row * 4 * H, layer.inner_bias, 4 * H * sizeof(float));
    }
    layer.inner.operator()<true>(normed.data(), rows, inner.data(), 4 * H);
    for (int64_t i = 0; i < rows * 4 * H; i += VL) store(inner.data() + i, gelu(load(inner.data() + i)));
    add_to_rows(layer.inner_out_bias, rows);
    layer.inner_out.operator()<true>(inner.data(), rows, x.data(), H);
  }

  void add_to_rows(const float* bias, int64_t rows) {
    for (int64_t row = 0; row < rows; row++)
      for (int64_t i = 0; i < model.H; i += VL) {
        float* const to = x.data() + row * model.H + i;
        store(to, load(to) + load(bias + i));
      }
  }
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
