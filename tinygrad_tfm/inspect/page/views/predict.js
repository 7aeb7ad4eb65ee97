/* predict.js: section 1, what comes next, and how it is drawn. Read next: guess.js. */

const entropy = q => q.reduce((s, x) => s - (x > 0 ? x * Math.log2(x) : 0), 0);

sections.predict = () => {
  const t = at(), raw = row(trace.probs, t, V), { p, kept } = nextDistribution(t);
  const next = t < T() - 1 ? S.ids[t + 1] : -1;
  $("cap-bars").innerHTML = t === T() - 1
    ? "After the whole text. Bars: what is drawn from. <b>Frames</b>: " +
      (changed() ? "the model before your changes." : "the model itself, before temperature and cuts.")
    : `After ${quoted(char(t))} at position ${t}. The text goes on with <b>${quoted(characters[next])}</b> (outlined): ` +
      `${percent(raw[next])}, ${(-Math.log2(raw[next])).toFixed(1)} bits.`;
  drawBars(p, raw, changed() ? row(before.probs, t, V) : raw, next);
  drawStats(raw, p, kept);
  $("o-temperature").textContent = S.temperature === 0 ? "0 (always the likeliest)" : S.temperature.toFixed(2);
  $("hint-temperature").textContent = S.temperature === 0 ? "Greedy: no chance is left."
    : S.temperature < 1 ? "Logits are divided by a number below 1: the likely gets likelier."
      : S.temperature > 1 ? "Logits are divided by a number above 1: the unlikely gets its chance."
        : "1: exactly what the model says.";
  $("o-top-k").textContent = S.topK >= V ? "all" : S.topK;
  $("o-top-p").textContent = S.topP >= 1 ? "all" : S.topP.toFixed(2);
};

function drawBars(p, raw, frames, next) {
  const order = range(V).sort((a, b) => raw[b] - raw[a] || a - b), show = S.allBars ? order : order.slice(0, 14);
  const top = Math.max(0.02, ...p, ...frames), width = x => `style="width:${(100 * x / top).toFixed(2)}%"`;
  $("bars").innerHTML = show.map(v => {
    const names = [p[v] === 0 && "cut", v === next && "true"].filter(Boolean).join(" ");
    return `<li class="${names}" aria-label="${escape(spoken(characters[v]))}: ${percent(p[v])}">` +
      `<span class="ch">${mark(characters[v])}</span><span class="track"><span class="fill" ${width(p[v])}></span>` +
      `<span class="raw" ${width(frames[v])}></span></span><span class="pc">${percent(p[v])}</span></li>`;
  }).join("");
  $("all-bars").textContent = S.allBars ? "Show the most likely" : `Show all ${V} characters`;
  $("all-bars").hidden = V <= 14;
  $("all-bars").setAttribute("aria-expanded", S.allBars);
}

function drawStats(raw, p, kept) {
  const bits = entropy(raw), cost = range(T()).reduce((s, i) => s + surprise(i), 0);
  const rows = [
    ["the model hesitates between about", `${(2 ** bits).toFixed(1)} characters`],
    ["entropy", `${bits.toFixed(2)} bits`],
    ["after the sliders", `${entropy(p).toFixed(2)} bits, ${kept} left`],
    ["this text cost it, on average", T() > 1 ? `${(cost / (T() - 1)).toFixed(2)} bits a character` : "–"],
    [`last run of the model${beside ? ", in a worker" : ""}`, `${plural(lastRows, "row")}, ${lastMs.toFixed(1)} ms`]];
  $("stats").innerHTML = rows.map(([what, much]) => `<dt>${what}</dt><dd>${much}</dd>`).join("");
}

function startPredict() {
  $("top-k").max = V;
  for (const id of ["temperature", "top-k", "top-p", "seed", "count"]) {
    const key = id.replace(/-(.)/, (_, c) => c.toUpperCase()), least = +$(id).min;
    $(id).value = S[key];
    $(id).oninput = event => {
      const x = parseFloat(event.target.value);
      S[key] = Number.isFinite(x) ? clamp(x, least, +event.target.max) : least;
      redraw("predict");
    };
  }
  $("examples").innerHTML = "<span>Try</span>" + META.examples.map(({ name, why }, i) =>
    `<button type="button" data-e="${i}" title="${escape(why || "")}">${escape(name)}</button>`).join("");
  $("examples").onclick = event => {
    const button = event.target.closest("[data-e]");
    if (button) setText(META.examples[+button.dataset.e].text);
  };
  $("all-bars").onclick = () => { S.allBars = !S.allBars; redraw("predict"); };
}
