/* training.js: section 6, how it got here: the curve of the loss, what the model wrote on the way, and the whole page with
   the weights of an earlier moment. Read next: selftest.js. */

const linesOf = kind => META.metrics.filter(m => m.kind === kind);
const [evals, batches, samples] = ["eval", "train", "sample"].map(linesOf);
const marks = { uniform: Math.log(V), ...linesOf("baseline")[0] };
const TICKS = [0, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000];

/** Scales of the curve for a width in pixels. */
function scales(width) {
  const wide = width >= 520, height = wide ? 380 : 290, right = wide ? 118 : 22, left = 38, top = 16, foot = 34;
  const end = Math.max(1, ...evals.map(e => e.step)), bend = $("log").checked ? x => Math.log10(1 + x / 10) : x => x;
  const losses = evals.flatMap(e => [e.train_loss, e.val_loss]).filter(Number.isFinite);
  const low = Math.floor(2 * Math.min(marks.uniform, ...losses)) / 2, high = Math.max(marks.uniform, ...losses) + 0.15;
  return { wide, width, height, left, right: width - right, top, foot: height - foot, end, low, high,
           x: v => left + (width - left - right) * bend(v) / bend(end),
           y: v => top + (height - foot - top) * (high - Math.min(v, high)) / (high - low) };
}

sections.training = () => {
  drawMachine();
  if (!evals.length) return void ($("curve").closest("figure").classList.add("bare"));
  const svg = $("curve"), s = scales(Math.max(300, svg.clientWidth)), now = samples[+$("moment").value] || { step: s.end, text: "" };
  const near = evals.reduce((b, e) => (Math.abs(e.step - now.step) < Math.abs(b.step - now.step) ? e : b));
  svg.setAttribute("viewBox", `0 0 ${s.width} ${s.height}`);
  svg.innerHTML = grid(s) + baselines(s) + curves(s) +
    `<line x1="${s.x(now.step)}" x2="${s.x(now.step)}" y1="${s.top}" y2="${s.foot}" stroke="${ink.soft}" stroke-width="1.5"/>` +
    `<circle cx="${s.x(now.step)}" cy="${s.y(near.val_loss)}" r="6" fill="${ink.card}" stroke="${ink.ink}" stroke-width="2.5"/>`;
  const last = evals[evals.length - 1], beats = k => evals.find(e => e.val_loss < marks[k]);
  const when = k => (beats(k) ? `by step ${beats(k).step}` : "not yet");
  svg.setAttribute("aria-label", `Loss over ${s.end} steps: validation from ${evals[0].val_loss.toFixed(2)} to ${last.val_loss.toFixed(2)}`);
  $("cap-curve").innerHTML = "Thick: validation. Dashed: training. Faint: single batches. The model beats letter frequencies " +
    `<b>${when("unigram")}</b> and letter pairs <b>${when("bigram")}</b>.`;
  $("o-moment").textContent = `step ${now.step}, validation loss ${near.val_loss.toFixed(2)}: choosing among ` +
    `${Math.exp(near.val_loss).toFixed(1)} characters`;
  $("moment").setAttribute("aria-valuetext", $("o-moment").textContent);
  $("sample").textContent = shown(now.text);
};

function grid(s) {
  const rows = range(40).map(i => s.low + i / 2).filter(v => v <= s.high);
  const ticks = $("log").checked ? TICKS.filter(v => v <= s.end) : range(6).map(i => Math.round(i * s.end / 5));
  const apart = ticks.filter((v, i) => !i || s.x(v) - s.x(ticks[i - 1]) > 26);
  return rows.map(v => `<line x1="${s.left}" x2="${s.right}" y1="${s.y(v)}" y2="${s.y(v)}" stroke="${ink.line}"/>` +
      `<text x="${s.left - 8}" y="${s.y(v) + 4}" text-anchor="end" font-size="12">${v.toFixed(1)}</text>`).join("") +
    apart.map(v => `<text x="${s.x(v)}" y="${s.foot + 24}" text-anchor="middle" font-size="12">${v}</text>`).join("");
}

function baselines(s) {
  const names = { uniform: "ln V =", unigram: "unigram", bigram: "bigram" };
  const [x, dy, anchor] = s.wide ? [s.right + 8, 4, "start"] : [s.right - 4, -5, "end"];
  return Object.keys(names).filter(k => marks[k]).map(k => `<line x1="${s.left}" x2="${s.right}" y1="${s.y(marks[k])}" ` +
    `y2="${s.y(marks[k])}" stroke="${ink.soft}" stroke-dasharray="2 4"/><text x="${x}" y="${s.y(marks[k]) + dy}" ` +
    `text-anchor="${anchor}" font-size="12">${names[k]} ${marks[k].toFixed(2)}</text>`).join("");
}

function curves(s) {
  const path = (list, key) => "M" + list.filter(e => Number.isFinite(e[key])).map(e => `${fix(s.x(e.step))},${fix(s.y(e[key]))}`).join("L");
  const curve = (list, key, look) => (list.length ? `<path d="${path(list, key)}" fill="none" ${look}/>` : "");
  const last = evals[evals.length - 1], gap = Math.abs(s.y(last.val_loss) - s.y(last.train_loss)) < 15;
  const label = (v, dy, text, more) => `<text x="${s.right + 8}" y="${s.y(v) + dy}" font-size="12" style="fill:${ink.ink}" ${more}>${text} ` +
    `${v.toFixed(2)}</text>`;
  return curve(batches, "train_loss", `stroke="${ink.soft}" stroke-width="1" opacity=".35"`) +
    curve(evals, "train_loss", `stroke="${ink.ink}" stroke-width="1.8" stroke-dasharray="5 3"`) +
    curve(evals, "val_loss", `stroke="${ink.ink}" stroke-width="2.6"`) +
    (s.wide ? label(last.val_loss, gap ? -6 : 4, "validation", 'font-weight="600"') : "") +
    (s.wide && Number.isFinite(last.train_loss) ? label(last.train_loss, gap ? 14 : 4, "training", "") : "");
}

// ── the time machine ───────────────────────────────────────────────────────────────────────────────────────────────

function drawMachine() {
  const name = k => (k === "0" ? "before training" : k === "final" ? "the end" : `step ${k}`);
  const button = k => `<button type="button" data-moment="${k}" aria-pressed="${k === moment}">${name(k)}</button>`;
  const all = ["0", ...META.snapshots.map(s => String(s.step)), "final"];
  $("machine").innerHTML = `<span>Use the weights of</span>${all.map(button).join("")}` +
    '<span class="num">The whole page, with your own prompt, then shows that model.</span>';
}

/** The whole page with the weights of another moment; "0" draws new ones as they are drawn before training. */
function travel(to) {
  const snapshot = META.snapshots.find(s => String(s.step) === to), seed = (META.run || {}).seed || 1;
  model = variant(to === "0" ? untrained(config, META.tensors, trained, seed)
    : snapshot ? readWeights(snapshot.tensors, fromBase64($("snapshot-" + to).textContent)) : trained);
  [moment, steps] = [to, []];
  drawSteps();
  update();
}

function startTraining() {
  $("moment").max = Math.max(0, samples.length - 1);
  $("moment").value = $("moment").max;
  $("log").onchange = $("moment").oninput = () => redraw("training");
  $("machine").onclick = event => {
    const button = event.target.closest("[data-moment]");
    if (button) travel(button.dataset.moment);
  };
}
