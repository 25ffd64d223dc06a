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

  Product() = default;
  Product(const float* w, int64_t K, int64_t N) : K(K), N(N), memory((K + PART - 1) / PART) {
    for (int64_t k = 0; k < K; k += PART)
      parts.emplace_back(w + k * N, std::min(PART, K - k), N, memory[k / PART]).comes_from_afar = true;
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
// [2, B, heads, capacity, size]. `parts` are sorted if `reads`, which is not needed where `RowWeights` serve.
struct Layer {
  Norm attention_norm, inner_norm;
  const float *parts_weight, *parts_bias, *out_bias, *inner_bias, *inner_out_bias;
  Product parts, out, inner, inner_out;
  float* kept;

  Layer() = default;
  Layer(const float* const* w, int64_t H, bool reads)
      : attention_norm{w[0], w[1]}, inner_norm{w[6], w[7]}, parts_weight(w[2]), parts_bias(w[3]), out_bias(w[5]),
        inner_bias(w[9]), inner_out_bias(w[11]), parts(reads ? Product(w[2], H, 3 * H) : Product()), out(w[4], H, H),
        inner(w[8], H, 4 * H), inner_out(w[10], 4 * H, H), kept(const_cast<float*>(w[12])) {}
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
        const float* const* weights, int64_t threads, bool reads)
      : B(B), V(V), H(heads * size), heads(heads), size(size), capacity(capacity), epsilon(epsilon),
        embedding(weights[0]), position(weights[1]), norm{weights[2], weights[3]}, layers(num_layers) {
#pragma omp parallel for num_threads(std::min(threads, num_layers)) schedule(static)
    for (int64_t l = 0; l < num_layers; l++) layers[l] = Layer(weights + 5 + 13 * l, H, reads);
  }

  // Key or value (`part` 0 or 1) of a head of a column, at a slot.
  float* kept(int64_t l, int64_t part, int64_t b, int64_t h, int64_t slot) const {
    return layers[l].kept + (((part * B + b) * heads + h) * capacity + slot) * size;
  }
};

// Each of the rows, `stride` numbers apart, begins with what is `from` [count].
inline void fill_rows(float* to, int64_t rows, int64_t stride, const float* from, int64_t count) {
  for (int64_t row = 0; row < rows; row++) std::memcpy(to + row * stride, from, count * sizeof(float));
}

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

  void normalise(const Norm& norm, int64_t rows) {
    for (int64_t row = 0; row < rows; row++)
      norm(x.data() + row * model.H, model.H, model.epsilon, normed.data() + row * model.H);
  }

  // `parts` of so many rows: queries, keys and values.
  void before_attention(const Layer& layer, int64_t rows) {
    normalise(layer.attention_norm, rows);
    fill_rows(parts.data(), rows, 3 * model.H, layer.parts_bias, 3 * model.H);
    layer.parts.operator()<true>(normed.data(), rows, parts.data(), 3 * model.H);
  }

  // The layer's end, from `attended`.
  void after_attention(const Layer& layer, int64_t rows) {
    const int64_t H = model.H;
    add_to_rows(layer.out_bias, rows);
    layer.out.operator()<true>(attended.data(), rows, x.data(), H);
    normalise(layer.inner_norm, rows);
    fill_rows(inner.data(), rows, 4 * H, layer.inner_bias, 4 * H);
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
