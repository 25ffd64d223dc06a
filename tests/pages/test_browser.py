"""Pages in a browser: their scripts do what they should, and load nothing."""

import dataclasses
import html
import json
import shutil
import subprocess

import gymnasium as gym
import numpy as np
import pytest
from markup_reading import EVIL, Page
from mixed_actions import ALL
from page_contents import ABOUT, BOX, played, played_mixed, spoken

from seqrl.pages.dialogues import write_dialogues_page
from seqrl.pages.inspector import write_inspector
from seqrl.pages.run_page import run_page

KEYS = gym.spaces.Dict({"state": gym.spaces.Box(-np.inf, np.inf, (2,)), "set": gym.spaces.Box(-1, 1, (1,))})
WATCH = """<script>
window.errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("securitypolicyviolation", event => errors.push(event.violatedDirective));
console.error = console.warn = (...words) => errors.push(words.join(" "));
</script>"""
REPORT = """<script>
parent.document.getElementById("NAME").textContent = JSON.stringify((() => {
  const $ = id => document.getElementById(id), text = id => $(id).textContent, seen = [];
  const key = key => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  try { STEPS } catch (error) { errors.push(String(error)); }
  return { seen, errors };
})());
</script>"""
STEPS = {
    "episodes": """
      const change = (choice, k) => { choice.selectedIndex = k; choice.dispatchEvent(new Event("change")); };
      seen.push(text("place"));
      $("step-next").click(); $("step-next").click(); seen.push(text("place"));
      key("ArrowLeft"); seen.push(text("place"));
      key("End"); seen.push($("step-next").disabled, text("chosen").includes("no decision"));
      $("slider").value = 1; $("slider").dispatchEvent(new Event("input"));
      seen.push(text("place"), text("seen").includes("cue"));
      change(document.querySelector("select"), 2);
      seen.push(text("memory").includes("gradient"));
      document.querySelector(".top button").click(); seen.push(text("place"));
      key("2");
      seen.push(document.querySelector("#tabs [aria-pressed=true]").textContent.startsWith("episode 2"));
      $("theme").click(); seen.push(document.documentElement.dataset.theme);
      document.querySelector("#timeline svg").dispatchEvent(new MouseEvent("click", { clientX: 5 }));
      seen.push(text("place"));""",
    "mixed": """
      const rows = [...$("chosen").querySelectorAll(".bars > span:nth-child(3n + 1)")].map(row => row.textContent);
      seen.push(rows.join(" "), $("chosen").querySelectorAll("span.chosen").length);
      key("End"); seen.push(text("chosen").includes("no decision"));""",
    "named": """
      const first = row => [row.textContent, row.nextElementSibling.querySelector("i").style.width];
      seen.push([...$("seen").querySelectorAll(".bars > span:nth-child(3n + 1)")].map(first).join(" "));
      const chip = [...document.querySelectorAll(".chip")].find(chip => chip.textContent === "mask");
      seen.push(chip.title.slice(0, 14));""",
    "talks": """
      const change = (choice, k) => { choice.selectedIndex = k; choice.dispatchEvent(new Event("change")); };
      const first = text("token");
      key("ArrowRight"); seen.push(text("token") !== first, text("place").startsWith("step 1 of"));
      seen.push(/Q − V/.test(text("token")), document.querySelectorAll(".tok.now").length);
      document.querySelector(".tok.own").click(); seen.push(text("place").startsWith("step 0 of"));
      for (let k = 0; k < 4; k++) change(document.querySelector("select"), k);
      key("2");
      seen.push(document.querySelector("#tabs [aria-pressed=true]").textContent.startsWith("conversation 2"));""",
    "run": """
      const chart = document.querySelector("svg.chart"), box = chart.getBoundingClientRect();
      const place = { clientX: box.left + box.width / 2, clientY: box.top + 20 };
      chart.dispatchEvent(new PointerEvent("pointermove", place));
      seen.push($("tip").hidden, ...[...$("tip").querySelectorAll("b")].map(b => Number(b.textContent)));
      chart.dispatchEvent(new PointerEvent("pointerleave")); seen.push($("tip").hidden);""",
}


# Break: any id, class or key that a script of ours relies on; anything that is loaded from elsewhere.
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_in_a_browser(tmp_path):
    """One headless Chromium opens five pages, clicks, steps, and tells what it saw; no page complains."""
    episodes, folder = played(4, 2), tmp_path / "run"
    seen = {"state": np.ones((episodes[0].num_steps + 1, 2)), "set": np.full((episodes[0].num_steps + 1, 1), 0.15)}
    with_keys = dataclasses.replace(episodes[0], observation=seen)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"type": "ppo", "env": EVIL, "seed": 0}))
    lines = [{"step": 10.0 * k, "episode_return": float(k)} for k in range(30)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pages = {
        "episodes": write_inspector(tmp_path / "e.html", episodes, BOX, ABOUT).read_text(),
        "mixed": write_inspector(tmp_path / "m.html", played_mixed(), ALL, ABOUT).read_text(),
        "named": write_inspector(tmp_path / "n.html", [with_keys], KEYS, ABOUT).read_text(),
        "talks": write_dialogues_page(tmp_path / "t.html", spoken(), ABOUT).read_text(),
        "run": run_page(folder),
    }
    frames = []
    for name, document in pages.items():
        told = REPORT.replace("NAME", name).replace("STEPS", STEPS[name])
        document = document.replace("<title>", WATCH + "<title>", 1).replace("</body>", told + "</body>")
        frames.append(
            f'<pre id="{name}"></pre><iframe width="1100" height="900" srcdoc="{html.escape(document)}"></iframe>'
        )
    host = tmp_path / "host.html"
    host.write_text("<!doctype html><meta charset='utf-8'>" + "".join(frames))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=3000", f"--screenshot={tmp_path / 'shot.png'}", "--dump-dom", host.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    told = {name: json.loads(words) for name, words in zip(pages, Page(done.stdout).within("pre"), strict=True)}
    assert {name: each["errors"] for name, each in told.items()} == {name: [] for name in pages}
    last = episodes[1].num_steps
    seen = told["episodes"]["seen"]
    n = episodes[0].num_steps
    assert seen[:7] == [f"step 0 of {n}", f"step 2 of {n}", f"step 1 of {n}", True, True, f"step 1 of {n}", True]
    assert seen[7:] == [True, f"step 0 of {n}", True, "dark", f"step 0 of {last}"]
    choices = [("which", 3), ("arm.1[0]", 2), ("arm.1[1]", 4), ("arm.2.light[0]", 2), ("arm.2.light[1]", 2)]
    rows = [f"{name}: {k}" for name, size in choices for k in range(size)]
    rows += [word for name in ("arm.0[0,0]", "arm.0[0,1]", "force") for word in (name, "mean")]
    assert told["mixed"]["seen"] == [" ".join(rows), 2 * (len(choices) + 3), True]
    # Entries are called by their keys, and 0.15 of −1 … 1 is 7.5 % of a bar.
    assert told["named"]["seen"] == ["set,7.5% state.0,100% state.1,100%", "on: a decision"]
    assert told["talks"]["seen"] == [True, True, True, 1, True, True]
    shown, step, value, hidden = told["run"]["seen"]
    assert (shown, hidden) == (False, True)
    assert value == pytest.approx(step / 10, rel=0.02)  # read back from the picture
    assert (tmp_path / "shot.png").stat().st_size > 10_000
