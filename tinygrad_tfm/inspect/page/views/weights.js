/* weights.js: the weights of a station, their gradient, and its proof: nudge one and run the model again.
   Read next: walk.js. */

const tableOf = name => META.tensors.find(t => t.name === name);
const shapeOf = name => tableOf(name).shape;
const trains = name => tableOf(name).trained;

function weightTable(stop) {
  const names = weightsOf(model, stop).filter(trains);
  if (!names.length) return '<p class="weights hint">Nothing is trained here: the gradient is only handed on.</p>';
  const head = join(["weights", "shape", "‖w‖", '‖<span class="grad">g</span>‖'], s => tag("th", { scope: "col" }, s));
  const norms = n => [num(length(model.w[n])), `<b class="grad">${num(length(G.weights[n]))}</b>`];
  const check = n => tag("button", { type: "button", class: "quiet", "data-k": `nudge-${n}`, "data-nudge": n },
                         "check by nudging");
  const cells = n => [`<code>${n}</code>`, shapeOf(n).join(" × "), ...norms(n), check(n)];
  const lines = join(names, n => tag("tr", {}, join(cells(n), cell => tag("td", {}, cell))));
  return tag("div", { class: "weights scroll" }, tag("table", {}, tag("tr", {}, `${head}<td></td>`) + lines)) +
    '<p class="nudge" role="status"></p>';
}

/** (loss(w + e) − loss(w − e)) / 2e for one weight, by running the model twice. */
function nudge(m, ids, goal, name, i, e = 1e-4) {
  const w = m.w[name], keep = w[i];
  const loss = [1, -1].map(sign => {
    w[i] = keep + sign * e;
    scratch.version = -1;
    forward(m, ids, scratch);
    return lossAndGradient(m, scratch, goal).loss;
  });
  w[i] = keep;
  scratch.version = -1;
  return { loss, slope: (loss[0] - loss[1]) / (2 * e), e };
}

/** The nudge whose slope comes nearest to g. Where a step crosses the kink of a ReLU, a smaller one does not. */
function fittingNudge(m, ids, goal, name, i, g, sizes) {
  const all = sizes.map(e => nudge(m, ids, goal, name, i, e)), apart = d => Math.abs(d.slope - g);
  return all.reduce((a, b) => (apart(b) < apart(a) ? b : a));
}

/** The largest gradient of a group of weights, beside what two runs of the model say. */
function nudged(name) {
  const g = G.weights[name], i = largest(g), sizes = [1e-4, 1e-5];
  const { loss, slope, e } = fittingNudge(model, S.ids, targets(), name, i, g[i], sizes);
  const [, columns] = shapeOf(name), index = columns ? `${Math.floor(i / columns)}, ${i % columns}` : i;
  const ok = agree(slope, g[i]) < 1e-4, word = ok ? "✓ they agree" : "✗ they differ";
  return `<code>${name}[${index}]</code> = ${num(model.w[name][i])}. A little more (+${num(e)}): loss ` +
    `${loss[0].toFixed(9)}; a little less: ${loss[1].toFixed(9)}. Slope <b>${num(slope, 6)}</b>; the backward ` +
    `pass says <b class="grad">${num(g[i], 6)}</b>. ${tag("span", { class: ok ? "ok" : "bad" }, word)}`;
}
