// The GRU of kernels/gru.py, forward and backward. Arrays are contiguous and of float32, H whole vectors;
// with `bfloat16` all products are of numbers rounded to that, but the gradients of weights where pairs are not had.
#include "sequence.h"

extern "C" int vector_length() { return VL; }

// y [T, B, H], and unless it is null, `saved` gets (W_hn h + b_hn, r, z, n) of each step: see `saved_at`.
extern "C" void gru_forward(int64_t T, int64_t B, int64_t D, int64_t H, int64_t threads, int64_t bfloat16,
                            const float* x, const float* h0, const uint8_t* is_first, const float* w_ih,
                            const float* w_hh, const float* b_ih, const float* b_hh, float* saved, float* y) {
  with_operands(bfloat16, [&]<typename Operand>() {
    thread_local Array<Operand> x_memory, h_memory;  // kept, as fresh pages take longer than what is done with them
    const Operand* const w_x = by_units(w_ih, 3, H, D, threads, x_memory);
    const Operand* const w_h = by_units(w_hh, 3, H, H, threads, h_memory);
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
          in_parts<max_rows<3, Operand>>(share.count, [&]<int M>(int64_t start) {
            Vec sum[room<M, Operand>][3], n_x[M];  // r, z, and for n the part of the input or of the state
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) {
              sum[m][0] = load(b_ih + unit) + load(b_hh + unit);
              sum[m][1] = load(b_ih + H + unit) + load(b_hh + H + unit);
              sum[m][2] = load(b_ih + 2 * H + unit);
            }
            multiply_operands<M>(sum, inputs.rows.data() + start, length_x, w_x + unit * 3 * length_x);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) {
              n_x[m] = sum[m][2];
              sum[m][2] = load(b_hh + 2 * H + unit);
            }
            multiply_operands<M>(sum, states.rows.data() + start, length_h, w_h + unit * 3 * length_h);
#pragma GCC unroll 8
            for (int m = 0; m < M; m++) {
              const int64_t b = share.begin + start + m, row = t * B + b;
              const Vec r = sigmoid(sum[m][0]), z = sigmoid(sum[m][1]), hn = sum[m][2], n = tangent(n_x[m] + r * hn);
              store(y + row * H + unit, n + z * (load(before(t, b) + unit) - n));
              if (!saved) continue;
              float* to = saved + saved_at<4>({T, B, D, H}, t, unit, b);
              for (Vec value : {hn, r, z, n}) {
                store(to, value);
                to += VL;
              }
            }
          });
      }
    }
  });
}

// From dy [T, B, H] and dh, the last state's gradient [B, H], which becomes the first one's: dx [T, B, D] and
// `weights`, dw_x [D, 3H] of (r, z, n), dw_h [H, 3H] of (hn, r, z) and db [4H] of (hn, r, z, n) one after another.
// `w_hh` is stacked (hn, r, z) too.
extern "C" void gru_backward(int64_t T, int64_t B, int64_t D, int64_t H, int64_t threads, int64_t bfloat16,
                             const float* x, const float* h0, const uint8_t* is_first, const float* w_ih,
                             const float* w_hh, const float* saved, const float* y, const float* dy, float* dh,
                             float* dx, float* weights) {
  with_operands(bfloat16, [&]<typename Operand>() {
    thread_local Array<Operand> x_memory, h_memory;
    const ByColumns<Operand> w_x(w_ih, 3 * H, D, x_memory, threads), w_h(w_hh, 3 * H, H, h_memory, threads);
    const Before before{y, h0, is_first, B, H};
    thread_local Array<float> sums_memory;
    const Sums sums(weights, (D + H) * 3 * H + 4 * H, threads, sums_memory);
#pragma omp parallel num_threads(threads)
    {
      const Share share(B);
      const Tiles<Operand> tiles;
      float *const dw_x = sums.begin(share.thread), *const dw_h = dw_x + D * 3 * H, *const db = dw_h + H * 3 * H;
      const int64_t block = block_steps(T, share.count);
      thread_local Array<float> d;  // the gates' gradients, [block, B, 4H] of (hn, r, z, n)
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
          float* const d_t = d.data() + first * 4 * H;
          for (int64_t i = 0; i < share.count; i++) {
            const int64_t b = share.begin + i, row = t * B + b;
            const float* h = states[first + i] = before(t, b);
            inputs[first + i] = x + row * D;
            const float *kept = saved + saved_at<4>({T, B, D, H}, t, 0, b), *dy_t = dy + row * H;
            float *d_i = d_t + i * 4 * H, *dh_i = dh + b * H;
            for (int64_t unit = 0; unit < H; unit += VL, kept += B * 4 * VL, d_i += VL) {
              const Vec hn = load(kept), r = load(kept + VL), z = load(kept + 2 * VL), n = load(kept + 3 * VL);
              const Vec dh_t = load(dh_i + unit) + load(dy_t + unit), dn = dh_t * (1.0f - z) * (1.0f - n * n);
              store(d_i, dn * r);
              store(d_i + H, dn * hn * r * (1.0f - r));
              store(d_i + 2 * H, dh_t * (load(h + unit) - n) * z * (1.0f - z));
              store(d_i + 3 * H, dn);
              store(dh_i + unit, dh_t * z);
            }
          }
          operands = as_operands(d.data(), first * 4 * H, share.count * 4 * H, copies);
          const auto dh_row = [&](int64_t i) { return dh + (share.begin + i) * H; };
          multiply_rows<true>(operands + first * stride, stride, share.count, w_h, dh_row);
          for (int64_t b = share.begin; b < share.end; b++)
            if (is_first[t * B + b]) std::fill_n(dh + b * H, H, 0.0f);
        }
        const auto dx_row = [&](int64_t i) { return dx + (inputs[i] - x); };
        multiply_rows<false>(operands + num_operands<Operand>(H), stride, count, w_x, dx_row);
        const RowGradients<Operand> gradients(d.data(), 4 * H, count);
        gradients.template multiply<3>(inputs.data(), D, H, 3 * H, dw_x);
        gradients.template multiply<3>(states.data(), H, 0, 3 * H, dw_h);
        add_rows(d.data(), 4 * H, count, db);
      }
      sums.end(share.thread);
    }
  });
}
