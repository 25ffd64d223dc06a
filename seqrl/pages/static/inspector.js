"use strict";
// Steps through episodes. What comes from data goes into the page as text and numbers alone, never as markup.
(() => {
  const { names, episodes } = JSON.parse(document.getElementById("episodes").textContent);
  const { by, el, svg, number, percent } = pieces;
  const action = k => names.actions[k] ?? String(k);
  const entry = (leaf, k) => (leaf.size === names.entries.length && names.entries[k]) || String(k);
  let now = 0, chosenRecall = 0, go = () => {};

  for (const episode of episodes) {
    let total = 0;
    episode.returns = episode.reward.map(reward => (total += reward));  // with each step's own reward
    for (const recall of episode.recalls) recall.bytes = Uint8Array.from(atob(recall.bytes), c => c.charCodeAt(0));
  }
  // Row t's weights, oldest first, as shares of its greatest; they end with row t itself.
  const weights = (recall, t) => {
    const { span, bytes } = recall, full = span * (span + 1) / 2;
    const start = t < span ? t * (t + 1) / 2 : full + (t - span) * span;
    return bytes.subarray(start, start + Math.min(t + 1, span));
  };

  // The timeline: rewards as bars, the value and the return so far as curves, all on one scale.
  const drawTimeline = episode => {
    const T = episode.steps, curves = [["return so far", "--c3", episode.returns]];
    if (episode.value) curves.push(["value", "--c0", episode.value]);
    if (episode.asked) curves.push(["return still asked for", "--c1", episode.asked]);
    const span = (values, more) => [Math.min(...values, ...more), Math.max(...values, ...more)];
    const x = t => 1000 * (t + 0.5) / (T + 1), onto = ([low, high]) => value => 4 + 76 * (1 - (value - low) / (high - low || 1));
    const rewards = span(episode.reward, [0]), y = onto(rewards);
    const picture = svg("svg", { viewBox: "0 0 1000 84", preserveAspectRatio: "none", height: 84, role: "img", "aria-label": "rewards and values over the episode" });
    picture.append(svg("line", { x1: 0, x2: 1000, y1: y(0), y2: y(0), class: "rule", "vector-effect": "non-scaling-stroke" }));
    const width = Math.max(1, 1000 / (T + 1) * 0.7);
    episode.reward.forEach((reward, t) => reward && picture.append(svg("rect", {
      x: x(t) - width / 2, width, y: Math.min(y(reward), y(0)), height: Math.max(1, Math.abs(y(reward) - y(0))), class: reward > 0 ? "gain" : "loss", opacity: 0.4 })));
    for (const row of episode.inner) picture.append(svg("line", { x1: 1000 * row / (T + 1), x2: 1000 * row / (T + 1), y1: 0, y2: 84, class: "inner", "vector-effect": "non-scaling-stroke" }));
    for (const [, colour, values] of curves)
      picture.append(svg("polyline", { points: values.map((value, t) => `${x(t).toFixed(1)},${onto(span(values, []))(value).toFixed(1)}`).join(" "), class: "curve", style: `--c:var(${colour})`, "vector-effect": "non-scaling-stroke" }));
    const cursor = svg("line", { y1: 0, y2: 84, class: "mark", "vector-effect": "non-scaling-stroke" });
    picture.append(cursor);
    picture.addEventListener("click", event => {
      const box = picture.getBoundingClientRect();
      go(Math.floor((event.clientX - box.left) / box.width * (T + 1)));
    });
    const keys = curves.map(([name, colour, values]) => el("li", {}, el("i", { className: "swatch", style: `--c:var(${colour})` }), `${name}, ${span(values, []).map(number).join(" to ")}`));
    if (episode.reward.some(Boolean)) keys.push(el("li", {}, `bars: rewards, ${rewards.map(number).join(" to ")}`));
    if (episode.inner.length) keys.push(el("li", {}, "dashed: an inner episode begins"));
    by("timeline").replaceChildren(picture, el("ul", { className: "legend" }, ...keys));
    return t => { cursor.setAttribute("x1", x(t)); cursor.setAttribute("x2", x(t)); };
  };

  const track = (share, from = 0, kind = "") => {
    const bar = el("i"), left = Math.min(share, from), right = Math.max(share, from);
    bar.style.left = `${100 * left}%`;
    bar.style.width = `${Math.max(100 * (right - left), share === from ? 0 : 0.6)}%`;
    const whole = el("div", { className: `track ${kind}` }, bar);
    if (from > 0 && from < 1) { const zero = el("u"); zero.style.left = `${100 * from}%`; whole.append(zero); }
    return whole;
  };

  const showSeen = (episode, t) => {
    const parts = [el("h3", {}, "What it sees")];
    if (episode.frames) parts.push(el("img", { className: "frame", alt: `frame of step ${t}`, src: episode.frames.uris[episode.frames.numbers[t]] }));
    for (const leaf of episode.leaves) {
      const title = el("p", {}, leaf.name + (leaf.size > (leaf.low || []).length && leaf.kind === "vector" ? `, the first ${leaf.low.length} of ${leaf.size} entries` : ""));
      if (leaf.kind === "image") parts.push(el("div", { className: "leaf" }, title, el("img", { className: "frame small", alt: `${leaf.name} of step ${t}`, src: leaf.uris[leaf.numbers[t]] })));
      else if (leaf.kind === "discrete") parts.push(el("div", { className: "leaf" }, title, el("div", { className: "bars" }, el("span", {}, String(leaf.values[t])), track((leaf.values[t] + 1) / leaf.size, 0, "value"), el("span", {}, `0 to ${leaf.size - 1}`))));
      else if (leaf.low.length > 12) {  // too many for bars: a square for each, strong where it is far from 0
        const cells = leaf.values[t].map((value, k) => el("i", { title: `${k}: ${number(value)}`, className: value < 0 ? "below" : "",
          style: `--share:${Math.round(100 * Math.abs(value) / (Math.max(leaf.high[k], -leaf.low[k]) || 1))}%` }));
        parts.push(el("div", { className: "leaf" }, title, el("div", { className: "cells", style: `--columns:${leaf.columns || 16}` }, ...cells)));
      } else {
        const bars = el("div", { className: "bars" });
        leaf.values[t].forEach((value, k) => {
          const range = leaf.high[k] - leaf.low[k] || 1;
          bars.append(el("span", {}, entry(leaf, k)), track((value - leaf.low[k]) / range, -leaf.low[k] / range, "value"), el("span", {}, number(value)));
        });
        parts.push(el("div", { className: "leaf" }, title, bars));
      }
    }
    by("seen").replaceChildren(...parts);
  };

  const showChosen = (episode, t) => {
    const { policy } = episode, taken = t < episode.steps ? [episode.action[t]].flat() : [];
    const parts = [el("h3", {}, "What it does")], allowed = episode.allowed && episode.allowed[t];
    const bars = el("div", { className: "bars" });
    const add = (name, bar, told, chosen, off) => bars.append(
      el("span", { className: (chosen ? "chosen " : "") + (off ? "off" : "") }, name), bar, el("span", { className: chosen ? "chosen" : "" }, told));
    if (policy.mean) {
      policy.mean[t].forEach((mean, k) => {
        const values = [...episode.action.map(a => [a].flat()[k]), ...policy.mean.map(row => row[k])];
        const low = Math.min(0, ...values), high = Math.max(0, ...values), range = high - low || 1;
        const at = value => (value - low) / range;
        add(action(k), track(at(t < episode.steps ? taken[k] : mean), at(0), "chosen"), t < episode.steps ? number(taken[k]) : "–", true);
        add("mean", track(at(mean), at(0)), `${number(mean)}, σ ${number(policy.std[t][k])}`);
      });
    } else {
      const rows = policy.probs || policy.values, row = rows[t], sizes = policy.sizes || [row.length];
      const usual = row.filter(value => value > -1e30), low = policy.values ? Math.min(...usual) : 0, high = policy.values ? Math.max(...usual) : 1;
      const least = policy.values ? 0.04 : 0;  // so that the least has a bar too
      let start = 0;
      sizes.forEach((size, part) => {
        if (sizes.length > 1) bars.append(el("span", {}, `part ${part}`), el("span"), el("span"));
        for (let k = 0; k < size; k++) {
          const value = row[start + k], chosen = taken[part] === k, off = allowed && !allowed[start + k];
          add(sizes.length > 1 ? String(k) : action(k), track(off ? 0 : least + (1 - least) * (value - low) / (high - low || 1), 0, chosen ? "chosen" : ""), off ? "not allowed" : policy.values ? number(value) : percent(value), chosen, off);
        }
        start += size;
      });
    }
    parts.push(el("p", { className: "lead" }, policy.values ? "value of each action, drawn from the least to the greatest; the one taken is blue" : policy.mean ? "the action taken, and the policy's mean" : "probability of each action; the one taken is blue"), bars);
    if (t === episode.steps) parts.push(el("p", { className: "lead leaf" }, "The final observation: no decision is taken here (mask is False)."));
    by("chosen").replaceChildren(...parts);
  };

  const showFigures = (episode, t) => {
    const last = t === episode.steps, before = t ? episode.returns[t - 1] : 0, total = episode.steps ? episode.returns[episode.steps - 1] : 0;
    const facts = [["reward of this step", last ? "–" : number(episode.reward[t])], ["return so far", number(last ? total : episode.returns[t])]];
    if (episode.value) facts.push(["value", number(episode.value[t])]);
    facts.push(["what came from here on", number(total - before)]);
    if (episode.asked) facts.push(["return still asked for", number(episode.asked[t])]);
    if (episode.policy.entropy) facts.push(["entropy of the policy", number(episode.policy.entropy[t])]);
    const ends = t === episode.steps - 1 ? episode.end : "", inner = episode.inner.indexOf(t);
    const chips = [["is_first", t === 0], ["terminated", ends === "terminated"], ["truncated", ends === "truncated"], ["mask", !last]];
    if (episode.inner.length) chips.push([`inner episode ${episode.inner.filter(row => row <= t).length} of ${episode.inner.length}`, inner >= 0]);
    by("figures").replaceChildren(el("h3", {}, "What it is worth"),
      el("dl", { className: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      el("div", { className: "chips" }, ...chips.map(([name, on]) => el("span", { className: on ? "chip on" : "chip" }, name))));
  };

  const brief = (episode, k) => {
    const words = [];
    for (const leaf of episode.leaves) {
      if (leaf.kind === "discrete") words.push(`${leaf.name} ${leaf.values[k]}`);
      if (leaf.kind === "vector" && leaf.size <= 8) leaf.values[k].forEach((value, j) => value && words.push(`${entry(leaf, j)} ${number(value)}`));
    }
    return words.slice(0, 6).join(", ") || "zeros";
  };
  const thumbnail = (episode, k) => {
    const source = episode.frames || episode.leaves.find(leaf => leaf.kind === "image");
    return source ? el("img", { src: source.uris[source.numbers[k]], alt: "" }) : null;
  };

  // What is remembered: a bar for each row, and the whole episode as a map, row by row.
  const drawMemory = episode => {
    const root = by("memory"), T = episode.steps;
    if (!episode.recalls.length) { root.replaceChildren(el("h3", {}, "What it remembers"), el("p", { className: "lead" }, "Nothing can be told of this memory.")); return () => {}; }
    chosenRecall = Math.min(chosenRecall, episode.recalls.length - 1);
    const recall = () => episode.recalls[chosenRecall];
    const choice = el("select", { "aria-label": "what is shown", onchange: () => { chosenRecall = choice.selectedIndex; paint(); show(now); } },
      ...episode.recalls.map((each, k) => el("option", { selected: k === chosenRecall }, each.name)));
    const picture = svg("svg", { viewBox: `0 0 ${T + 1} 100`, preserveAspectRatio: "none", height: 110, role: "img", "aria-label": "weight of each row of the past" });
    const bars = Array.from({ length: T + 1 }, (_, k) => svg("rect", { x: k + 0.08, width: 0.84 }));
    picture.append(...bars, ...episode.inner.map(row => svg("line", { x1: row, x2: row, y1: 0, y2: 100, class: "inner", "vector-effect": "non-scaling-stroke" })));
    picture.addEventListener("click", event => {
      const box = picture.getBoundingClientRect();
      go(Math.floor((event.clientX - box.left) / box.width * (T + 1)));
    });
    const about = el("p", { className: "lead" }), ends = el("p", { className: "lead" }), top = el("ul", { className: "top" });
    const map = el("canvas", { className: "map", width: T + 1, height: T + 1, role: "img", "aria-label": "all rows' weights" });
    map.addEventListener("click", event => { const box = map.getBoundingClientRect(); go(Math.floor((event.clientY - box.top) / box.height * (T + 1))); });
    root.replaceChildren(
      el("div", { className: "head" }, el("h3", {}, "What it remembers"), choice), about,
      el("div", { className: "recall" }, el("div", {}, picture, ends,
        el("details", { className: "whole", open: true, ontoggle: () => paint() }, el("summary", {}, "The whole episode at once"), map,
          el("p", { className: "lead" }, "Each line from top to bottom is a step, each column a row of the past; strong is the line's greatest weight. Orange marks this step."))), top));
    let image = null;
    const paint = () => {
      const context = map.getContext("2d");
      const probe = el("span", { style: "color:var(--accent)" });
      document.body.append(probe);
      const [red, green, blue] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
      probe.remove();
      image = context.createImageData(T + 1, T + 1);
      for (let t = 0; t <= T; t++) {
        const row = weights(recall(), t), first = t + 1 - row.length;
        row.forEach((weight, k) => image.data.set([red, green, blue, weight], 4 * (t * (T + 1) + first + k)));
      }
      mark(now);
    };
    const mark = t => {
      const context = map.getContext("2d");
      context.putImageData(image, 0, 0);
      context.fillStyle = "rgb(213 94 0 / 0.55)";
      for (let k = 0; k <= T; k++) if (k > t) context.fillRect(k, t, 1, 1);
    };
    const show = t => {
      const row = weights(recall(), t), first = t + 1 - row.length, past = row.subarray(0, row.length - 1);
      const most = Math.max(1, ...past), sum = past.reduce((a, b) => a + b, 0), own = row[row.length - 1] || 0;
      bars.forEach((bar, k) => {
        const weight = k >= first && k <= t ? row[k - first] : 0;
        const height = k > t ? 2 : k === t ? Math.max(2, Math.min(100, 100 * weight / (t ? most : 255))) : Math.max(weight ? 2 : 0.8, 100 * weight / most);
        bar.setAttribute("y", 100 - height); bar.setAttribute("height", height);
        bar.setAttribute("class", k > t ? "bar-unseen" : k === t ? "bar-now" : "bar-past");
      });
      about.textContent = recall().about;
      ends.textContent = t === 0 ? "The first row: nothing is past." :
        `Rows 0 to ${episode.steps}. Blue: the past, with ${percent(sum / (sum + own || 1))} of the weight; grey: this row, with ${percent(own / (sum + own || 1))}` +
        (first > 0 ? `; rows before ${first} are out of reach.` : ".") + ` The greatest is ${number(recall().largest[t])}.`;
      const order = [...past.keys()].filter(k => past[k]).sort((a, b) => past[b] - past[a]).slice(0, 4);
      top.replaceChildren(el("li", { className: "lead" }, order.length ? "Of the past, most comes from" : "Of the past, nothing counts."), ...order.map(k => el("li", {}, el("button", { type: "button", onclick: () => go(first + k) },
        el("b", {}, percent(past[k] / sum)), el("span", {}, `step ${first + k}, ${t - first - k} back`), thumbnail(episode, first + k) || el("small", {}, brief(episode, first + k))))));
      if (image) mark(t);
    };
    paint();
    repaint = paint;
    return show;
  };

  let moveCursor = () => {}, showMemory = () => {}, repaint = () => {}, current = null;
  const open = k => {
    current = episodes[k];
    moveCursor = drawTimeline(current);
    showMemory = drawMemory(current);
  };
  const show = t => {
    now = t;
    showSeen(current, t); showChosen(current, t); showFigures(current, t); showMemory(t); moveCursor(t);
  };
  new MutationObserver(() => repaint()).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());
  const steps = stepper(episodes.length, {
    steps: k => episodes[k].steps, title: k => episodes[k].end, open, show,
    label: k => `episode ${k + 1} · return ${number(episodes[k].total)} · ${episodes[k].steps} steps`,
  });
  go = steps.go;
})();
