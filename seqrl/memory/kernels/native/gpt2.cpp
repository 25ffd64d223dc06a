// A GPT-2 speaks: tokens are drawn and read one after the other, for many columns, in one call. Each thread takes its
// own columns through all layers of all steps, so that nothing waits, and those that have stopped cost nothing.
//
// What takes the time, with a small model, is to bring keys and values from memory, all of them at each step. They are
// therefore copied once, into the order in which they are read, and with VL slots of a key's number side by side, so
// that no sum is taken across a vector. Of what is said, models of few heads keep in their place the rows that keys and
// values are made of. There all stays until somebody wants to go on from it.
#include <omp.h>

#include "gpt2_rows.h"

namespace {

struct Speech {
  int64_t steps, stop;
  float temperature;
  const int64_t* length;  // what each column has read before
  const float* excluded;  // added to logits, in whole vectors: 0, or -infinity for what must not be said
  const float* logits;
  const double* uniform;  // [steps, B]
  int64_t *ids, *said;    // [steps, B], [B]
  float* log_prob;        // [steps, B]
  Product head;
  std::vector<RowWeights> rows;  // a layer's, where rows are kept
};

// Whether rows are kept of what is said: with four heads they are multiplied four times as often as keys and values,
// which still takes less time than these take to come.
bool keeps_rows(int64_t heads, int64_t size) {
  const auto is_power = [](int64_t n, int64_t most) { return n <= most && (n & (n - 1)) == 0; };
  return is_power(heads, 4) && is_power(size / VL, 8);
}

// What columns that speak have read, in the order in which it is read: of each column and layer keys and values, and,
// where `rows` are kept of what is said, these.
struct Memory {
  float* data;
  int64_t num_layers, heads, size, slots, rows;  // slots of keys and values, and rows, of a column: whole vectors

  Memory(float* data, int64_t num_layers, int64_t heads, int64_t size, int64_t read, int64_t steps)
      : data(data), num_layers(num_layers), heads(heads), size(size),
        slots(whole_vectors(read + (keeps_rows(heads, size) ? 0 : steps))),
        rows(keeps_rows(heads, size) ? whole_vectors(steps) : 0) {}

  int64_t of_layer() const { return heads * size * (2 * slots + rows); }
  float* keys(int64_t place, int64_t layer) const { return data + (place * num_layers + layer) * of_layer(); }
  float* said(int64_t place, int64_t layer) const { return keys(place, layer) + 2 * heads * size * slots; }

  Kept kept(int64_t place, int64_t layer, int64_t owner, int64_t common) const {
    float *const own = keys(place, layer), *const others = keys(owner, layer);
    const int64_t all = heads * size * slots;
    return {own, own + all, others, others + all, common, heads, size};
  }
};

// The columns `who` of one thread. Row r is a column that goes on; its keys and values are the place[r]-th. HEADS are
// those of a model that keeps rows, else 0.
template <int HEADS>
struct Speaker {
  const Model& model;
  const Speech& speech;
  const Memory& memory;
  std::vector<int64_t> who, place, length;
  std::vector<int64_t> owner, common;  // of each place: whose first slots it reads, and how many
  int64_t first, padded;  // of its places; entries of its logits, in whole vectors
  Stream stream;
  Array<float> logits, blocks;
  KeptAttention slots;
  RowAttention<std::max(HEADS, 1)> rows;

  Speaker(const Model& model, const Speech& speech, const Memory& memory, std::vector<int64_t> columns, int64_t first)
      : model(model), speech(speech), memory(memory), who(std::move(columns)), place(who.size()), length(who.size()),
        owner(who.size()), common(who.size()), first(first), padded(whole_vectors(model.V)), stream(model, who.size()),
        logits(who.size() * padded), blocks(padded / VL), slots(model.heads, memory.slots),
        rows(model, HEADS ? who.size() : 0, memory.rows) {
    for (int64_t row = 0; row < int64_t(who.size()); row++) {
      place[row] = row, length[row] = speech.length[who[row]];
      const bool alike = row && begin_alike(who[row - 1], who[row]);
      owner[row] = alike ? owner[row - 1] : row, common[row] = alike ? length[row] / VL * VL : 0;
    }
  }

  Kept kept(int64_t place, int64_t layer) const {
    return memory.kept(first + place, layer, first + owner[place], common[place]);
  }

  // Whether two columns have read the same, so that they need be brought from memory once only, as for the answers to
  // one prompt.
  bool begin_alike(int64_t a, int64_t b) const {
    const int64_t count = speech.length[a];
    if (count != speech.length[b]) return false;
    for (size_t l = 0; l < model.layers.size(); l++)
      for (int64_t part = 0; part < 2; part++)
        for (int64_t h = 0; h < model.heads; h++)
          if (std::memcmp(model.kept(l, part, a, h, 0), model.kept(l, part, b, h, 0),
                          count * model.size * sizeof(float)))
            return false;
    return true;
  }

  void run() {
    for (size_t row = 0; row < who.size(); row++) {
      for (size_t l = 0; l < model.layers.size(); l++)
        for (int64_t h = 0; h < model.heads; h++)
          for (int64_t s = common[row]; s < length[row]; s++)
            kept(row, l).write(s, h, model.kept(l, 0, who[row], h, s), model.kept(l, 1, who[row], h, s));
      std::memcpy(logits.data() + row * padded, speech.logits + who[row] * model.V, model.V * sizeof(float));
    }
    for (int64_t step = 0; step < speech.steps && !who.empty(); step++) say(step);
  }

  void say(int64_t step) {
    const int64_t rows = who.size(), H = model.H;
    std::vector<bool> stops(rows);
    for (int64_t row = 0; row < rows; row++) {
      const int64_t b = who[row], at = step * model.B + b;
      const int64_t token = draw(logits.data() + row * padded, speech.uniform[at], speech.log_prob + at);
      speech.ids[at] = token, speech.said[b]++;
      stops[row] = token == speech.stop;
      stream.begin(row, token, length[row]);
    }
    for (size_t l = 0; l < model.layers.size(); l++) {
      attend(l, rows);
      stream.after_attention(model.layers[l], rows);
    }
    int64_t left = 0;  // those who go on close up
    for (int64_t row = 0; row < rows; row++) {
      if (stops[row]) continue;
      who[left] = who[row], place[left] = place[row], length[left] = length[row] + 1;
      model.norm(stream.x.data() + row * H, H, model.epsilon, stream.normed.data() + left * H);
      left++;
    }
    who.resize(left);
    if (step + 1 < speech.steps) speech.head.operator()<false>(stream.normed.data(), left, logits.data(), padded);
  }

  // A token by the probabilities of `row` [padded], which it spoils; `uniform` is from 0 to below 1.
  int64_t draw(float* row, double uniform, float* log_prob) {
    const int64_t V = model.V;
    Vec largest = all(-INFINITY);
    for (int64_t i = V; i < padded; i++) row[i] = -INFINITY;
    for (int64_t i = 0; i < padded; i += VL) {
      const Vec logit = load(row + i) + load(speech.excluded + i);
      store(row + i, logit);
      largest = logit > largest ? logit : largest;
    }
    const float most = largest_of(largest);
    int64_t token = V - 1;  // of logits that are no numbers
    if (speech.temperature == 0) {
      for (int64_t i = V; i-- > 0;)
        if (row[i] == most) token = i;
      *log_prob = row[token] - most - std::log(total(row, most, 1.0f));
      return token;
    }
    const double sum = total(row, most, 1.0f);
    const double target = uniform * (speech.temperature == 1 ? sum : total(row, most, 1 / speech.temperature));
    double before = 0;
    for (int64_t i = 0; i < V; i += VL) {
      const double after = before + blocks[i / VL];
      if (after <= target) {
        before = after;
        continue;
      }
      const Vec weights = weights_of(row + i, most, 1 / speech.temperature);
      for (int v = 0; v < VL; v++) {  // the last that can be drawn at all, where rounding lets none pass
        if (weights[v] > 0) token = i + v;
        if ((before += weights[v]) > target) break;
      }
      break;
    }
    *log_prob = row[token] - most - float(std::log(sum));
    return token;
  }

  static Vec weights_of(const float* row, float most, float inverse) {
    const Vec logit = load(row), weight = exponential((logit - most) * inverse);
    return logit > all(-INFINITY) ? weight : Vec{};
  }

  // The sum of all weights; `blocks` are those of each vector.
  double total(const float* row, float most, float inverse) {
    double sum = 0;
    for (int64_t i = 0; i < model.V; i += VL) sum += blocks[i / VL] = sum_of(weights_of(row + i, most, inverse));
    return sum;
  }

  // `attended` of so many rows.
  void attend(size_t l, int64_t count) {
    const int64_t H = model.H;
    if constexpr (HEADS) {
      const RowWeights& weights = speech.rows[l];
      stream.normalise(model.layers[l].attention_norm, count);
      fill_rows(stream.parts.data(), count, 3 * H, weights.query_bias, H);
      weights.query.operator()<true>(stream.normed.data(), count, stream.parts.data(), 3 * H);
      rows.begin(weights, stream.parts.data(), count);
    } else {
      stream.before_attention(model.layers[l], count);
    }
    for (int64_t row = 0; row < count; row++) attend_row(l, row);
    if constexpr (HEADS) rows.end(speech.rows[l], count, stream.attended.data());
  }

  // Each head of a row looks at what is kept of before, and at the new key and value, which are kept only then: numbers
  // that were just written one by one cannot be read as vectors without waiting.
  void attend_row(size_t l, int64_t row) {
    const int64_t H = model.H, size = model.size, before = speech.length[who[row]], said = length[row] - before;
    Kept kept = this->kept(place[row], l);
    const float *const query = stream.parts.data() + row * 3 * H, *const key = query + H, *const value = key + H;
    float* const out = stream.attended.data() + row * H;
    if constexpr (HEADS) {
      float* const x = memory.said(first + place[row], l);
      std::memcpy(x + said * H, stream.normed.data() + row * H, H * sizeof(float));
      slots.score(query, kept, nullptr, before);
      rows.score(speech.rows[l], query, x, row, said + 1, slots.most.data());
      slots.weigh(before);
      rows.weigh(row, said + 1, slots.most.data(), slots.totals.data());
      slots.add_up(kept, nullptr, before, out);
      rows.add_up(x, row, said + 1, slots.totals.data());
    } else {
      slots.score(query, kept, key, length[row]);
      slots.weigh(length[row]);
      slots.add_up(kept, value, length[row], out);
      for (int64_t h = 0; h < model.heads; h++) kept.write(length[row], h, key + h * size, value + h * size);
    }
  }
};

}  // namespace

extern "C" {

// Numbers that a column takes which has read so many tokens and says so many.
int64_t speaking_size(int64_t num_layers, int64_t heads, int64_t size, int64_t read, int64_t steps) {
  return num_layers * Memory(nullptr, num_layers, heads, size, read, steps).of_layer();
}

// The columns `who` [count] of B draw up to `steps` tokens each, until they draw `stop`, and read what they draw: what
// they have read is then in `memory` [count, speaking_size], with `read` tokens of before at most. `Model` and `Speech`
// explain the rest. `numbers` are epsilon and temperature.
void speak(int64_t B, int64_t V, int64_t num_layers, int64_t heads, int64_t size, int64_t capacity, int64_t read,
           int64_t steps, int64_t stop, int64_t count, int64_t threads, const float* const* weights,
           const float* numbers, const int64_t* length, const int64_t* who, const float* excluded, const float* logits,
           const double* uniform, float* data, int64_t* ids, int64_t* said, float* log_prob) {
  const Model model(B, V, num_layers, heads, size, capacity, numbers[0], weights, threads, !keeps_rows(heads, size));
  std::vector<RowWeights> rows(num_layers);
#pragma omp parallel for num_threads(std::min(threads, num_layers)) schedule(static)
  for (int64_t l = 0; l < num_layers; l++)
    if (keeps_rows(heads, size))
      rows[l] = RowWeights(model.layers[l].parts_weight, model.layers[l].parts_bias, heads, size);
  const Speech speech{steps, stop, numbers[1], length, excluded, logits, uniform, ids, said, log_prob,
                      Product(weights[4], model.H, V), std::move(rows)};
  const Memory memory(data, num_layers, heads, size, read, steps);
#pragma omp parallel num_threads(std::min(threads, count))
  {
    const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
    const int64_t first = count * thread / all, end = count * (thread + 1) / all;
    const auto run = [&]<int HEADS>() { Speaker<HEADS>(model, speech, memory, {who + first, who + end}, first).run(); };
    switch (keeps_rows(heads, size) ? heads : 0) {
#define CASE(HEADS)                    \
  case HEADS:                          \
    run.template operator()<HEADS>();  \
    break;
      CASE(0) CASE(1) CASE(2) CASE(4)
#undef CASE
    }
  }
}

// What was said goes from `memory` to where keys and values are kept, [2, B, heads, capacity, size] a layer, behind the
// `length` tokens that each column had read. `weights` are as in `speak`.
void keep_said(int64_t B, int64_t num_layers, int64_t heads, int64_t size, int64_t capacity, int64_t read,
               int64_t steps, int64_t count, int64_t threads, const float* const* weights, float* data,
               const int64_t* length, const int64_t* who, const int64_t* said) {
  const Memory memory(data, num_layers, heads, size, read, steps);
  for (int64_t l = 0; l < num_layers; l++) {
    const float* const* const layer = weights + 5 + 13 * l;
    const KeysAndValues whole(layer[2], layer[3], heads * size);
    const auto kept = [&](int64_t b, int64_t h, int64_t slot) {
      return const_cast<float*>(layer[12]) + ((b * heads + h) * capacity + slot) * size;
    };
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t place = 0; place < count; place++) {
      const int64_t b = who[place], values = B * heads * capacity * size;
      if (memory.rows) {
        const Array<float> parts = whole.of(memory.said(place, l), said[b]);
        for (int64_t s = 0; s < said[b]; s++)
          for (int64_t h = 0; h < heads; h++) {
            const float* const key = parts.data() + (s * 2 * heads + h) * size;
            std::memcpy(kept(b, h, length[b] + s), key, size * sizeof(float));
            std::memcpy(kept(b, h, length[b] + s) + values, key + heads * size, size * sizeof(float));
          }
      } else {
        for (int64_t s = length[b]; s < length[b] + said[b]; s++)
          for (int64_t h = 0; h < heads; h++)
            memory.kept(place, l, place, 0).read(s, h, kept(b, h, s), kept(b, h, s) + values);
      }
    }
  }
}
}
