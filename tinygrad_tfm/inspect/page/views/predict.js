/* predict.js: section 1, what comes next, and how it is drawn. Read next: guess.js. */

const entropy = q => q.reduce((s, x) => s - (x > 0 ? x * Math.log2(x) : 0), 0);

sections.predict = () => {
  const t = at(), raw = row(trace.probs, t, V), { p, kept } = nextDistribution(t);
  const next = t < T() - 1 ? S.ids[t + 1] : -1;
  const frames = changed() ? "before your changes" : "itself, before temperature and cuts";
  $("cap-bars").innerHTML = next < 0
    ? `After the whole text. Bars: what is drawn from. <b>Frames</b>: the model ${frames}.`
    : `After ${quoted(char(t))} at position ${t}. The text goes on with <b>${quoted(characters[next])}</b> ` +
      `(outlined): ${percent(raw[next])}, ${(-Math.log2(raw[next])).toFixed(1)} bits.`;
  drawBars(p, raw, changed() ? row(before.probs, t, V) : raw, next);
  drawStats(raw, p, kept);
  const { temperature: tau } = S;
  $("o-temperature").textContent = tau === 0 ? "0 (always the likeliest)" : tau.toFixed(2);
  $("hint-temperature").textContent = tau === 0 ? "Greedy: no chance is left."
    : tau < 1 ? "Logits are divided by a number below 1: the likely gets likelier."
      : tau > 1 ? "Logits are divided by a number above 1: the unlikely gets its chance."
        : "1: exactly what the model says.";
  $("o-top-k").textContent = S.topK >= V ? "all" : S.topK;
  $("o-top-p").textContent = S.topP >= 1 ? "all" : S.topP.toFixed(2);
};

function drawBars(p, raw, frames, next) {
  const order = range(V).sort((a, b) => raw[b] - raw[a] || a - b), show = S.allBars ? order : order.slice(0, 14);
  const top = Math.max(0.02, ...p, ...frames);
  const span = (name, x) => tag("span", { class: name, style: `width:${fix(100 * x / top)}%` });
  $("bars").innerHTML = join(show, v => tag("li",
    { class: classes({ cut: p[v] === 0, true: v === next }),
      "aria-label": `${spoken(characters[v])}: ${percent(p[v])}` },
    tag("span", { class: "ch" }, mark(characters[v])) +
    tag("span", { class: "track" }, span("fill", p[v]) + span("raw", frames[v])) +
    tag("span", { class: "pc" }, percent(p[v]))));
  $("all-bars").textContent = S.allBars ? "Show the most likely" : `Show all ${V} characters`;
  $("all-bars").hidden = V <= 14;
  $("all-bars").setAttribute("aria-expanded", S.allBars);
}

function drawStats(raw, p, kept) {
  const bits = entropy(raw), cost = range(T()).reduce((s, i) => s + surprise(i), 0);
  $("stats").innerHTML = pairsOf({
    "the model hesitates between about": `${(2 ** bits).toFixed(1)} characters`,
    "entropy": `${bits.toFixed(2)} bits`,
    "after the sliders": `${entropy(p).toFixed(2)} bits, ${kept} left`,
    "this text cost it, on average": T() > 1 ? `${(cost / (T() - 1)).toFixed(2)} bits a character` : "–",
    [`last run of the model${beside ? ", in a worker" : ""}`]: `${plural(lastRows, "row")}, ${lastMs.toFixed(1)} ms` });
}
const pairsOf = list => join(Object.entries(list), ([what, much]) => tag("dt", {}, what) + tag("dd", {}, much));

function startPredict() {
  $("top-k").max = V;
  for (const id of ["temperature", "top-k", "top-p", "seed", "count"]) {
    $(id).oninput = event => {
      const { value, min, max } = event.target, x = parseFloat(value);
      S[keyOfControl(id)] = Number.isFinite(x) ? clamp(x, +min, +max) : +min;
      if (id === "seed") dice = null;
      redraw("predict");
    };
  }
  const { examples } = META;
  $("examples").innerHTML = tag("span", {}, "Try") + join(examples, ({ name, why }, i) =>
    tag("button", { type: "button", "data-e": i, title: why }, escape(name)));
  $("examples").onclick = event => {
    const button = event.target.closest("[data-e]");
    if (button) anotherText(examples[+button.dataset.e].text);
  };
  $("all-bars").onclick = () => { S.allBars = !S.allBars; redraw("predict"); };
}
/** "top-k" → "topK": the name in S of what a control sets. */
const keyOfControl = id => id.replace(/-(.)/, (_, c) => c.toUpperCase());
