"use strict";
// What pages of episodes share: pieces of a page made of text and numbers, never of markup; and the controls.
const pieces = (() => {
  const by = id => document.getElementById(id);
  const el = (tag, props = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(props)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key in made && key !== "list") made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter(child => child !== null && child !== undefined));
    return made;
  };
  const svg = (tag, props = {}, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(props)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const number = value =>
    value === null || value === undefined ? "–" : String(Number(Number(value).toPrecision(4))).replace("-", "−");
  const percent = share => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
  return { by, el, svg, number, percent };
})();

// Buttons, slider, keys and tabs. `open(k)` begins an episode, `show(t)` a step of it; `label(k)` is a tab's text.
const stepper = (() => {
  const { by, el } = pieces;
  const shapes = {
    first: "M3 3v10h2V3zM13 3v10L6 8z",
    back: "M11 2.5 5.5 8l5.5 5.5 1.3-1.3L8.1 8l4.2-4.2z",
    play: "M4 2.5v11L13 8z",
    stop: "M4 3h3v10H4zM9 3h3v10H9z",
    next: "M5 2.5 10.5 8 5 13.5 3.7 12.2 7.9 8 3.7 3.8z",
    last: "M11 3v10h2V3zM3 3v10l7-5z",
  };
  const icon = name =>
    pieces.svg(
      "svg",
      { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" },
      pieces.svg("path", { d: shapes[name] }),
    );

  return (count, { steps, label, title, open, show }) => {
    const now = { episode: 0, step: 0, timer: 0 };
    const last = () => steps(now.episode);
    const go = step => {
      now.step = Math.max(0, Math.min(last(), step));
      by("slider").value = now.step;
      by("place").replaceChildren("step ", el("b", {}, String(now.step)), ` of ${last()}`);
      for (const [id, off] of [
        ["first", !now.step],
        ["back", !now.step],
        ["next", now.step === last()],
        ["last", now.step === last()],
      ])
        by(`step-${id}`).disabled = off;
      show(now.step);
    };
    const stop = () => {
      clearInterval(now.timer);
      now.timer = 0;
      by("step-play").replaceChildren(icon("play"));
    };
    const play = () => {
      if (now.timer) return stop();
      if (now.step === last()) go(0);
      by("step-play").replaceChildren(icon("stop"));
      now.timer = setInterval(
        () => {
          go(now.step + 1);
          if (now.step === last()) stop();
        },
        last() > 60 ? 90 : 450,
      );
    };
    const choose = k => {
      stop();
      now.episode = k;
      [...by("tabs").children].forEach((tab, j) => tab.setAttribute("aria-pressed", String(j === k)));
      by("slider").max = last();
      open(k);
      go(0);
    };
    by("tabs").append(
      ...Array.from({ length: count }, (_, k) =>
        el("button", { type: "button", title: title(k), onclick: () => choose(k) }, label(k)),
      ),
    );
    by("slider").addEventListener("input", event => {
      stop();
      go(Number(event.target.value));
    });
    const jumps = {
      first: () => go(0),
      back: () => go(now.step - 1),
      next: () => go(now.step + 1),
      last: () => go(Infinity),
    };
    for (const [id, jump] of Object.entries(jumps)) {
      by(`step-${id}`).replaceChildren(icon(id));
      by(`step-${id}`).addEventListener("click", () => {
        stop();
        jump();
      });
    }
    by("step-play").addEventListener("click", play);
    document.addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
      if (event.key === " " && event.target.matches("button, summary")) return; // it presses what has the focus
      const far = event.shiftKey ? 10 : 1;
      const keys = {
        ArrowLeft: () => go(now.step - far),
        ArrowRight: () => go(now.step + far),
        Home: jumps.first,
        End: jumps.last,
      };
      if (keys[event.key]) {
        stop();
        keys[event.key]();
        event.preventDefault();
      } else if (event.key === " ") {
        play();
        event.preventDefault();
      } else if (/^[1-9]$/.test(event.key) && event.key <= count) choose(event.key - 1);
    });
    choose(0);
    return { go, step: () => now.step };
  };
})();
