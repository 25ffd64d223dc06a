// A GPT-2 reads what conversations begin with. Each thread takes its own columns through all layers, so nothing waits,
// and of the last layer only what comes after each column's last token is computed.
#include <omp.h>

#include "attention_head.h"
#include "gpt2.h"

namespace {

constexpr int64_t AT_ONCE = 96;  // rows, about: weights are read once for all of them

template <int PARTS>
struct Reader {
  const Model& model;
  const int64_t *tokens, *count;  // [T, B], [B]
  float* y;                       // [B, H]
  Stream stream;
  Head<PARTS> head;
  Array<float> totals;

  Reader(const Model& model, const int64_t* tokens, const int64_t* count, float* y, int64_t longest)
      : model(model), tokens(tokens), count(count), y(y), stream(model, AT_ONCE + longest),
        head(model.heads, longest, false), totals(model.heads * longest) {}

  void read(const std::vector<int64_t>& columns) {
    int64_t rows = 0;
    for (int64_t b : columns)
      for (int64_t t = 0; t < count[b]; t++) stream.begin(rows++, tokens[t * model.B + b], t);
    for (size_t l = 0; l < model.layers.size(); l++) {
      stream.before_attention(model.layers[l], rows);
      for (int64_t row = 0, i = 0; row < rows; row += count[columns[i++]]) attend(l, row, columns[i]);
      if (l + 1 == model.layers.size()) rows = take_last(columns);
      stream.after_attention(model.layers[l], rows);
    }
    for (int64_t row = 0; row < rows; row++)
      model.norm(stream.x.data() + row * model.H, model.H, model.epsilon, y + columns[row] * model.H);
  }

  // Zeros stand behind what a column reads.
  void begin(int64_t b) {
    for (size_t l = 0; l < model.layers.size(); l++)
      for (int64_t part = 0; part < 2; part++)
        for (int64_t h = 0; h < model.heads; h++)
          std::fill_n(model.kept(l, part, b, h, count[b]), (model.capacity - count[b]) * model.size, 0.0f);
  }

  // Column b, whose rows begin at `row`; its keys and values are kept.
  void attend(int64_t l, int64_t row, int64_t b) {
    const int64_t H = model.H, size = model.size;
    for (int64_t h = 0; h < model.heads; h++) {
      const float* const query = stream.parts.data() + row * 3 * H + h * size;
      head.take(query, nullptr, 0, count[b]);
      head.forward(0, count[b], stream.attended.data() + row * H + h * size, totals.data());
      std::memcpy(model.kept(l, 0, b, h, 0), head.keys.data(), count[b] * size * sizeof(float));
      std::memcpy(model.kept(l, 1, b, h, 0), head.values.data(), count[b] * size * sizeof(float));
    }
  }

  // Each column's last row alone goes on. Returns how many there are.
  int64_t take_last(const std::vector<int64_t>& columns) {
    int64_t last = -1, rows = 0;
    for (int64_t b : columns) {
      last += count[b];
      for (float* of : {stream.x.data(), stream.attended.data()})
        std::memmove(of + rows * model.H, of + last * model.H, model.H * sizeof(float));
      rows++;
    }
    return rows;
  }
};

template <int PARTS>
void read_all(const Model& model, int64_t longest, int64_t threads, const int64_t* tokens, const int64_t* count,
              float* y) {
#pragma omp parallel num_threads(threads)
  {
    Reader<PARTS> reader(model, tokens, count, y, longest);
    const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
    std::vector<int64_t> columns;
    int64_t rows = 0;
    const int64_t end = model.B * (thread + 1) / all;
    for (int64_t b = model.B * thread / all; b < end; b++) {
      reader.begin(b);
      if (count[b]) columns.push_back(b);
      rows += count[b];
      if (rows < AT_ONCE && b + 1 < end) continue;
      reader.read(columns);
      columns.clear(), rows = 0;
    }
  }
}

}  // namespace

extern "C" {

// The first count[b] tokens [T, B] of each column, from its beginning: y [B, H] are the features after the last of
// them, and keys and values are kept. `longest` is the largest count. A head has 1, 2, 4 or 8 vectors.
void read_beginnings(int64_t B, int64_t V, int64_t num_layers, int64_t heads, int64_t size, int64_t capacity,
                     int64_t longest, int64_t threads, const float* const* weights, const float* epsilon,
                     const int64_t* tokens, const int64_t* count, float* y) {
  const Model model(B, V, num_layers, heads, size, capacity, *epsilon, weights, threads, true);
  switch (size / VL) {
#define CASE(PARTS) \
  case PARTS:       \
    return read_all<PARTS>(model, longest, threads, tokens, count, y);
    CASE(1) CASE(2) CASE(4) CASE(8)
#undef CASE
  }
}
}
