/* training.js: section 6, how it got here: the curve of the loss, what the model wrote on the way, and the whole page
   with the weights of an earlier moment. Read next: selftest.js. */

const [evals, batches, samples] = ["eval", "train", "sample"].map(linesOf);
const marks = { uniform: Math.log(V), ...linesOf("baseline")[0] };
const TICKS = [0, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000];

/** Scales of the curve for a width in pixels. */
function scales(width) {
  const wide = width >= 520, [left, right] = [38, width - (wide ? 118 : 22)], [top, foot] = [16, wide ? 346 : 256];
  const end = Math.max(1, ...[...evals, ...batches].map(m => m.step));
  const bend = $("log").checked ? x => Math.log10(1 + x / 10) : x => x;
  const losses = evals.flatMap(e => [e.train_loss, e.val_loss]).filter(Number.isFinite);
  const low = Math.floor(2 * Math.min(marks.uniform, ...losses)) / 2, high = Math.max(marks.uniform, ...losses) + 0.15;
  return { wide, width, height: foot + 34, left, right, top, foot, end, low, high,
           x: step => left + (right - left) * bend(step) / bend(end),
           y: loss => top + (foot - top) * (high - Math.min(loss, high)) / (high - low) };
}

sections.training = () => {
  drawMachine();
  $("curve").closest("figure").classList.toggle("bare", !evals.length);
  if (!evals.length) return; // a checkpoint without its run has no curve
  const svg = $("curve"), s = scales(Math.max(300, svg.clientWidth)), last = evals.at(-1);
  const now = samples[+$("moment").value] || { step: s.end, text: "" }, apart = e => Math.abs(e.step - now.step);
  const near = evals.reduce((b, e) => (apart(e) < apart(b) ? e : b));
  svg.setAttribute("viewBox", `0 0 ${s.width} ${s.height}`);
  svg.innerHTML = grid(s) + baselines(s) + curves(s) + labels(s, last) +
    rule(s, { x1: s.x(now.step), x2: s.x(now.step), y1: s.top, y2: s.foot, stroke: ink.soft, "stroke-width": 1.5 }) +
    tag("circle", { cx: s.x(near.step), cy: s.y(near.val_loss), r: 6, class: "moment" });
  svg.setAttribute("aria-label", `Loss over ${s.end} steps: validation from ${evals[0].val_loss.toFixed(2)} ` +
    `to ${last.val_loss.toFixed(2)}`);
  const beats = mark => evals.find(e => e.val_loss < marks[mark]), when = e => (e ? `by step ${e.step}` : "not yet");
  $("cap-curve").innerHTML = "Thick: validation. Dashed: training. Faint: single batches. The model beats letter " +
    `frequencies <b>${when(beats("unigram"))}</b> and letter pairs <b>${when(beats("bigram"))}</b>.`;
  $("o-moment").textContent = `step ${now.step}, validation loss ${near.val_loss.toFixed(2)}: choosing among ` +
    `${Math.exp(near.val_loss).toFixed(1)} characters`;
  $("moment").setAttribute("aria-valuetext", $("o-moment").textContent);
  $("sample").textContent = shown(now.text);
};

const rule = (s, look) => tag("line", { x1: s.left, x2: s.right, ...look });
const word = (x, y, text, look) => tag("text", { x, y, "font-size": 12, ...look }, text);

function grid(s) {
  const rows = range(40).map(i => s.low + i / 2).filter(v => v <= s.high);
  const ticks = $("log").checked ? TICKS.filter(v => v <= s.end) : range(6).map(i => Math.round(i * s.end / 5));
  return join(rows, v => rule(s, { y1: s.y(v), y2: s.y(v), stroke: ink.line }) +
      word(s.left - 8, s.y(v) + 4, v.toFixed(1), { "text-anchor": "end" })) +
    join(ticks, v => word(s.x(v), s.foot + 24, v, { "text-anchor": "middle" }));
}

const MARKS = { uniform: "ln V =", unigram: "unigram", bigram: "bigram" };
const marked = () => Object.keys(MARKS).filter(k => marks[k]);

function baselines(s) {
  return join(marked(), k => {
    const y = s.y(marks[k]), text = `${MARKS[k]} ${marks[k].toFixed(2)}`;
    return rule(s, { y1: y, y2: y, stroke: ink.soft, "stroke-dasharray": "2 4" }) +
      (s.wide ? "" : word(s.right - 4, y - 5, text, { "text-anchor": "end" }));
  });
}

function curves(s) {
  const curve = (list, key, look) => {
    const points = list.filter(e => Number.isFinite(e[key])).map(e => `${fix(s.x(e.step))},${fix(s.y(e[key]))}`);
    return tag("polyline", { points: points.join(" "), fill: "none", stroke: ink.ink, ...look });
  };
  return curve(batches, "train_loss", { stroke: ink.soft, "stroke-width": 1, opacity: 0.35 }) +
    curve(evals, "train_loss", { "stroke-width": 1.8, "stroke-dasharray": "5 3" }) +
    curve(evals, "val_loss", { "stroke-width": 2.6 });
}

/** What the lines at the right edge are, beside their ends; words that would meet make room for each other. */
function labels(s, last) {
  if (!s.wide) return "";
  const own = { style: `fill:${ink.ink}` };
  const ends = [[last.val_loss, "validation", { ...own, "font-weight": 600 }], [last.train_loss, "training", own]];
  const all = [...marked().map(k => [marks[k], MARKS[k], {}]), ...ends].filter(([loss]) => Number.isFinite(loss));
  let lowest = -Infinity;
  return join(all.sort((a, b) => b[0] - a[0]), ([loss, text, look]) => {
    lowest = Math.max(s.y(loss) + 4, lowest + 15);
    return word(s.right + 12, lowest, `${text} ${loss.toFixed(2)}`, look);
  });
}

// ---- the time machine -----------------------------------------------------------------------------------------------

function drawMachine() {
  const end = META.run.step ? `step ${META.run.step}, the best` : "the end";
  const name = k => (k === "0" ? "before training" : k === "final" ? end : `step ${k}`);
  const all = ["0", ...META.snapshots.map(s => String(s.step)), "final"];
  $("machine").innerHTML = "<span>Use the weights of</span>" + join(all, k =>
    tag("button", { type: "button", "data-moment": k, "aria-pressed": String(k === moment) }, name(k))) +
    '<span class="num">The whole page, with your own prompt, then shows that model.</span>';
}

/** The whole page with the weights of another moment; "0" draws new ones as they are drawn before training. */
function travel(to) {
  const snapshot = META.snapshots.find(s => String(s.step) === to), seed = META.run.seed || 1;
  if (!snapshot && to !== "0") to = "final";
  const weights = to === "0" ? untrained(config, META.tensors, trained, seed)
    : snapshot ? readWeights(snapshot.tensors, fromBase64($("snapshot-" + to).textContent)) : trained;
  model = variant(weights, model.muted);
  [moment, steps] = [to, []];
  drawSteps();
  update();
}

function startTraining() {
  $("moment").value = $("moment").max = Math.max(0, samples.length - 1);
  $("log").onchange = $("moment").oninput = () => redraw("training");
  $("machine").onclick = event => {
    const button = event.target.closest("[data-moment]");
    if (button) travel(button.dataset.moment);
  };
}
