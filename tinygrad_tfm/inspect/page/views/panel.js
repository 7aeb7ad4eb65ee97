/* panel.js: one station of a walk: its words and its rule, its lists of numbers, and the formula of the number touched.
   Read next: walk.js. */

const HEADED = ["qkv", "rotate", "scores", "pattern", "heads", "out"];

function drawPanel(way) {
  const panel = $("panel-" + way), back = way === "backward", stop = STOPS[S.stop[way]], t = at();
  const strips = (back ? BACKWARD : FORWARD)[stop.kind](stop, t, keyOf(stop.l, t));
  const focus = panel.contains(document.activeElement) && document.activeElement.dataset.k;
  panel.innerHTML = panelHead(way, stop, t) + rule(way, stop) + (HEADED.includes(stop.kind) ? headPick() : "") +
    `<div class="strips"></div><p class="readout" aria-live="polite"></p>${back ? weightTable(stop) : ""}`;
  const box = panel.querySelector(".strips");
  const canvases = strips.map((s, w) => box.appendChild(stripRow(s, w)).querySelector("canvas"));
  const show = (which, i) => {
    S.cell[way] = { kind: stop.kind, which, i };
    strips.forEach((s, w) => {
      const together = s.values.length === strips[which].values.length && s.axis === strips[which].axis;
      paint(canvases[w], strip(s, together ? i : s.keys ? s.chosen : -1));
    });
    const out = panel.querySelector(".readout");
    out.innerHTML = colour(strips[which].read(i));
    canvases[which].setAttribute("aria-valuenow", i);
    canvases[which].setAttribute("aria-valuetext", plain(out.innerHTML));
  };
  const touch = (which, i) => {
    if (!strips[which].keys || i > t || S.key === i) return show(which, i);
    S.key = i;
    S.cell[way] = { kind: stop.kind, which, i };
    stale.add("attend");
    drawPanel(way);
  };
  canvases.forEach((canvas, w) => listen(canvas, strips[w].values.length, i => touch(w, i), () => {
    const cell = S.cell[way];
    return cell && cell.which === w ? cell.i : 0;
  }));
  const last = S.cell[way] && S.cell[way].kind === stop.kind ? S.cell[way] : null;
  const which = last && last.which < strips.length ? last.which : strips.length - 1, s = strips[which];
  show(which, s.keys ? s.chosen : last && last.i < s.values.length ? last.i : largest(s.values));
  if (focus) panel.querySelector(`[data-k="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
}

function panelHead(way, stop, t) {
  const back = way === "backward", n = S.stop[way], last = STOPS.length - 1, count = back ? STOPS.length - n : n + 1;
  const button = (k, by, words, sign, main, off) => `<button type="button" data-k="${k}" data-go="${by}" aria-label="${words}" ` +
    `class="${main ? "main" : ""}" ${off ? "disabled" : ""}>${sign}</button>`;
  const play = `<button type="button" data-k="play" data-play="${way}" aria-pressed="${playing === way}" ` +
    `aria-label="${playing === way ? "Stop walking" : "Walk by itself"}">${playing === way ? "❚❚" : "▶"}</button>`;
  return `<div class="panel-head">${button("prev", -1, back ? "Further back" : "Previous station", "←", back, n === 0)}` +
    `<div class="grow"><h3>${escape(WORDS(stop).title)}</h3><small>${stopName(stop)} · position ${t}, ${quoted(char(t))} · ` +
    `station ${count} of ${STOPS.length}</small></div>${play}` +
    `${button("next", 1, back ? "Towards the loss" : "Next station", "→", !back, n === last)}</div>`;
}

/** Why, equation and source: the library's own words; under them who computes it in this page. */
function rule(way, stop) {
  const words = WORDS(stop), back = way === "backward", text = s => colour(escape(s).replace(/\n/g, "<br>"));
  const [why, equation, code] = back ? [words.back_why, words.back_equation, words.back_code] : [words.why, words.equation, words.code];
  const name = computedBy(way, stop), place = words.file ? `${escape(words.file)}, line ${words.line}` : "";
  return `<div class="rule"><p>${text(why)}</p><div class="eq">${equation ? `<div>${text(equation)}</div>` : ""}` +
    `${code ? `<pre tabindex="0" aria-label="Source of this rule">${escape(code)}</pre>` : ""}` +
    `<small>${place}${place ? " · " : ""}here by <a href="#source" data-source="${name}"><code>${name}</code></a></small></div></div>`;
}

const headPick = () => `<div class="pick">head ${range(H).map(h => `<button type="button" data-k="head${h}" data-head="${h}" ` +
  `aria-pressed="${h === S.head}">${h + 1}</button>`).join("")}</div>`;

function stripRow(s, w) {
  const div = document.createElement("div"), low = s.values.reduce((a, b) => Math.min(a, b)), high = s.values.reduce((a, b) => Math.max(a, b));
  div.className = "strip";
  div.innerHTML = `<div class="lab">${s.label}<small>${s.note}</small></div>` +
    `<canvas class="${s.labels ? "tall" : ""}" tabindex="0" role="slider" data-k="strip${w}" aria-valuemin="0" aria-valuenow="0" ` +
    `aria-valuemax="${s.values.length - 1}" aria-label="${escape(plain(s.label))}: ${s.values.length} numbers"></canvas>` +
    `<div class="rng">‖·‖ ${num(length(s.values))}<br>${num(low, 2)} … ${num(high, 2)}</div>`;
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

// ── weights of a station, and the proof of the gradient ────────────────────────────────────────────────────────────

const shapeOf = name => META.tensors.find(t => t.name === name).shape;
const trains = name => META.tensors.find(t => t.name === name).trained !== false;

function weightTable(stop) {
  const names = weightsOf(model, stop).filter(trains);
  if (!names.length) return '<p class="weights hint">Nothing is trained at this station: it only hands the gradient on.</p>';
  const line = n => `<tr><td><code>${n}</code></td><td>${shapeOf(n).join(" × ")}</td><td>${num(length(model.w[n]))}</td>` +
    `<td><b class="grad">${num(length(G.weights[n]))}</b></td>` +
    `<td><button type="button" class="quiet" data-k="nudge-${n}" data-nudge="${n}">check by nudging</button></td></tr>`;
  return `<div class="weights scroll"><table><tr><th scope="col">weights</th><th scope="col">shape</th><th scope="col">‖w‖</th>` +
    `<th scope="col">‖<span class="grad">g</span>‖</th><td></td></tr>${names.map(line).join("")}</table></div>` +
    '<p class="nudge" role="status"></p>';
}

/** The largest gradient of a group of weights, beside what two runs of the model say. */
function nudged(name) {
  const g = G.weights[name], i = largest(g), d = nudge(model, S.ids, targets(), name, i), [, columns] = shapeOf(name);
  const ok = agree(d.slope, g[i]) < 1e-4, index = columns ? `${Math.floor(i / columns)}, ${i % columns}` : i;
  return `<code>${name}[${index}]</code> = ${num(model.w[name][i])}. A little more (+${num(d.e)}): loss ${d.loss[0].toFixed(7)}; ` +
    `a little less: ${d.loss[1].toFixed(7)}. Slope <b>${num(d.slope, 6)}</b>; the backward pass says ` +
    `<b class="grad">${num(g[i], 6)}</b>. <span class="${ok ? "ok" : "bad"}">${ok ? "✓ they agree" : "✗ they differ"}</span>`;
}
