// What the linear recurrence of memory/linear.py does between its products, forward and backward. Arrays are contiguous
// and of float32, P whole vectors. A row's results do not depend on the rows beside it.
#include <cmath>

#include "sequence.h"

constexpr float EPSILON = 1e-5f;  // RMSNorm's

// What a forget gate's logit becomes: a, 1 − a and √(1 − a²), each with its own digits where a is near 0 or 1.
struct Gate {
  Vec a, rest, scale;

  explicit Gate(Vec logit) {
    const Vec e = exponential(-logit);
    a = reciprocal(1.0f + e);
    rest = e * a;
    scale = square_root(rest * (1.0f + a));
  }
};

// Pairs of units k and k + P, of which R turns each by an angle of its own: `rotation` [2, P] has cosines and sines.
struct Pair {
  Vec first, second;

  Pair turned(Pair by) const {
    return {by.first * first - by.second * second, by.second * first + by.first * second};
  }
  Pair turned_back(Pair by) const {
    return {by.first * first + by.second * second, by.first * second - by.second * first};
  }
  Vec times(Pair other) const { return first * other.first + second * other.second; }
};

static inline Pair pair(const float* at, int64_t P) { return {load(at), load(at + P)}; }

static inline void store_pair(float* at, int64_t P, Pair value) {
  store(at, value.first);
  store(at + P, value.second);
}

// From `projected` [T, B, 5P], the forget gates' logits, candidate [2P] and output gate's logit [2P] of each row: h
// [T, B, 2P], 1 / √(mean h² + ε) in `per_root` [T, B], and z = RMSNorm(h) ⊙ silu(gate) [T, B, 2P], `weight` the norm's.
extern "C" void linear_forward(int64_t T, int64_t B, int64_t P, int64_t threads, const float* projected,
                               const float* h0, const uint8_t* is_first, const float* rotation, const float* weight,
                               float* h, float* per_root, float* z) {
  const int64_t H = 2 * P;
  const Before before{h, h0, is_first, B, H};
#pragma omp parallel num_threads(threads)
  {
    const Share share(B);
    for (int64_t t = 0; t < T; t++)
      for (int64_t b = share.begin; b < share.end; b++) {
        const int64_t row = t * B + b;
        const float *const logit = projected + row * 5 * P, *const candidate = logit + P, *const gate = candidate + H;
        const float* const last = before(t, b);
        float* const h_t = h + row * H;
        Vec squares{};
        for (int64_t k = 0; k < P; k += VL) {
          const Gate forget(load(logit + k));
          const Pair turned = pair(last + k, P).turned(pair(rotation + k, P)), written = pair(candidate + k, P);
          const Pair value{forget.a * turned.first + forget.scale * written.first,
                           forget.a * turned.second + forget.scale * written.second};
          store_pair(h_t + k, P, value);
          squares += value.times(value);
        }
        const float root = per_root[row] = 1.0f / std::sqrt(sum_of(squares) / H + EPSILON);
        for (int64_t unit = 0; unit < H; unit += VL) {
          const Vec g = load(gate + unit);
          store(z + row * H + unit, load(h_t + unit) * root * load(weight + unit) * g * sigmoid(g));
        }
      }
  }
}

// From dz [T, B, 2P] and dh [B, 2P], the last state's gradient, which becomes the first one's: `d` [T, B, 5P], those of
// `projected`, and dweight [2P]. With g_t = ∂L/∂h_t in all, g_t = (what z_t says) + a_{t+1} ⊙ R⁻¹ g_{t+1}.
extern "C" void linear_backward(int64_t T, int64_t B, int64_t P, int64_t threads, const float* projected,
                                const float* h0, const uint8_t* is_first, const float* rotation, const float* weight,
                                const float* h, const float* per_root, const float* dz, float* dh, float* d,
                                float* dweight) {
  const int64_t H = 2 * P;
  const Before before{h, h0, is_first, B, H};
  thread_local Array<float> sums_memory;
  const Sums sums(dweight, H, threads, sums_memory);
#pragma omp parallel num_threads(threads)
  {
    const Share share(B);
    float* const dw = sums.begin(share.thread);
    for (int64_t t = T - 1; t >= 0; t--)
      for (int64_t b = share.begin; b < share.end; b++) {
        const int64_t row = t * B + b;
        const float *const logit = projected + row * 5 * P, *const candidate = logit + P, *const gate = candidate + H;
        const float *const last = before(t, b), *const h_t = h + row * H, *const dz_t = dz + row * H;
        float *const d_t = d + row * 5 * P, *const d_candidate = d_t + P, *const g_b = dh + b * H;
        const float root = per_root[row], keep = is_first[row] ? 0.0f : 1.0f;
        Vec along{};  // of the norm's gradient, what changes h's length alone
        for (int64_t unit = 0; unit < H; unit += VL) {
          const Vec g = load(gate + unit), open = sigmoid(g), silu = g * open;
          const Vec value = load(h_t + unit), dz_u = load(dz_t + unit), w = load(weight + unit), normed = value * root;
          const Vec dnormed = dz_u * silu * w;
          along += dnormed * value;
          store(dw + unit, load(dw + unit) + dz_u * silu * normed);
          store(d_candidate + unit, dnormed);  // until it is needed below
          store(d_t + P + H + unit, dz_u * normed * w * (open + silu * (1.0f - open)));
        }
        const float share_of_length = sum_of(along) * root * root * root / H;
        for (int64_t k = 0; k < P; k += VL) {
          const Gate forget(load(logit + k));
          const Pair angle = pair(rotation + k, P), later = pair(g_b + k, P), value = pair(h_t + k, P);
          const Pair dnormed = pair(d_candidate + k, P);
          const Pair g{later.first + dnormed.first * root - value.first * share_of_length,
                       later.second + dnormed.second * root - value.second * share_of_length};
          // After a reset `last` is 0, and so is what is turned.
          const Vec slope = forget.a * forget.rest * g.times(pair(last + k, P).turned(angle));
          const Vec slope_of_scale = forget.a * forget.a * forget.rest / forget.scale;
          store(d_t + k, slope - slope_of_scale * g.times(pair(candidate + k, P)));
          store_pair(d_candidate + k, P, {g.first * forget.scale, g.second * forget.scale});
          const Pair back = g.turned_back(angle);
          store_pair(g_b + k, P, {keep * forget.a * back.first, keep * forget.a * back.second});
        }
      }
    sums.end(share.thread);
  }
}
