"use strict";
// What is remembered at a step: a bar for each row of the past, the rows that count most, the whole episode as a map.
const memoryCard = (() => {
  const { by, el, svg, number, percent } = pieces;
  let chosen = 0; // of the episode's recalls; kept from one episode to the next
  let repaint = () => {};
  new MutationObserver(() => repaint()).observe(document.documentElement, {
    attributes: true,
    attributeFilter: ["data-theme"],
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());

  // Row t's weights, oldest first, as shares of its greatest (255); they end with row t itself.
  const weights = (recall, t) => {
    if (typeof recall.bytes === "string") recall.bytes = Uint8Array.from(atob(recall.bytes), c => c.charCodeAt(0));
    const { span, bytes } = recall;
    const start = t < span ? (t * (t + 1)) / 2 : (span * (span + 1)) / 2 + (t - span) * span;
    return bytes.subarray(start, start + Math.min(t + 1, span));
  };

  const accent = () => {
    const probe = el("span", { style: "color:var(--accent)" });
    document.body.append(probe);
    const colour = getComputedStyle(probe).color.match(/[\d.]+/g);
    probe.remove();
    return colour.slice(0, 3).map(Number);
  };

  // A line of pixels for each step, a column for each row of the past.
  const drawMap = (recall, T) => {
    const canvas = el("canvas", { className: "map", width: T + 1, height: T + 1, role: "img" });
    canvas.setAttribute("aria-label", "all rows' weights");
    const context = canvas.getContext("2d");
    const image = context.createImageData(T + 1, T + 1);
    const paint = () => {
      const colour = accent();
      for (let t = 0; t <= T; t++) {
        const row = weights(recall(), t);
        const first = t + 1 - row.length;
        for (let k = 0; k <= T; k++) {
          image.data.set([...colour, row[k - first] ?? 0], 4 * (t * (T + 1) + k));
        }
      }
    };
    const mark = t => {
      context.putImageData(image, 0, 0);
      context.fillStyle = "rgb(213 94 0 / 0.55)";
      context.fillRect(t + 1, t, T - t, 1);
    };
    return { canvas, paint, mark };
  };

  const drawBars = episode => {
    const T = episode.steps;
    const picture = svg("svg", { viewBox: `0 0 ${T + 1} 100`, preserveAspectRatio: "none", height: 110, role: "img" });
    picture.setAttribute("aria-label", "weight of each row of the past");
    const bars = Array.from({ length: T + 1 }, (_, k) => svg("rect", { x: k + 0.08, width: 0.84 }));
    const inner = episode.inner.map(row => svg("line", { x1: row, x2: row, y1: 0, y2: 100, class: "inner" }));
    inner.forEach(line => line.setAttribute("vector-effect", "non-scaling-stroke"));
    picture.append(...bars, ...inner);
    const show = (row, t) => {
      const first = t + 1 - row.length;
      const most = t ? Math.max(1, ...row.subarray(0, row.length - 1)) : 255;
      bars.forEach((bar, k) => {
        const weight = k > t ? 0 : (row[k - first] ?? 0);
        const height = Math.min(100, Math.max((100 * weight) / most, weight || k >= t ? 2 : 0.8));
        bar.setAttribute("y", 100 - height);
        bar.setAttribute("height", height);
        bar.setAttribute("class", k > t ? "bar-unseen" : k === t ? "bar-now" : "bar-past");
      });
    };
    return { picture, show };
  };

  // What was seen at a row: a small picture, or a few words.
  const glimpse = (episode, k, entry) => {
    const source = episode.frames || episode.leaves.find(leaf => leaf.kind === "image");
    if (source) return el("img", { src: source.uris[source.numbers[k]], alt: "" });
    const words = [];
    for (const leaf of episode.leaves) {
      if (leaf.kind === "discrete") words.push(`${leaf.name} ${leaf.values[k]}`);
      if (leaf.kind === "vector" && leaf.size <= 8)
        leaf.values[k].forEach((value, j) => value && words.push(`${entry(leaf, j)} ${number(value)}`));
    }
    return el("small", {}, words.slice(0, 6).join(", ") || "zeros");
  };

  const greatest = (row, t, look) => {
    const past = row.subarray(0, row.length - 1);
    const first = t + 1 - row.length;
    const sum = past.reduce((a, b) => a + b, 0);
    const order = [...past.keys()].filter(k => past[k]).sort((a, b) => past[b] - past[a]);
    const title = order.length ? "Of the past, most comes from" : "Of the past, nothing counts.";
    const buttons = order.slice(0, 4).map(k => {
      const words = [el("b", {}, percent(past[k] / sum)), el("span", {}, `step ${first + k}, ${t - first - k} back`)];
      const go = () => look.go(first + k);
      return el("li", {}, el("button", { type: "button", onclick: go }, ...words, look.glimpse(first + k)));
    });
    return [el("li", { className: "lead" }, title), ...buttons];
  };

  const inWords = (recall, row, t, T) => {
    if (t === 0) return "The first row: nothing is past.";
    const all = row.reduce((a, b) => a + b, 0) || 1;
    const own = row[row.length - 1] / all;
    const first = t + 1 - row.length;
    const reach = first > 0 ? `; rows before ${first} are out of reach.` : ".";
    const shares = `Blue: the past, with ${percent(1 - own)} of the weight; grey: this row, with ${percent(own)}`;
    return `Rows 0 to ${T}. ${shares}${reach} The greatest is ${number(recall.largest[t])}.`;
  };

  const fill = (root, { choice, about, bars, ends, map, top }) => {
    const key =
      "Each line from top to bottom is a step, each column a row of the past; strong is the line's greatest weight. " +
      "Orange marks this step.";
    const words = [el("summary", {}, "The whole episode at once"), map.canvas, el("p", { className: "lead" }, key)];
    const whole = el("details", { className: "whole", open: true }, ...words);
    root.replaceChildren(
      el("div", { className: "head" }, el("h3", {}, "What it remembers"), choice),
      about,
      el("div", { className: "recall" }, el("div", {}, bars.picture, ends, whole), top),
    );
  };

  // Fills the card for an episode, and returns what shows a step of it.
  return (episode, go, entry) => {
    const T = episode.steps;
    const recalls = episode.recalls;
    if (!recalls.length) {
      const nothing = el("p", { className: "lead" }, "Nothing can be told of this memory.");
      by("memory").replaceChildren(el("h3", {}, "What it remembers"), nothing);
      return () => {};
    }
    chosen = Math.min(chosen, recalls.length - 1);
    let now = 0;
    const recall = () => recalls[chosen];
    const [about, ends] = [0, 1].map(() => el("p", { className: "lead" }));
    const top = el("ul", { className: "top" });
    const [bars, map] = [drawBars(episode), drawMap(recall, T)];
    const look = { go, glimpse: k => glimpse(episode, k, entry) };
    const show = t => {
      now = t;
      const row = weights(recall(), t);
      bars.show(row, t);
      about.textContent = recall().about;
      ends.textContent = inWords(recall(), row, t, T);
      top.replaceChildren(...greatest(row, t, look));
      map.mark(t);
    };
    repaint = () => {
      map.paint();
      show(now);
    };
    const options = recalls.map((each, k) => el("option", { selected: k === chosen }, each.name));
    const choice = el("select", { "aria-label": "what is shown" }, ...options);
    choice.addEventListener("change", () => {
      chosen = choice.selectedIndex;
      repaint();
    });
    const place = (start, length) => Math.floor((start / length) * (T + 1));
    bars.picture.addEventListener("click", event => {
      const box = bars.picture.getBoundingClientRect();
      go(place(event.clientX - box.left, box.width));
    });
    map.canvas.addEventListener("click", event => {
      const box = map.canvas.getBoundingClientRect();
      go(place(event.clientY - box.top, box.height));
    });
    fill(by("memory"), { choice, about, bars, ends, map, top });
    map.paint();
    return show;
  };
})();
