"use strict";
// Steps through the agent's own tokens of conversations. All that was said goes into the page as text.
(() => {
  const { by, el, number, percent } = pieces;
  const { values, episodes } = JSON.parse(document.getElementById("episodes").textContent);
  for (const episode of episodes) {
    if (values === "utterance") {
      // an utterance's V stands at its first token and its Q at its last: all of it shows both
      let v = null,
        q = null;
      for (const token of episode.said) v = token.v = token.v ?? v;
      for (const token of [...episode.said].reverse()) q = token.q = token.q ?? q;
    }
    episode.own = new Map(episode.said.map((token, d) => [token.place, d]));
    if (episode.recall) {
      const bytes = Uint8Array.from(atob(episode.recall.bytes), c => c.charCodeAt(0));
      let start = 0;
      episode.recall.rows = episode.said.map(token => bytes.subarray(start, (start += token.place)));
    }
  }
  const shades = [
    [
      "what this token rests on",
      episode => episode.recall !== null,
      (episode, d) => place => (place < episode.said[d].place ? episode.recall.rows[d][place] / 255 : 0),
    ],
    [
      "probability of each token",
      () => true,
      episode => place => (episode.own.has(place) ? episode.said[episode.own.get(place)].prob : 0),
    ],
    [
      "Q − V of each token",
      episode => episode.said.some(token => token.q !== null && token.v !== null),
      episode => {
        const gaps = episode.said.map(token => (token.q === null || token.v === null ? 0 : token.q - token.v));
        const most = Math.max(...gaps.map(Math.abs)) || 1;
        return place => (gaps[episode.own.get(place) ?? -1] ?? 0) / most;
      },
    ],
    ["nothing", () => true, () => () => 0],
  ];
  const visible = text => text.replace(/\n/g, "↵").replace(/\t/g, "⇥");
  let current = null,
    chips = [],
    shown = shades,
    chosen = shades[0],
    steps = null;

  const drawTalk = episode => {
    shown = shades.filter(([, known]) => known(episode));
    if (!shown.includes(chosen)) chosen = shown[0];
    chips = episode.tokens.map((text, place) => {
      const own = episode.own.has(place),
        special = !episode.speakers[place] || /^<[a-z ]+>$/.test(text);
      const chip = el("span", { className: `tok${own ? " own" : ""}${special ? " special" : ""}` }, visible(text));
      if (own) chip.addEventListener("click", () => steps.go(episode.own.get(place)));
      return chip;
    });
    const turns = [];
    chips.forEach((chip, place) => {
      const who = episode.speakers[place] || (turns.length ? turns[turns.length - 1].who : "");
      if (!turns.length || turns[turns.length - 1].who !== who) turns.push({ who, parts: [] });
      turns[turns.length - 1].parts.push(chip);
    });
    by("talk").replaceChildren(
      ...turns.map(({ who, parts }) =>
        el("div", { className: `turn ${who}` }, el("small", {}, who || "the beginning"), el("p", {}, ...parts)),
      ),
    );
    const choice = el(
      "select",
      {
        "aria-label": "what colours show",
        onchange: () => {
          chosen = shown[choice.selectedIndex];
          show(steps.step());
        },
      },
      ...shown.map(each => el("option", { selected: each === chosen }, each[0])),
    );
    by("talk-head").replaceChildren(el("h3", {}, "What was said"), choice);
    by("facts").replaceChildren(
      ...(episode.facts.length
        ? [
            el(
              "div",
              { className: "card spaced" },
              el("h3", {}, "What was so, and what came of it"),
              el(
                "dl",
                { className: "settings" },
                ...episode.facts.map(([name, value]) =>
                  el(
                    "div",
                    {},
                    el("dt", {}, name.replaceAll("_", " ")),
                    el("dd", {}, typeof value === "number" ? number(value) : String(value)),
                  ),
                ),
              ),
            ),
          ]
        : []),
    );
  };

  const shade = d => {
    if (!current.said.length) return;
    const weight = chosen[2](current, d);
    chips.forEach((chip, place) => {
      const share = weight(place);
      chip.style.setProperty("--share", `${Math.round(100 * Math.min(1, Math.abs(share)))}%`);
      chip.classList.toggle("against", share < 0);
      chip.classList.toggle("now", place === current.said[d].place);
    });
  };

  const show = d => {
    shade(d);
    const token = current.said[d];
    if (!token) return by("token").replaceChildren(el("p", {}, "The agent said nothing."));
    const so_far = current.said.slice(0, d + 1).reduce((sum, each) => sum + each.reward, 0),
      utterance = values === "utterance";
    const facts = [["probability", percent(token.prob)]];
    if (token.cloned_prob !== null) facts.push(["of the cloned policy", percent(token.cloned_prob)]);
    if (token.q !== null) facts.push([utterance ? "Q of the utterance" : "Q", number(token.q)]);
    if (token.v !== null) facts.push([utterance ? "V before the utterance" : "V", number(token.v)]);
    if (token.q !== null && token.v !== null) facts.push(["Q − V", number(token.q - token.v)]);
    facts.push(["reward", number(token.reward)], ["return so far", number(so_far)]);
    const bars = el("div", { className: "bars" }),
      withValues = token.options.some(option => option[2] !== null);
    for (const [text, prob, q] of token.options) {
      const said = text === current.tokens[token.place],
        bar = el("i");
      bar.style.width = `${100 * prob}%`;
      bars.append(
        el("span", { className: said ? "chosen word" : "word" }, visible(text)),
        el("div", { className: `track${said ? " chosen" : ""}` }, bar),
        el("span", {}, percent(prob) + (withValues ? `, Q ${number(q)}` : "")),
      );
    }
    by("token").replaceChildren(
      el("h3", {}, "This token"),
      el("p", { className: "spoken" }, visible(current.tokens[token.place])),
      el("dl", { className: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      el("div", { className: "chips" }, el("span", { className: "chip on" }, "mask")),
      el("div", { className: "leaf" }, el("p", {}, "the likeliest in its place"), bars),
      ...(chosen === shades[0] ? [el("p", { className: "lead leaf" }, `Blue: ${current.recall.about}`)] : []),
    );
    chips[token.place].scrollIntoView({ block: "nearest" });
  };

  steps = stepper(episodes.length, {
    steps: k => Math.max(0, episodes[k].said.length - 1),
    title: () => "",
    show: d => {
      if (steps) show(d);
    },
    open: k => {
      current = episodes[k];
      drawTalk(current);
    },
    label: k => `conversation ${k + 1} · return ${number(episodes[k].total)} · ${episodes[k].said.length} tokens`,
  });
  show(0);
})();
