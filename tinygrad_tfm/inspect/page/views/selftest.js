/* selftest.js: section 7, do not take its word for it: the page compares itself with Python's numbers, with finite
   differences and with what must hold of any decoder; and shows the program that computes. Read next: figure.js. */

const pause = () => new Promise(done => setTimeout(done));
const encode = text => [...text].map(c => idOf.get(c));
const gap = (a, b) => a.reduce((m, x, i) => Math.max(m, Math.abs(x - b[i])), 0);

/** Each check: [what must hold, the figure found, the most it may be]. */
const CHECKS = [pythonLogits, pythonGradients, finiteDifferences, noLeak, noStaleRows, rowsSumToOne, lensAtTheEnd, cuts,
                nothingLoaded];

async function selftest() {
  const m = { ...original, muted: new Set(), version: ++stamp }, rows = [];
  $("selftest").disabled = true;
  $("selftest-rows").innerHTML = "";
  $("selftest-sum").textContent = "Running…";
  for (const check of CHECKS) {
    const [name, value, limit] = check(m), ok = value <= limit;
    rows.push({ name, value, limit, ok });
    $("selftest-rows").insertAdjacentHTML("beforeend", tag("tr", {},
      tag("td", { class: ok ? "ok" : "bad" }, ok ? "✓ holds" : "✗ fails") + tag("td", {}, name) +
      tag("td", { class: "num" }, `${num(value, 2)} ≤ ${num(limit, 2)}`)));
    await pause();
  }
  const bad = rows.filter(r => !r.ok).length;
  $("selftest-sum").textContent = bad ? `${bad} of ${rows.length} fail.` : `All ${rows.length} hold.`;
  $("selftest").disabled = false;
  return rows;
}

function pythonLogits(m) {
  const worst = META.checks.map(({ text, logits }) => {
    const ids = encode(text);
    forward(m, ids, scratch);
    return gap(Float64Array.from(logits), row(scratch.logits, ids.length - 1, V));
  });
  const many = plural(META.checks.length, "text");
  return [`Logits equal Python's on ${many} (largest difference)`, Math.max(...worst), 1e-5];
}

function pythonGradients(m) {
  const worst = META.checks.flatMap(({ text, target, grad_norm: norms }) => {
    const ids = encode(text), goal = ids.map((_, i) => (i === ids.length - 1 ? idOf.get(target) : -1));
    forward(m, ids, scratch);
    const g = backward(m, scratch, goal).weights;
    return Object.keys(norms).map(name => agree(length(g[name]), norms[name]));
  });
  return ["Gradient norms of all weights equal Python's (largest relative difference)", Math.max(...worst), 1e-5];
}

function finiteDifferences(m) {
  const long = longest().slice(0, 12), dice = random(11);
  const goal = long.map((_, i) => (i + 1 < long.length ? long[i + 1] : 0));
  forward(m, long, scratch);
  const g = backward(m, scratch, goal).weights, names = META.tensors.map(t => t.name).filter(trains);
  const places = names.flatMap(n => [[n, largest(g[n])], [n, Math.floor(dice() * g[n].length)]]);
  const worst = places.map(([n, i]) => {
    const { slope } = fittingNudge(m, long, goal, n, i, g[n][i], [1e-5, 1e-6]);
    return Math.abs(slope - g[n][i]) / Math.max(1e-2, Math.abs(slope));
  });
  return [`Gradients equal finite differences at ${places.length} weights (relative)`, Math.max(...worst), 1e-6];
}

const longest = () => META.checks.map(c => encode(c.text)).sort((a, b) => b.length - a.length)[0];
/** The longest text there is, and its trace. */
const whole = (m, ids = longest()) => ({ ids, found: forward(m, ids, makeTrace(m)) });

function noLeak(m) {
  const { ids, found } = whole(m), n = ids.length - 1, other = makeTrace(m);
  forward(m, [...ids.slice(0, -1), (ids[n] + 1) % V], other);
  return ["Another last character changes nothing before it: the mask does not leak",
          gap(found.logits.subarray(0, n * V), other.logits), 0];
}

function noStaleRows(m) {
  const { ids, found } = whole(m), typed = makeTrace(m);
  for (let n = 1; n <= ids.length; n += 3) forward(m, ids.slice(0, n), typed);
  forward(m, ids.map(v => (v + 1) % V).slice(0, 5), typed);
  forward(m, ids, typed);
  return ["Typed bit by bit, corrected, or all at once: the same logits", gap(found.logits, typed.logits), 1e-12];
}

function rowsSumToOne(m) {
  const { ids, found } = whole(m);
  const sums = found.blocks.flatMap(({ pattern }) => range(H).flatMap(h => ids.map((_, i) => {
    const from = (h * CONTEXT + i) * CONTEXT;
    return pattern.subarray(from, from + i + 1).reduce((s, p) => s + p, 0);
  })));
  return ["Every row of every pattern sums to 1", gap(sums, sums.map(() => 1)), 1e-12];
}

function lensAtTheEnd(m) {
  const { ids, found } = whole(m), t = ids.length >> 1;
  const value = gap(lens(m, found, L, t), row(found.probs, t, V));
  return ["The lens after the last layer is the model's own output", value, 1e-12];
}

function cuts(m) {
  const { found } = whole(m), z = row(found.logits, 0, V), one = distribution(z, { temperature: 1, topK: 1, topP: 1 });
  const cut = distribution(z, { temperature: 1.5, topK: V, topP: 0.5 }), total = cut.p.reduce((s, p) => s + p, 0);
  const value = Math.abs(one.p[best(z)] - 1) + Math.abs(total - 1);
  return ["Top-k = 1 leaves the likeliest character; a cut distribution sums to 1", value, 1e-12];
}

function nothingLoaded() {
  const loaded = performance.getEntriesByType("resource").filter(e => !/^(data|blob):/.test(e.name));
  return ["Files and addresses this page loaded", loaded.length, 0];
}

// ---- how this page computes -----------------------------------------------------------------------------------------

/** model.js as it runs here, with a function of it in view. */
function showSource(name) {
  const box = $("source"), text = box.querySelector("pre");
  box.open = true;
  const begins = new RegExp(`^(function|const) ${name}\\b`);
  const line = [...text.children].find(e => begins.test(e.textContent)) || text.firstChild;
  [...text.children].forEach(e => e.classList.toggle("found", e === line));
  line.scrollIntoView({ block: "center" });
  text.focus({ preventScroll: true });
}

function startSelftest() {
  $("selftest").onclick = selftest;
  const lines = $("model").textContent.trim().split("\n").slice(1, -2); // without what the exporter wrapped it in
  $("source").querySelector("pre").innerHTML = join(lines, line => tag("span", {}, escape(line) + "\n"));
}
