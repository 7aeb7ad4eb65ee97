"use strict";
/* Runs inspect/page/model.js in Node on pages that Python made, and prints what it finds as one line of JSON.
   test_explorer_model.py writes the questions and judges the answers. Read next: there. */

const fs = require("fs"), vm = require("vm");

/** model.js with pieces of it replaced, as it stands in a page. */
function load(changes = []) {
  const source = changes.reduce((text, [from, to]) => {
    if (!text.includes(from)) throw Error(`model.js has no ${from}`);
    return text.replace(from, to);
  }, given.model), module = {};
  new Function("module", source)(module);
  return module.exports;
}

/** What a page says, by its address; and its own reading of a text, out of state.js. */
const pages = {};
function open(page) {
  if (pages[page]) return pages[page];
  const html = fs.readFileSync(page, "utf8");
  const part = id => html.match(new RegExp(`<script[^>]* id="${id}">([^<]*)</script>`))[1];
  const document = { getElementById: id => ({ textContent: part(id) }) };
  const world = { document, location: { hash: "" }, atob, Model: load() };
  const [meta, seen] = vm.runInNewContext(`${given.state}\n;[META, seen]`, world);
  return pages[page] = { meta, seen, bytes: world.Model.fromBase64(part("weights")) };
}

/** The model of a page. */
const modelOf = (M, { meta, bytes }) => M.makeModel(meta.config, M.readWeights(meta.tensors, bytes));

/** What one page computes: logits of every row of each text, and how far gradients and kept rows are off. */
function measure(M, { page, texts, places, longest = Infinity }) {
  const { meta, seen } = open(page), model = modelOf(M, open(page)), trace = M.makeTrace(model), { V } = model;
  const logits = texts.map(text => {
    const { ids } = seen(text);
    M.forward(model, ids, trace);
    return { ids: [...ids], rows: M.range(ids.length).map(t => [...trace.logits.subarray(t * V, t * V + V)]) };
  });
  const stations = M.stationsOf(meta.config), { ids } = seen(texts[0]);
  return { logits, stations, weights: stations.flatMap(stop => M.weightsOf(model, stop)),
           python: pythons(M, model, meta, longest), slopes: slopes(M, model, meta, ids.slice(-5), places),
           kept: kept(M, model, ids), lens: lens(M, model, ids), muted: muted(M, model, ids) };
}

/** The page's own checks: the largest difference of logits, and of gradient norms against the largest of them; these
    for texts of up to `longest` characters. */
function pythons(M, model, meta, longest) {
  const idOf = new Map(meta.config.characters.map((c, i) => [c, i])), trace = M.makeTrace(model);
  const worst = { logits: 0, norms: 0 }, { V } = model;
  for (const { text, target, logits, grad_norm: norms } of meta.checks) {
    const ids = [...text].map(c => idOf.get(c)), T = ids.length;
    M.forward(model, ids, trace);
    logits.forEach((z, v) => { worst.logits = Math.max(worst.logits, Math.abs(z - trace.logits[T * V - V + v])); });
    if (T > longest) continue;
    const g = M.backward(model, trace, ids.map((_, t) => (t === T - 1 ? idOf.get(target) : -1))).weights;
    const most = Math.max(...Object.values(norms));
    for (const name in norms)
      worst.norms = Math.max(worst.norms, Math.abs(Math.hypot(...g[name]) - norms[name]) / most);
  }
  return worst;
}

/** The largest difference between a gradient and (loss(w + e) − loss(w − e))/2e, at `places` weights of each tensor. */
function slopes(M, model, meta, ids, places) {
  const trace = M.makeTrace(model), goal = ids.map((_, t) => ids[t + 1] ?? 1), dice = M.random(7), e = 1e-5;
  const lossAt = () => {
    trace.version = -1;
    return M.lossAndGradient(model, M.forward(model, ids, trace), goal).loss;
  };
  lossAt();
  const g = M.backward(model, trace, goal).weights, found = {};
  for (const { name, trained } of meta.tensors) if (trained) {
    const w = model.w[name], sizes = g[name].map(Math.abs);
    const most = sizes.indexOf(sizes.reduce((a, b) => Math.max(a, b)));
    found[name] = Math.max(...[most, ...M.range(places - 1).map(() => Math.floor(dice() * w.length))].map(i => {
      const before = w[i], both = [e, -e].map(step => { w[i] = before + step; return lossAt(); });
      w[i] = before;
      return Math.abs((both[0] - both[1]) / (2 * e) - g[name][i]);
    }));
  }
  return found;
}

/** Typed character by character, wrongly in between, or all at once: the largest difference of the logits. */
function kept(M, model, ids) {
  const typed = M.makeTrace(model), whole = M.forward(model, ids, M.makeTrace(model));
  for (let n = 1; n < ids.length; n += 2) M.forward(model, ids.slice(0, n), typed);
  M.forward(model, [...ids.slice(0, ids.length >> 1), (ids[0] + 1) % model.V], typed);
  M.forward(model, ids, typed);
  return Math.max(...M.range(ids.length * model.V).map(i => Math.abs(typed.logits[i] - whole.logits[i])));
}

/** The lens behind the last layer is the model's own output; behind the first, that of a model with one layer. */
function lens(M, model, ids) {
  const whole = M.forward(model, ids, M.makeTrace(model)), first = { ...model, L: 1, version: 3 };
  const one = M.forward(first, ids, M.makeTrace(first)), t = ids.length - 1, { L, V } = model;
  return Math.max(...[[whole, L], [one, 1]].flatMap(([trace, l]) =>
    [...M.lens(model, whole, l, t)].map((p, v) => Math.abs(p - trace.probs[t * V + v]))));
}

/** How far logits are from those of a model whose last layer's first head has values of 0: that is what muting is. */
function muted(M, model, ids) {
  const { D, K, L, w } = model, name = `blocks.${L - 1}.attention.value.`;
  const zero = x => x.map((v, i) => (i % D < K ? 0 : v));
  const without = { ...w, [name + "weight"]: zero(w[name + "weight"]) };
  if (w[name + "bias"]) without[name + "bias"] = zero(w[name + "bias"]);
  const a = M.forward({ ...model, muted: new Set([(L - 1) * model.H]), version: 1 }, ids, M.makeTrace(model));
  const b = M.forward({ ...model, w: without, version: 2 }, ids, M.makeTrace(model));
  return Math.max(...M.range(ids.length * model.V).map(i => Math.abs(a.logits[i] - b.logits[i])));
}

/** How many rows are computed for a whole window, and for one more character. */
function rows(M, { page }) {
  const model = modelOf(M, open(page)), trace = M.makeTrace(model), ids = M.range(model.T).map(i => (i * 7) % model.V);
  return [ids.slice(0, -1), ids].map(some => M.forward(model, some, trace).recomputed);
}

/** How a model before training was drawn: the size of each tensor's numbers, and whether it is the trained one's. */
function drawn(M, { page }) {
  const { meta } = open(page), { w } = modelOf(M, open(page)), fresh = M.untrained(meta.config, meta.tensors, w, 5);
  const spread = x => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length);
  return Object.fromEntries(Object.keys(fresh).map(name => [name, [spread(fresh[name]), fresh[name] === w[name]]]));
}

const given = JSON.parse(fs.readFileSync(0, "utf8"));
const answers = given.ask.map(({ what, changes, ...asked }) => {
  const M = load(changes);
  if (what === "measure") return measure(M, asked);
  if (what === "rows") return rows(M, asked);
  if (what === "untrained") return drawn(M, asked);
  const logits = Float64Array.from(asked.logits || []);
  if (what === "distribution") return asked.cuts.map(cut => [...M.distribution(logits, cut).p]);
  if (what === "window") return asked.counts.map(n => M.windowStart(n, asked.context, asked.jump));
  if (what === "draw") return M.range(asked.count).map(M.random(asked.seed)).map(u => M.draw(asked.p, u));
  if (what === "activation") return asked.at.map(M.ACTIVATIONS[asked.name][asked.of]);
  throw Error(`nothing is known of ${what}`);
});
console.log(JSON.stringify(answers));
