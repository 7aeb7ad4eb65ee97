/* panel.js: one station of a walk: its words and its rule, its lists of numbers, and the formula of the number touched.
   Read next: weights.js. */

const HEADED = ["qkv", "rotate", "scores", "pattern", "heads", "out"]; // stations that show one head

function drawPanel(way) {
  const panel = $("panel-" + way), back = way === "backward", stop = STOPS[S.stop[way]], t = at();
  const strips = (back ? BACKWARD : FORWARD)[stop.kind](stop, t, keyOf(stop.l, t));
  const focus = panel.contains(document.activeElement) && document.activeElement.dataset.k;
  panel.innerHTML = panelHead(way, stop, t) + ruleOf(way, stop) + (HEADED.includes(stop.kind) ? headPick() : "") +
    `<div class="strips"></div><p class="readout" aria-live="polite"></p>${back ? weightTable(stop) : ""}`;
  fillStrips(way, stop, strips, panel.querySelector(".strips"), panel.querySelector(".readout"));
  if (focus) panel.querySelector(`[data-k="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
}

/** The strips, and what happens when a number of one is touched. */
function fillStrips(way, stop, strips, box, out) {
  const canvases = strips.map((s, w) => box.appendChild(stripRow(s, w)).querySelector("canvas"));
  const show = (which, i) => {
    const it = strips[which], partner = s => s.values.length === it.values.length && s.axis === it.axis;
    S.cell[way] = { kind: stop.kind, which, i };
    strips.forEach((s, w) => paint(canvases[w], strip(s, partner(s) ? i : s.keys ? s.chosen : -1)));
    out.innerHTML = colour(it.read(i));
    canvases[which].setAttribute("aria-valuenow", i);
    canvases[which].setAttribute("aria-valuetext", plain(out.innerHTML));
  };
  const touch = (which, i) => {
    if (!strips[which].keys || i > at() || S.key === i) return show(which, i);
    S.key = i; // another character is read: all strips change
    S.cell[way] = { kind: stop.kind, which, i };
    stale.add("attend");
    drawPanel(way);
  };
  const now = w => (S.cell[way] && S.cell[way].which === w ? S.cell[way].i : 0);
  canvases.forEach((canvas, w) => listen(canvas, strips[w].values.length, i => touch(w, i), () => now(w)));
  const last = S.cell[way] && S.cell[way].kind === stop.kind ? S.cell[way] : null;
  const which = last && last.which < strips.length ? last.which : strips.length - 1, s = strips[which];
  show(which, s.keys ? s.chosen : last && last.i < s.values.length ? last.i : largest(s.values));
}

function panelHead(way, stop, t) {
  const back = way === "backward", n = S.stop[way], last = STOPS.length - 1, walks = playing === way;
  const button = (k, words, sign, more) =>
    tag("button", { type: "button", "data-k": k, "aria-label": words, ...more }, sign);
  const step = (k, by, words, sign, main, end) => // one button leads on, the other back
    button(k, words, sign, { "data-go": by, class: main && "main", disabled: n === end });
  const where = `${stopName(stop)} · position ${t}, ${quoted(char(t))} · ` +
    `station ${back ? last - n + 1 : n + 1} of ${last + 1}`;
  return tag("div", { class: "panel-head" },
    step("prev", -1, back ? "Further back" : "Previous station", "←", back, 0) +
    tag("div", { class: "grow" }, tag("h3", {}, escape(WORDS(stop).title)) + tag("small", {}, where)) +
    button("play", walks ? "Stop walking" : "Walk by itself", walks ? "❚❚" : "▶", { "data-play": way }) +
    step("next", 1, back ? "Towards the loss" : "Next station", "→", !back, last));
}

/** Why, equation and source, in the library's own words; and which function computes it in this page. */
function ruleOf(way, stop) {
  const words = WORDS(stop), part = name => words[way === "backward" ? "back_" + name : name];
  const text = s => colour(escape(s).replace(/\n/g, "<br>")), name = computedBy(way, stop);
  const source = part("code") && tag("pre", { tabindex: 0, "aria-label": "Source of this rule" }, escape(part("code")));
  const here = `here by ${tag("a", { href: "#source", "data-source": name }, `<code>${name}</code>`)}`;
  const there = words.file ? `${escape(words.file)}, line ${words.line} · ` : "";
  return tag("div", { class: "rule" }, tag("p", {}, text(part("why"))) + tag("div", { class: "eq" },
    (part("equation") && tag("div", {}, text(part("equation")))) + source + tag("small", {}, there + here)));
}

function headPick() {
  const look = h => ({ type: "button", "data-k": `head${h}`, "data-head": h, "aria-pressed": String(h === S.head) });
  return tag("div", { class: "pick" }, "head " + join(range(H), h => tag("button", look(h), h + 1)));
}

function stripRow(s, w) {
  const div = document.createElement("div"), n = s.values.length;
  const [low, high] = [Math.min, Math.max].map(f => s.values.reduce((a, b) => f(a, b)));
  div.className = "strip";
  div.innerHTML = tag("div", { class: "lab" }, s.label + tag("small", {}, s.note)) +
    tag("canvas", { class: s.labels && "tall", tabindex: 0, role: "slider", "data-k": `strip${w}`, "aria-valuemin": 0,
                    "aria-valuenow": 0, "aria-valuemax": n - 1, "aria-label": `${plain(s.label)}: ${n} numbers` }) +
    tag("div", { class: "rng" }, `‖·‖ ${num(length(s.values))}<br>${num(low, 2)} … ${num(high, 2)}`);
  return div;
}

/** Pointer, touch and arrow keys choose one of the n columns of a canvas; `now` says which it was. */
function listen(canvas, n, go, now) {
  canvas.onpointermove = canvas.onpointerdown = event => go(columnOf(event, canvas, n));
  canvas.onkeydown = event => {
    const move = moveOf(event);
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    go(clamp(now() + move, 0, n - 1));
  };
}
