// What the linear recurrence of memory/linear.py does between its products, forward and backward. Arrays are contiguous
// and of float32, H whole vectors. A row's results do not depend on the rows beside it.
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

// From `projected` [T, B, 3H], the forget gate's logit, candidate and output gate's logit of each row: h [T, B, H],
// 1 / √(mean h² + ε) in `per_root` [T, B], and z = RMSNorm(h) ⊙ silu(gate) [T, B, H], `weight` [H] the norm's.
extern "C" void linear_forward(int64_t T, int64_t B, int64_t H, int64_t threads, const float* projected,
                               const float* h0, const uint8_t* is_first, const float* weight, float* h,
                               float* per_root, float* z) {
  const Before before{h, h0, is_first, B, H};
#pragma omp parallel num_threads(threads)
  {
    const Share share(B);
    for (int64_t t = 0; t < T; t++)
      for (int64_t b = share.begin; b < share.end; b++) {
        const int64_t row = t * B + b;
        const float *const logit = projected + row * 3 * H, *const gate = logit + 2 * H, *const last = before(t, b);
        float* const h_t = h + row * H;
        Vec squares{};
        for (int64_t unit = 0; unit < H; unit += VL) {
          const Gate forget(load(logit + unit));
          const Vec value = forget.a * load(last + unit) + forget.scale * load(logit + H + unit);
          store(h_t + unit, value);
          squares += value * value;
        }
        const float root = per_root[row] = 1.0f / std::sqrt(sum_of(squares) / H + EPSILON);
        for (int64_t unit = 0; unit < H; unit += VL) {
          const Vec g = load(gate + unit);
          store(z + row * H + unit, load(h_t + unit) * root * load(weight + unit) * g * sigmoid(g));
        }
      }
  }
}

// From dz [T, B, H] and dh [B, H], the last state's gradient, which becomes the first one's: `d` [T, B, 3H], those of
// `projected`, and dweight [H]. With g_t = ∂L/∂h_t in all, g_t = (what z_t says) + a_{t+1} ⊙ g_{t+1}.
extern "C" void linear_backward(int64_t T, int64_t B, int64_t H, int64_t threads, const float* projected,
                                const float* h0, const uint8_t* is_first, const float* weight, const float* h,
                                const float* per_root, const float* dz, float* dh, float* d, float* dweight) {
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
        const float *const logit = projected + row * 3 * H, *const gate = logit + 2 * H, *const last = before(t, b);
        const float *const h_t = h + row * H, *const dz_t = dz + row * H, root = per_root[row];
        float *const d_t = d + row * 3 * H, *const g_b = dh + b * H;
        const float keep = is_first[row] ? 0.0f : 1.0f;
        Vec along{};  // of the norm's gradient, what changes h's length alone
        for (int64_t unit = 0; unit < H; unit += VL) {
          const Vec g = load(gate + unit), open = sigmoid(g), silu = g * open;
          const Vec value = load(h_t + unit), dz_u = load(dz_t + unit), w = load(weight + unit), normed = value * root;
          const Vec dnormed = dz_u * silu * w;
          along += dnormed * value;
          store(dw + unit, load(dw + unit) + dz_u * silu * normed);
          store(d_t + unit, dnormed);  // until it is needed below
          store(d_t + 2 * H + unit, dz_u * normed * w * (open + silu * (1.0f - open)));
        }
        const float share_of_length = sum_of(along) * root * root * root / H;
        for (int64_t unit = 0; unit < H; unit += VL) {
          const Gate forget(load(logit + unit));
          const Vec g = load(g_b + unit) + load(d_t + unit) * root - load(h_t + unit) * share_of_length;
          const Vec slope = forget.a * forget.rest * load(last + unit);  // 0 after a reset, where `last` is
          const Vec slope_of_scale = forget.a * forget.a * forget.rest / forget.scale;
          store(d_t + unit, g * (slope - slope_of_scale * load(logit + H + unit)));
          store(d_t + H + unit, g * forget.scale);
          store(g_b + unit, keep * forget.a * g);
        }
      }
    sums.end(share.thread);
  }
}
