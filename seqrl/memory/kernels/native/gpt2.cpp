// A GPT-2 speaks: tokens are drawn and read one after the other, for many columns, in one call. Each thread takes its
// own columns through all layers of all steps, so that nothing waits, and those that have stopped cost nothing.
//
// What takes the time, with a small model, is to bring keys and values from memory, all of them at each step. They are
// therefore copied once, into the order in which they are read, and with VL slots of a key's number side by side, so
// that no sum is taken across a vector. There they stay until somebody wants to go on from them.
#include <omp.h>

#include "attention_head.h"
#include "gpt2.h"

namespace {

struct Speech {
  int64_t steps, stop;
  float temperature;
  const int64_t* length;  // what each column has read before
  const float* excluded;  // added to logits: 0, or -infinity for what must not be said
  const float* logits;
  const double* uniform;  // [steps, B]
  int64_t *ids, *said;    // [steps, B], [B]
  float* log_prob;        // [steps, B]
  Product head;
};

int64_t whole_vectors(int64_t n) { return (n + VL - 1) / VL * VL; }

// Keys and values of all columns that speak, in the order in which they are read.
struct Memory {
  float* data;
  int64_t num_layers, heads, size, room;  // slots of a column, whole vectors

  float* keys(int64_t place, int64_t layer) const {
    return data + (place * num_layers + layer) * 2 * heads * size * room;
  }

  Kept kept(int64_t place, int64_t layer, int64_t owner, int64_t common) const {
    float *const own = keys(place, layer), *const others = keys(owner, layer);
    const int64_t all = heads * size * room;
    return {own, own + all, others, others + all, common, heads, size};
  }
};

// The columns `who` of one thread. Row r is a column that goes on; its keys and values are the place[r]-th.
struct Speaker {
  const Model& model;
  const Speech& speech;
  const Memory& memory;
  std::vector<int64_t> who, place, length;
  std::vector<int64_t> owner, common;  // of each place: whose first slots it reads, and how many
  int64_t first, padded;  // of its places; entries of its logits, in whole vectors
  Stream stream;
  Array<float> logits, scores, inverse;

  Speaker(const Model& model, const Speech& speech, const Memory& memory, std::vector<int64_t> columns, int64_t first)
      : model(model), speech(speech), memory(memory), who(std::move(columns)), place(who.size()), length(who.size()),
        owner(who.size()), common(who.size()), first(first), padded(whole_vectors(model.V)), stream(model, who.size()),
        logits(who.size() * padded), scores(model.heads * memory.room),
        inverse(model.heads) {
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
      stream.before_attention(model.layers[l], rows);
      for (int64_t row = 0; row < rows; row++) attend(kept(place[row], l), row, length[row]);
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
    float most = -INFINITY;
    for (int64_t i = 0; i < V; i++) row[i] += speech.excluded[i], most = std::max(most, row[i]);
    for (int64_t i = V; i < padded; i++) row[i] = -INFINITY;
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
      const Vec weights = weights_of(row + i, most, 1 / speech.temperature);
      const double after = before + sum_of(weights);
      if (after <= target) {
        before = after;
        continue;
      }
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

  double total(const float* row, float most, float inverse) const {
    double sum = 0;
    for (int64_t i = 0; i < model.V; i += VL) sum += sum_of(weights_of(row + i, most, inverse));
    return sum;
  }

  // Each head of a row looks at the `length` keys and values of before, and at the new ones, which are kept only then:
  // numbers that were just written one by one cannot be read as vectors without waiting.
  void attend(Kept kept, int64_t row, int64_t length) {
    const int64_t H = model.H, size = model.size;
    const float *const query = stream.parts.data() + row * 3 * H, *const key = query + H, *const value = key + H;
    weigh(query, kept, key, length);
    float* const out = stream.attended.data() + row * H;
    switch (size / VL) {
#define CASE(PARTS)                                  \
  case PARTS:                                        \
    add_up<PARTS>(kept, value, length, out);         \
    break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    for (int64_t h = 0; h < model.heads; h++) kept.write(length, h, key + h * size, value + h * size);
  }

  // For each head `scores` [heads, room] times `inverse` become softmax(query key), of `count` keys and of `own`.
  void weigh(const float* query, Kept kept, const float* own, int64_t count) {
    const int64_t size = model.size, whole = whole_vectors(count + 1);
    const float scale = 1.0f / std::sqrt(float(size));
    for (int64_t s = 0; s < count; s += VL) {
      const float* keys = (s < kept.common ? kept.common_keys : kept.keys) + s * model.H;
      for (int64_t h = 0; h < model.heads; h++) {
        const float* const q = query + h * size;
        Vec sums[4] = {};  // four, so that no addition waits for the one before
        for (int64_t d = 0; d < size; d += 4, keys += 4 * VL)
#pragma GCC unroll 4
          for (int i = 0; i < 4; i++) sums[i] += q[d + i] * load(keys + i * VL);
        store(scores.data() + h * memory.room + s, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale);
      }
    }
    for (int64_t h = 0; h < model.heads; h++) {
      float* const row = scores.data() + h * memory.room;
      Vec product = Vec{};
      for (int64_t d = h * size; d < (h + 1) * size; d += VL) product += load(query + d) * load(own + d);
      // What is hidden becomes e^-87 beside a sum of 1 or more: nothing.
      const float hidden = -INFINITY, own_score = sum_of(product) * scale;
      const int32_t left = count + VL - whole;
      const Vec last = load(row + whole - VL);
      store(row + whole - VL, LANES < left ? last : LANES == left ? all(own_score) : all(hidden));
      Vec most = load(row), sums = Vec{};
      for (int64_t s = VL; s < whole; s += VL) most = load(row + s) > most ? load(row + s) : most;
      const float largest = largest_of(most);
      for (int64_t s = 0; s < whole; s += VL) {
        const Vec weight = exponential(load(row + s) - largest);
        store(row + s, weight);
        sums += weight;
      }
      inverse[h] = 1.0f / sum_of(sums);
    }
  }

  // out = inverse Σ_s scores[s] values[s], `own` behind them, of as many heads at a time as have eight vectors of sums.
  template <int PARTS>
  void add_up(Kept kept, const float* own, int64_t count, float* out) {
    constexpr int64_t SIZE = PARTS * VL;
    in_parts<8 / PARTS>(model.heads, [&]<int M>(int64_t h) {
      const float* const weights = scores.data() + h * memory.room;
      Vec sum[M][PARTS] = {};
      const auto add = [&](int64_t s, const float* from) {
#pragma GCC unroll 8
        for (int m = 0; m < M; m++)
#pragma GCC unroll 8
          for (int p = 0; p < PARTS; p++) sum[m][p] += weights[m * memory.room + s] * load(from + m * SIZE + p * VL);
      };
      for (int64_t s = 0; s < kept.common; s++) add(s, kept.common_values + s * model.H + h * SIZE);
      for (int64_t s = kept.common; s < count; s++) add(s, kept.values + s * model.H + h * SIZE);
      add(count, own + h * SIZE);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int p = 0; p < PARTS; p++) store(out + (h + m) * SIZE + p * VL, sum[m][p] * inverse[h + m]);
    });
  }
};

}  // namespace

extern "C" {

// Slots of a column that has read so many tokens and says so many.
int64_t speaking_room(int64_t read, int64_t steps) { return whole_vectors(read + steps); }

// The columns `who` [count] of B draw up to `steps` tokens each, until they draw `stop`, and read what they draw: keys
// and values are then in `memory` [count, num_layers, 2, H, room], those of others than `who` where they were. `Model`
// and `Speech` explain the rest. `numbers` are epsilon and temperature.
void speak(int64_t B, int64_t V, int64_t num_layers, int64_t heads, int64_t size, int64_t capacity, int64_t steps,
           int64_t stop, int64_t count, int64_t room, int64_t threads, const float* const* weights,
           const float* numbers, const int64_t* length, const int64_t* who, const float* excluded, const float* logits,
           const double* uniform, float* data, int64_t* ids, int64_t* said, float* log_prob) {
  const Model model(B, V, num_layers, heads, size, capacity, numbers[0], weights);
  const Speech speech{steps, stop, numbers[1], length, excluded, logits, uniform, ids, said, log_prob,
                      Product(weights[4], model.H, V)};
  const Memory memory{data, num_layers, heads, size, room};
#pragma omp parallel num_threads(std::min(threads, count))
  {
    const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
    const int64_t first = count * thread / all, end = count * (thread + 1) / all;
    Speaker(model, speech, memory, {who + first, who + end}, first).run();
  }
}

// What was said goes from `memory` to where keys and values are kept, [2, B, heads, capacity, size] a layer, behind the
// `length` tokens that each column had read.
void keep_said(int64_t B, int64_t num_layers, int64_t heads, int64_t size, int64_t capacity, int64_t count,
               int64_t room, int64_t threads, float* const* layers, float* data, const int64_t* length,
               const int64_t* who, const int64_t* said) {
  const Memory memory{data, num_layers, heads, size, room};
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t place = 0; place < count; place++)
    for (int64_t l = 0; l < num_layers; l++)
      for (int64_t h = 0; h < heads; h++) {
        const int64_t b = who[place];
        float* const key = layers[l] + (b * heads + h) * capacity * size;
        for (int64_t s = length[b]; s < length[b] + said[b]; s++)
          memory.kept(place, l, place, 0).read(s, h, key + s * size, key + (B * heads * capacity + s) * size);
      }
}
}
