"use strict";
// Steps through episodes. What comes from data goes into the page as text and numbers alone, never as markup.
(() => {
  const { names, episodes } = JSON.parse(document.getElementById("episodes").textContent);
  const { by, el, svg, number, percent } = pieces;
  const action = k => names.actions[k] ?? String(k);
  const entry = (leaf, k) => {
    if (leaf.size === names.entries.length && names.entries[k]) return names.entries[k];
    if (!episodes[0].named) return String(k);
    return leaf.size === 1 ? leaf.name : `${leaf.name}.${k}`;
  };
  let go = () => {};

  for (const episode of episodes) {
    let total = 0;
    episode.returns = episode.reward.map(reward => (total += reward)); // with each step's own reward
  }

  // The timeline: rewards as bars, the value and the return so far as curves, each on a scale of its own.
  const span = (values, more = []) => [Math.min(...values, ...more), Math.max(...values, ...more)];
  const onto = (values, more) => {
    const [low, high] = span(values, more);
    return value => 4 + 76 * (1 - (value - low) / (high - low || 1));
  };
  const still = { "vector-effect": "non-scaling-stroke" };
  const upright = (x, kind) => svg("line", { x1: x, x2: x, y1: 0, y2: 84, class: kind, ...still });
  const rewardBars = (rewards, x, width) => {
    const y = onto(rewards, [0]);
    const bars = rewards.map((reward, t) => {
      const [top, height] = [Math.min(y(reward), y(0)), Math.max(1, Math.abs(y(reward) - y(0)))];
      const place = { x: x(t) - width / 2, width, y: top, height };
      return reward && svg("rect", { ...place, class: reward > 0 ? "gain" : "loss", opacity: 0.4 });
    });
    return [svg("line", { x1: 0, x2: 1000, y1: y(0), y2: y(0), class: "rule", ...still }), ...bars.filter(Boolean)];
  };
  const drawTimeline = episode => {
    const T = episode.steps;
    const curves = [["return so far", "--c3", episode.returns]];
    if (episode.value) curves.push([names.value, "--c0", episode.value]);
    if (episode.asked) curves.push(["return still asked for", "--c1", episode.asked]);
    const x = t => (1000 * (t + 0.5)) / (T + 1);
    const picture = svg("svg", { viewBox: "0 0 1000 84", preserveAspectRatio: "none", height: 84, role: "img" });
    picture.setAttribute("aria-label", "rewards and values over the episode");
    picture.append(...rewardBars(episode.reward, x, Math.max(1, 700 / (T + 1))));
    picture.append(...episode.inner.map(row => upright((1000 * row) / (T + 1), "inner")));
    for (const [, colour, values] of curves) {
      const y = onto(values);
      const points = values.map((value, t) => `${x(t).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
      picture.append(svg("polyline", { points, class: "curve", style: `--c:var(${colour})`, ...still }));
    }
    const cursor = upright(0, "mark");
    picture.append(cursor);
    picture.addEventListener("click", event => {
      const box = picture.getBoundingClientRect();
      go(Math.floor(((event.clientX - box.left) / box.width) * (T + 1)));
    });
    const words = values => span(values).map(number).join(" to ");
    const keys = curves.map(([name, colour, values]) =>
      el("li", {}, el("i", { className: "swatch", style: `--c:var(${colour})` }), `${name}, ${words(values)}`),
    );
    if (episode.reward.some(Boolean)) keys.push(el("li", {}, `bars: rewards, ${words([0, ...episode.reward])}`));
    if (episode.inner.length) keys.push(el("li", {}, "dashed: an inner episode begins"));
    by("timeline").replaceChildren(picture, el("ul", { className: "legend" }, ...keys));
    return t => ["x1", "x2"].forEach(name => cursor.setAttribute(name, x(t)));
  };

  const track = (share, from = 0, kind = "") => {
    const bar = el("i"),
      left = Math.min(share, from),
      right = Math.max(share, from);
    bar.style.left = `${100 * left}%`;
    bar.style.width = `${Math.max(100 * (right - left), share === from ? 0 : 0.6)}%`;
    const whole = el("div", { className: `track ${kind}` }, bar);
    if (from > 0 && from < 1) {
      const zero = el("u");
      zero.style.left = `${100 * from}%`;
      whole.append(zero);
    }
    return whole;
  };

  // A part of the observation at step t: an image, a number of so many, a bar or a square for each entry.
  const imagePart = (leaf, t) =>
    el("img", { className: "frame small", alt: `${leaf.name} of step ${t}`, src: leaf.uris[leaf.numbers[t]] });
  const discretePart = (leaf, t) => {
    const bar = track((leaf.values[t] + 1) / leaf.size, 0, "value");
    return el(
      "div",
      { className: "bars" },
      el("span", {}, String(leaf.values[t])),
      bar,
      el("span", {}, `0 to ${leaf.size - 1}`),
    );
  };
  const vectorPart = (leaf, t) => {
    if (leaf.low.length > 12) {
      const cells = leaf.values[t].map((value, k) => {
        const share = Math.abs(value) / (Math.max(leaf.high[k], -leaf.low[k]) || 1);
        const style = `--share:${Math.round(100 * share)}%`;
        return el("i", { title: `${k}: ${number(value)}`, className: value < 0 ? "below" : "", style });
      });
      return el("div", { className: "cells", style: `--columns:${leaf.columns || 16}` }, ...cells);
    }
    const bars = leaf.values[t].flatMap((value, k) => {
      const range = leaf.high[k] - leaf.low[k] || 1;
      const bar = track((value - leaf.low[k]) / range, Math.min(1, Math.max(0, -leaf.low[k] / range)), "value");
      return [el("span", {}, entry(leaf, k)), bar, el("span", {}, number(value))];
    });
    return el("div", { className: "bars" }, ...bars);
  };
  const partOf = { image: imagePart, discrete: discretePart, vector: vectorPart };
  const showSeen = (episode, t) => {
    const parts = [el("h3", {}, "What it sees")];
    if (episode.frames) {
      const src = episode.frames.uris[episode.frames.numbers[t]];
      parts.push(el("img", { className: "frame", alt: `frame of step ${t}`, src }));
    }
    for (const leaf of episode.leaves) {
      const cut = leaf.kind === "vector" && leaf.size > leaf.low.length;
      const title = leaf.name + (cut ? `, the first ${leaf.low.length} of ${leaf.size} entries` : "");
      parts.push(el("div", { className: "leaf" }, el("p", {}, title), partOf[leaf.kind](leaf, t)));
    }
    by("seen").replaceChildren(...parts);
  };

  // The policy at step t, three cells for each action: its name, a bar, a figure.
  const actionRow = (name, bar, told, chosen, off) => [
    el("span", { className: (chosen ? "chosen " : "") + (off ? "off" : "") }, name),
    bar,
    el("span", { className: chosen ? "chosen" : "" }, told),
  ];
  const gaussianRows = ({ policy, action: actions, names: own, steps }, t) =>
    policy.mean[t].flatMap((mean, k) => {
      const place = policy.numbers ? policy.numbers[k] : k;
      const taken = actions.map(each => [each].flat()[place]);
      const [low, high] = span([...taken, ...policy.mean.map(row => row[k])], [0]);
      const at = value => (value - low) / (high - low || 1);
      const [bar, told] = t < steps ? [at(taken[t]), number(taken[t])] : [at(mean), "–"];
      return [
        ...actionRow(own[place] ?? action(k), track(bar, at(0), "chosen"), told, true),
        ...actionRow("mean", track(at(mean), at(0)), `${number(mean)}, σ ${number(policy.std[t][k])}`),
      ];
    });
  const discreteRows = (episode, t) => {
    const { probs, values, choices, sizes = [(probs || values)[t].length] } = episode.policy;
    const row = (probs || values)[t];
    const [low, high] = values ? span(row.filter(value => value > -1e30)) : [0, 1];
    const least = values ? 0.04 : 0; // so that the least value has a bar too
    const taken = t < episode.steps ? [episode.action[t]].flat() : [];
    const names = sizes.flatMap((size, part) => Array.from({ length: size }, (_, k) => [part, k]));
    return names.flatMap(([part, k], j) => {
      const off = episode.allowed && !episode.allowed[t][j];
      const place = choices ? choices[part] : part;
      const chosen = taken[place] === k;
      const share = off ? 0 : least + ((1 - least) * (row[j] - low)) / (high - low || 1);
      const told = off ? "not allowed" : values ? number(row[j]) : percent(row[j]);
      const own = episode.names[place] ?? (sizes.length > 1 ? part : null);
      const name = own === null ? action(k) : `${own}: ${k}`;
      return actionRow(name, track(share, 0, chosen ? "chosen" : ""), told, chosen, off);
    });
  };
  const explained = policy => {
    if (policy.values) return "value of each action, drawn from the least to the greatest; the one taken is blue";
    if (policy.mean && policy.probs) return "probability of each choice, the one taken is blue; numbers taken, and their means";
    return policy.mean
      ? "the action taken, and the policy's mean"
      : "probability of each action; the one taken is blue";
  };
  const showChosen = (episode, t) => {
    const discrete = episode.policy.probs || episode.policy.values;
    const rows = [
      ...(discrete ? discreteRows(episode, t) : []),
      ...(episode.policy.mean ? gaussianRows(episode, t) : []),
    ];
    const parts = [
      el("p", { className: "lead" }, explained(episode.policy)),
      el("div", { className: "bars" }, ...rows),
    ];
    const over = "The final observation: no decision is taken here (mask is False).";
    if (t === episode.steps) parts.push(el("p", { className: "lead leaf" }, over));
    by("chosen").replaceChildren(el("h3", {}, "What it does"), ...parts);
  };

  const showFigures = (episode, t) => {
    const last = t === episode.steps;
    const before = t ? episode.returns[t - 1] : 0;
    const total = episode.returns[episode.steps - 1] ?? 0;
    const facts = [
      ["reward of this step", last ? "–" : number(episode.reward[t])],
      ["return so far", number(last ? total : episode.returns[t])],
      ...(episode.value ? [[names.value, number(episode.value[t])]] : []),
      ["what came from here on", number(total - before)],
      ...(episode.asked ? [["return still asked for", number(episode.asked[t])]] : []),
      ...(episode.policy.entropy ? [["entropy of the policy", number(episode.policy.entropy[t])]] : []),
    ];
    const ends = t === episode.steps - 1;
    const begun = episode.inner.filter(row => row <= t).length;
    const chips = [
      ["is_first", t === 0],
      ["terminated", ends && episode.terminated],
      ["truncated", ends && episode.truncated],
      ["mask", !last, "on: a decision, from which is learnt; off: the observation after the last one"],
      ...(begun ? [[`inner episode ${begun} of ${episode.inner.length}`, episode.inner.includes(t)]] : []),
    ];
    const terms = facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
    const flags = chips.map(([name, on, title = ""]) =>
      el("span", { className: on ? "chip on" : "chip", title }, name),
    );
    const parts = [el("dl", { className: "facts" }, ...terms), el("div", { className: "chips" }, ...flags)];
    by("figures").replaceChildren(el("h3", {}, "What it is worth"), ...parts);
  };

  let moveCursor = () => {},
    showMemory = () => {},
    current = null;
  const open = k => {
    current = episodes[k];
    moveCursor = drawTimeline(current);
    showMemory = memoryCard(current, step => go(step), entry);
  };
  const show = t => {
    showSeen(current, t);
    showChosen(current, t);
    showFigures(current, t);
    showMemory(t);
    moveCursor(t);
  };
  const steps = stepper(episodes.length, {
    steps: k => episodes[k].steps,
    title: k => ["terminated", "truncated"].filter(flag => episodes[k][flag]).join(", ") || "cut short to be shown",
    open,
    show,
    label: k => `episode ${k + 1} · return ${number(episodes[k].total)} · ${episodes[k].steps} steps`,
  });
  go = steps.go;
})();
