"use strict";
// The theme: as the system is, until someone chooses.
(() => {
  const root = document.documentElement,
    key = "seqrl-theme";
  const kept = () => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  }; // refused in some windows
  const show = theme => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  };
  show(kept());
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    const theme = dark ? "light" : "dark";
    show(theme);
    try {
      localStorage.setItem(key, theme);
    } catch {
      /* then it holds for this visit */
    }
  });
})();

// Charts: the values under the pointer, read back from the paths that are drawn.
(() => {
  const forward = { linear: x => x, log: Math.log10, root: x => Math.sqrt(Math.max(x, 0)) };
  const inverse = { linear: x => x, log: x => 10 ** x, root: x => x * x };
  const format = value => {
    const size = Math.abs(value);
    if (size >= 1e6) return (value / 1e6).toPrecision(4).replace(/\.?0+$/, "") + "M";
    if (size >= 1e4) return (value / 1e3).toPrecision(4).replace(/\.?0+$/, "") + "k";
    return String(Number(value.toPrecision(4)));
  };
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);

  for (const svg of document.querySelectorAll("svg.chart[data-frame]")) {
    const [left, top, width, height] = svg.dataset.frame.split(" ").map(Number);
    const [x0, x1, y0, y1] = svg.dataset.domain.split(" ").map(Number);
    const [xKind, yKind] = svg.dataset.scale.split(" ");
    const value = (place, low, high, kind) =>
      inverse[kind](forward[kind](low) + place * (forward[kind](high) - forward[kind](low)));
    const lines = [...svg.querySelectorAll("path.line")]
      .map(path => ({
        name: path.dataset.name,
        colour: path.style.getPropertyValue("--c"),
        points: (path.getAttribute("d").match(/-?[\d.]+,-?[\d.]+/g) || []).map(p => p.split(",").map(Number)),
      }))
      .filter(line => line.points.length);
    if (!lines.length) continue;
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, at] of [
      ["class", "cursor"],
      ["y1", top],
      ["y2", top + height],
      ["visibility", "hidden"],
    ])
      cursor.setAttribute(name, at);
    svg.append(cursor);
    const hide = () => {
      tip.hidden = true;
      cursor.setAttribute("visibility", "hidden");
    };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect(),
        scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      if (x < left - 4 || x > left + width + 4) return hide();
      const near = lines.map(line => ({
        ...line,
        at: line.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a)),
      }));
      const place = near.reduce((a, b) => (Math.abs(b.at[0] - x) < Math.abs(a.at[0] - x) ? b : a)).at[0];
      tip.replaceChildren();
      const add = (name, text, colour) => {
        const row = document.createElement("div"),
          label = document.createElement("span"),
          number = document.createElement("b");
        if (colour) {
          const dot = document.createElement("i");
          dot.style.setProperty("--c", colour);
          label.append(dot);
        }
        label.append(name);
        number.append(text);
        row.append(label, number);
        tip.append(row);
      };
      add(svg.dataset.x || "x", format(value((place - left) / width, x0, x1, xKind)));
      for (const line of near)
        add(line.name, format(value(1 - (line.at[1] - top) / height, y0, y1, yKind)), line.colour);
      cursor.setAttribute("x1", place);
      cursor.setAttribute("x2", place);
      cursor.setAttribute("visibility", "visible");
      tip.hidden = false;
      const right = event.clientX + 16 + tip.offsetWidth > innerWidth;
      tip.style.left = `${right ? event.clientX - 16 - tip.offsetWidth : event.clientX + 16}px`;
      tip.style.top = `${Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 4)}px`;
    });
  }
})();
