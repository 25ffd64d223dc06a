// The LSTM of kernels/lstm.py, forward and backward. Arrays are contiguous and of float32, H whole vectors;
// with `bfloat16` all products are of numbers rounded to that, but the gradients of weights where pairs are not had.
#include "sequence.h"

// y [T, B, H], and c [B, H], which is the first cell and becomes the last. Unless it is null, `saved` gets
// (i, f, g, o, c) of each step: see `saved_at`.
extern "C" void lstm_forward(int64_t T, int64_t B, int64_t D, int64_t H, int64_t threads, int64_t bfloat16,
                             const float* x, const float* h0, const uint8_t* is_first, const float* w_ih,
                             const float* w_hh, const float* b_ih, const float* b_hh, float* saved, float* c,
                             float* y) {
  with_operands(bfloat16, [&]<typename Operand>() {
    thread_local Array<Operand> x_memory, h_memory;  // kept, as fresh pages take longer than what is done with them
    const Operand* const w_x = by_units(w_ih, 4, H, D, threads, x_memory);
    const Operand* const w_h = by_units(w_hh, 4, H, H, threads, h_memory);
    const int64_t length_x = num_operands<Operand>(D), length_h = num_operands<Operand>(H);
    const Before before{y, h0, is_first, B, H};
#pragma omp parallel num_threads(threads)
    {
      const Share share(B);
      const Tiles<Operand> tiles;
      Rows<Operand> inputs(share.count, D), states(share.count, H);
      for (int64_t t = 0; t < T; t++) {
        for (int64_t i = 0; i < share.count; i++) {
          inputs.set(i, x + (t * B + share.begin + i) * D);
          states.set(i, before(t, share.begin + i));
        }
        for (int64_t unit = 0; unit < H; unit += VL)
          in_parts<max_rows<4, Operand>>(share.count, [&]<int M>(int64_t start) {
            Vec sum[room<M, Operand>][4], sums[M][4];
#pragma GCC unroll 8
            for (int m = 0; m < M; m++)
#pragma GCC unroll 8
              for (int g = 0; g < 4; g++) sum[m][g] = load(b_ih + g * H + unit) + load(b_hh + g * H + unit);
            multiply_operands<M>(sum, inputs.rows.data() + start, length_x, w_x + unit * 4 * length_x);
            multiply_operands<M>(sum, states.rows.data() + start, length_h, w_h + unit * 4 * length_h);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++)
#pragma GCC unroll 8
              for (int g = 0; g < 4; g++) sums[m][g] = sum[m][g];
#pragma GCC unroll 1
            for (int m = 0; m < M; m++) {
              const int64_t b = share.begin + start + m, row = t * B + b;
              const Vec i = sigmoid(sums[m][0]), f = sigmoid(sums[m][1]);
              const Vec g = tangent(sums[m][2]), o = sigmoid(sums[m][3]);
              float* const cell = c + b * H + unit;
              const Vec c_t = f * (is_first[row] ? Vec{} : load(cell)) + i * g;
              store(cell, c_t);
              store(y + row * H + unit, o * tangent(c_t));
              if (!saved) continue;
              float* to = saved + saved_at<5>({T, B, D, H}, t, unit, b);
              for (Vec value : {i, f, g, o, c_t}) {
                store(to, value);
                to += VL;
              }
            }
          });
      }
    }
  });
}

// From dy [T, B, H] and dh and dc, the last states' gradients [B, H], which become the first ones': dx [T, B, D] and
// `weights`, dw_x [D, 4H], dw_h [H, 4H] and db [4H] one after another.
extern "C" void lstm_backward(int64_t T, int64_t B, int64_t D, int64_t H, int64_t threads, int64_t bfloat16,
                              const float* x, const float* h0, const float* c0, const uint8_t* is_first,
                              const float* w_ih, const float* w_hh, const float* saved, const float* y,
                              const float* dy, float* dh, float* dc, float* dx, float* weights) {
  with_operands(bfloat16, [&]<typename Operand>() {
    thread_local Array<Operand> x_memory, h_memory;
    const ByColumns<Operand> w_x(w_ih, 4 * H, D, x_memory, threads), w_h(w_hh, 4 * H, H, h_memory, threads);
    const Before before{y, h0, is_first, B, H};
    thread_local Array<float> sums_memory;
    const Sums sums(weights, (D + H + 1) * 4 * H, threads, sums_memory);
#pragma omp parallel num_threads(threads)
    {
      const Share share(B);
      const Tiles<Operand> tiles;
      float *const dw_x = sums.begin(share.thread), *const dw_h = dw_x + D * 4 * H, *const db = dw_h + H * 4 * H;
      const int64_t block = block_steps(T, share.count);
      thread_local Array<float> d;  // the gates' gradients, [block, B, 4H] of (i, f, g, o)
      thread_local Array<Operand> copies;
      d.resize(block * share.count * 4 * H);
      if (!std::is_same_v<Operand, float>) copies.resize(num_operands<Operand>(d.size() + beyond<Operand> * 4 * H));
      const Operand* operands = nullptr;
      const int64_t stride = num_operands<Operand>(4 * H);
      std::vector<const float*> inputs(block * share.count), states(block * share.count);
      for (int64_t end = T; end > 0; end -= block) {
        const int64_t begin = std::max<int64_t>(0, end - block), count = (end - begin) * share.count;
        for (int64_t t = end - 1; t >= begin; t--) {
          const int64_t first = (t - begin) * share.count;
          for (int64_t j = 0; j < share.count; j++) {
            const int64_t b = share.begin + j, row = t * B + b;
            states[first + j] = before(t, b), inputs[first + j] = x + row * D;
            const float* kept = saved + saved_at<5>({T, B, D, H}, t, 0, b);
            float *d_j = d.data() + (first + j) * 4 * H, *dh_j = dh + b * H, *dc_j = dc + b * H;
            const float keep = is_first[row] ? 0.0f : 1.0f;
            for (int64_t unit = 0; unit < H; unit += VL, kept += B * 5 * VL, d_j += VL) {
              const Vec i = load(kept), f = load(kept + VL), g = load(kept + 2 * VL), o = load(kept + 3 * VL);
              const Vec tanh_c = tangent(load(kept + 4 * VL)), dh_t = load(dh_j + unit) + load(dy + row * H + unit);
              const Vec c_tm1 = is_first[row] ? Vec{} : load(t ? kept - B * H * 5 + 4 * VL : c0 + b * H + unit);
              const Vec dc_t = load(dc_j + unit) + dh_t * o * (1.0f - tanh_c * tanh_c);
              store(d_j, dc_t * g * i * (1.0f - i));
              store(d_j + H, dc_t * c_tm1 * f * (1.0f - f));
              store(d_j + 2 * H, dc_t * i * (1.0f - g * g));
              store(d_j + 3 * H, dh_t * tanh_c * o * (1.0f - o));
              store(dc_j + unit, keep * dc_t * f);
            }
          }
          operands = as_operands(d.data(), first * 4 * H, share.count * 4 * H, copies);
          const auto dh_row = [&](int64_t j) { return dh + (share.begin + j) * H; };
          multiply_rows<false>(operands + first * stride, stride, share.count, w_h, dh_row);
          for (int64_t b = share.begin; b < share.end; b++)
            if (is_first[t * B + b]) std::fill_n(dh + b * H, H, 0.0f);
        }
        const auto dx_row = [&](int64_t j) { return dx + (inputs[j] - x); };
        multiply_rows<false>(operands, stride, count, w_x, dx_row);
        const RowGradients<Operand> gradients(d.data(), 4 * H, count);
        gradients.template multiply<4>(inputs.data(), D, 0, 4 * H, dw_x);
        gradients.template multiply<4>(states.data(), H, 0, 4 * H, dw_h);
        add_rows(d.data(), 4 * H, count, db);
      }
      sums.end(share.thread);
    }
  });
}
