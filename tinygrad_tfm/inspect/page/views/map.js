/* map.js: the map of both walks. The stream runs through the middle, as thick as its list of numbers is long; attention
   leaves it upwards, the feed-forward downwards, and both come back to be added. Read next: panel.js. */

const MID = 104, HIGH = 46, LOW = 160, LEFT = 92;

/** Where everything of one block stands, from its left edge: the same for all. */
const PLAN = (() => {
  const block = STOPS.filter(s => s.l === 0), onArm = s => model.pre || !s.kind.startsWith("norm");
  const up = block.filter(s => !fed(s) && onArm(s)), down = block.filter(s => fed(s) && onArm(s)), x = {};
  up.forEach((s, n) => { x[s.kind] = 14 + 22 * n; });
  const sum1 = 4 + 22 * up.length, norm = model.pre ? 0 : 20, from = sum1 + norm + 14;
  down.forEach((s, n) => { x[s.kind] = from + 19 * n; });
  const sum2 = from + 19 * down.length - 6;
  if (!model.pre) [x.norm1, x.norm2] = [sum1 + norm, sum2 + norm];
  return { x, sum1, sum2, from, width: sum2 + norm + 12, endUp: 14 + 22 * (up.length - 1), endDown: from + 19 * (down.length - 1) };
})();
const WIDTH = LEFT + L * PLAN.width + (model.pre ? 128 : 92);
const edge = l => LEFT + l * PLAN.width;

/** Where a station stands on the map: [x, y]. */
function place({ kind, l }) {
  if (l !== undefined) {
    const on = !model.pre && kind.startsWith("norm");
    return [edge(l) + PLAN.x[kind], on ? MID : fed({ kind }) ? LOW : HIGH];
  }
  return [{ embed: 40, norm: edge(L) + 20, unembed: WIDTH - 72, loss: WIDTH - 36 }[kind], MID];
}

/** The norm of what leaves a station: the value forward, the gradient backward. */
function flow(X, { kind, l }, t) {
  const A = X.blocks[l], size = (a, n = D) => length(row(a, t, n));
  switch (kind) {
    case "embed": return size(X.resid[0]);
    case "norm": return size(X.norm.y);
    case "norm1": case "norm2": return size(A[kind].y);
    case "qkv": return size(A.queryRaw) + size(A.keyRaw) + size(A.value);
    case "rotate": return size(A.query) + size(A.key);
    case "scores": case "pattern": return Math.hypot(...range(H).map(h => {
      const from = (h * CONTEXT + t) * CONTEXT;
      return length(A[kind].subarray(from, from + t + 1));
    }));
    case "up": case "act": return size(A[kind], F);
    case "unembed": case "loss": return size(X.logits, V);
    default: return size(A[kind]);
  }
}

/** The pieces of the stream: [from, to, norm]. */
function stream(X, t) {
  const pieces = range(L).flatMap(l => [
    [l ? edge(l - 1) + PLAN.sum2 : 40, edge(l) + PLAN.sum1, length(row(X.resid[l], t, D))],
    [edge(l) + PLAN.sum1, edge(l) + PLAN.sum2, length(row(X.blocks[l].middle, t, D))]]);
  return [...pieces, [edge(L - 1) + PLAN.sum2, WIDTH - 36, length(row(X.resid[L], t, D))]];
}

function drawBlock(l, tint) {
  const x = edge(l), { sum1, sum2, from, width, endUp, endDown } = PLAN;
  const arm = (a, b, end, sum, y) => {
    const bend = y < MID ? 20 : -20;
    return `<path d="M${a},${MID} C${a},${y + bend} ${a + 2},${y} ${b},${y} H${end} C${sum - 2},${y} ${sum},${y + bend} ${sum},${MID}" ` +
      `fill="none" stroke="${tint}" stroke-width="1.6" opacity=".55"/>`;
  };
  const word = (dx, y, text, more = "") => `<text x="${x + dx}" y="${y}" font-size="12" ${more}>${text}</text>`;
  return `<rect x="${x - 4}" y="8" width="${width - 4}" height="186" rx="9" fill="${ink.wash}" opacity=".7"/>` +
    word(6, 26, `layer ${l + 1}`, 'font-weight="600"') + word(60, 26, "attention") + word(from - 8, 187, "feed-forward") +
    arm(x + 2, x + 14, x + endUp, x + sum1, HIGH) + arm(x + from - 10, x + from, x + endDown, x + sum2, LOW);
}

const sumSign = (x, tint) => `<circle cx="${x}" cy="${MID}" r="7.5" fill="${ink.card}" stroke="${tint}" stroke-width="1.6"/>` +
  `<path d="M${x - 3.5},${MID}h7M${x},${MID - 3.5}v7" stroke="${tint}" stroke-width="1.6"/>`;

function drawStop(n, way, share) {
  const stop = STOPS[n], [x, y] = place(stop), back = way === "backward", three = stop.kind === "qkv" && !back;
  const r = back ? 3.5 + 5.5 * Math.max(0, 1 + Math.log10(Math.max(1e-9, share)) / 4) : 6.5;
  const dots = three
    ? ["query", "key", "value"].map((q, i) => `<circle class="dot" cx="${x}" cy="${y + 10 * i - 10}" r="4.6" fill="${ink[q]}"/>`)
    : [`<circle class="dot" cx="${x}" cy="${y}" r="${fix(r)}" fill="${ink[back ? "grad" : hueOf(stop)]}" stroke="${ink.card}" ` +
       'stroke-width="1.5"/>'];
  const ring = n === S.stop[way] ? `<circle class="ring" cx="${x}" cy="${y}" r="${three ? 19 : 12}"/>` : "";
  return `<g class="stop" data-n="${n}"><title>${plain(stopName(stop))}</title>` +
    `<rect x="${x - 11}" y="${y - 18}" width="22" height="36" fill="transparent"/>${dots.join("")}${ring}</g>`;
}

function drawMap(way) {
  const svg = $("map-" + way), t = at(), back = way === "backward", X = back ? G.acts : trace, tint = ink[back ? "grad" : "resid"];
  const pieces = stream(X, t), most = Math.max(1e-30, ...pieces.map(p => p[2]));
  const flows = STOPS.map(s => flow(X, s, t)), top = Math.max(1e-30, ...flows), likeliest = best(row(trace.probs, t, V));
  const sign = (x, c, small) => `<text x="${x}" y="${MID + 34}" text-anchor="middle" class="mono" font-size="17">${escape(c)}</text>` +
    `<text x="${x}" y="${MID + 52}" text-anchor="middle" font-size="11.5">${small}</text>`;
  const target = targets()[t], end = back ? (target >= 0 ? glyph(characters[target]) : "–") : glyph(characters[likeliest]);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} 200`);
  Object.assign(svg.style, { minWidth: `${Math.round(0.86 * WIDTH)}px`, maxWidth: `${Math.round(1.15 * WIDTH)}px` });
  svg.innerHTML = range(L).map(l => drawBlock(l, tint)).join("") +
    pieces.map(([a, b, n]) => `<line x1="${a}" x2="${b}" y1="${MID}" y2="${MID}" stroke="${tint}" ` +
      `stroke-width="${fix(1.5 + 13 * n / most)}" opacity=".85"><title>norm ${plain(num(n))}</title></line>`).join("") +
    range(L).map(l => sumSign(edge(l) + PLAN.sum1, tint) + sumSign(edge(l) + PLAN.sum2, tint)).join("") +
    STOPS.map((_, n) => drawStop(n, way, flows[n] / top)).join("") + sign(40, glyph(char(t)), `position ${t}`) +
    sign(WIDTH - 36, end, back ? "target" : percent(trace.probs[t * V + likeliest])) +
    `<text x="${WIDTH - 62}" y="${MID - 26}" font-size="20" style="fill:${tint}">${back ? "⟵" : "⟶"}</text>`;
  const stop = STOPS[S.stop[way]], words = { "aria-valuemin": 0, "aria-valuemax": STOPS.length - 1, "aria-valuenow": S.stop[way],
    "aria-valuetext": `${plain(stopName(stop))}, norm ${plain(num(flows[S.stop[way]]))}`,
    "aria-label": `Stations of the ${way} pass`, role: "slider" };
  for (const name in words) svg.setAttribute(name, words[name]);
  reveal(svg.parentNode, place(stop)[0] / WIDTH * svg.clientWidth);
}
