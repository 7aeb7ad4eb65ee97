/* map.js: the map of both walks. The stream runs through the middle, as thick as its list of numbers is long; attention
   leaves it upwards, the feed-forward downwards, and both come back to be added. Read next: panel.js. */

const MID = 104, HIGH = 46, LOW = 160, LEFT = 92;

/** Where everything of one block stands, counted from its left edge: the same for all blocks. */
const PLAN = (() => {
  const block = STOPS.filter(s => s.l === 0), onArm = s => model.pre || !s.kind.startsWith("norm"), x = {};
  const up = block.filter(s => !fed(s) && onArm(s)), down = block.filter(s => fed(s) && onArm(s));
  up.forEach((s, n) => { x[s.kind] = 14 + 22 * n; });
  const sum1 = 4 + 22 * up.length, norm = model.pre ? 0 : 20, from = sum1 + norm + 14; // post-norm: on the stream
  down.forEach((s, n) => { x[s.kind] = from + 19 * n; });
  const sum2 = from + 19 * down.length - 6;
  if (!model.pre) [x.norm1, x.norm2] = [sum1 + norm, sum2 + norm];
  return { x, sum1, sum2, from, width: sum2 + norm + 12 };
})();
const WIDTH = LEFT + L * PLAN.width + (model.pre ? 128 : 92);
const edge = l => LEFT + l * PLAN.width;

/** Where a station stands on the map: [x, y]. */
function place({ kind, l }) {
  if (l === undefined) return [{ embed: 40, norm: edge(L) + 20, unembed: WIDTH - 72, loss: WIDTH - 36 }[kind], MID];
  const onStream = !model.pre && kind.startsWith("norm");
  return [edge(l) + PLAN.x[kind], onStream ? MID : fed({ kind }) ? LOW : HIGH];
}

/** The norm of what leaves a station: of the value forward, of the gradient backward. */
function flow(X, { kind, l }, t) {
  const A = X.blocks[l], size = (a, n = D) => length(row(a, t, n));
  const rowOf = (a, h) => a.subarray((h * CONTEXT + t) * CONTEXT, (h * CONTEXT + t) * CONTEXT + t + 1);
  switch (kind) {
    case "embed": return size(X.resid[0]);
    case "norm": return size(X.norm.y);
    case "norm1": case "norm2": return size(A[kind].y);
    case "qkv": return size(A.queryRaw) + size(A.keyRaw) + size(A.value);
    case "rotate": return size(A.query) + size(A.key);
    case "scores": case "pattern": return Math.hypot(...range(H).map(h => length(rowOf(A[kind], h))));
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
  const { sum1, sum2, from, width } = PLAN, x = edge(l);
  const arm = (a, b, sum, y) => {
    const bend = y < MID ? 20 : -20, back = sum - 12;
    const d = `M${a},${MID} C${a},${y + bend} ${a + 2},${y} ${b},${y} H${back} ` +
      `C${sum - 2},${y} ${sum},${y + bend} ${sum},${MID}`;
    return tag("path", { d, fill: "none", stroke: tint, "stroke-width": 1.6, opacity: 0.55 });
  };
  const word = (dx, y, text, bold) => tag("text", { x: x + dx, y, "font-size": 12, "font-weight": bold }, text);
  return tag("rect", { x: x - 4, y: 8, width: width - 4, height: 186, rx: 9, fill: ink.wash }) +
    word(6, 26, `layer ${l + 1}`, 600) + word(60, 26, "attention") + word(from - 8, 187, "feed-forward") +
    arm(x + 2, x + 14, x + sum1, HIGH) + arm(x + from - 10, x + from, x + sum2, LOW);
}

function sumSign(x, tint) {
  const look = { stroke: tint, "stroke-width": 1.6 };
  return tag("circle", { cx: x, cy: MID, r: 7.5, fill: ink.card, ...look }) +
    tag("path", { d: `M${x - 3.5},${MID}h7M${x},${MID - 3.5}v7`, ...look });
}

/** A station: a dot, backward as large as the gradient that passes; `share` is its flow over the largest. */
function drawStop(n, way, share) {
  const stop = STOPS[n], [cx, y] = place(stop), back = way === "backward", three = stop.kind === "qkv" && !back;
  const r = back ? 3.5 + 5.5 * Math.max(0, 1 + Math.log10(Math.max(1e-9, share || 0)) / 4) : 6.5;
  const dot = (cy, r, name) => tag("circle", { class: "dot", cx, cy, r, fill: ink[name], stroke: ink.card });
  const dots = three ? join(["query", "key", "value"], (name, i) => dot(y + 10 * i - 10, 5, name))
    : dot(y, r, back ? "grad" : hueOf(stop));
  const ring = n === S.stop[way] ? tag("circle", { class: "ring", cx, cy: y, r: three ? 19 : 12 }) : "";
  const hand = tag("rect", { x: cx - 11, y: y - 18, width: 22, height: 36, fill: "transparent" });
  return tag("g", { class: "stop", "data-n": n }, tag("title", {}, stopName(stop)) + hand + dots + ring);
}

function drawMap(way) {
  const svg = $("map-" + way), t = at(), back = way === "backward", X = back ? G.acts : trace;
  const tint = ink[back ? "grad" : "resid"], pieces = stream(X, t), most = Math.max(1e-30, ...pieces.map(p => p[2]));
  const flows = STOPS.map(s => flow(X, s, t)), top = Math.max(1e-30, ...flows), p = row(trace.probs, t, V);
  const text = (x, dy, size, words, more) =>
    tag("text", { x, y: MID + dy, "text-anchor": "middle", "font-size": size, ...more }, words);
  const end = (x, c, small) => text(x, 34, 17, escape(c), { class: "mono" }) + text(x, 52, 11.5, small);
  const thick = share => ({ stroke: tint, "stroke-width": 1.5 + 13 * share }), goal = back ? targets()[t] : best(p);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} 200`);
  Object.assign(svg.style, { minWidth: `${Math.round(0.86 * WIDTH)}px`, maxWidth: `${Math.round(1.15 * WIDTH)}px` });
  svg.innerHTML = [
    join(range(L), l => drawBlock(l, tint)),
    join(pieces, ([x1, x2, n]) => tag("line", { x1, x2, y1: MID, y2: MID, ...thick(n / most) },
                                      tag("title", {}, `norm ${plain(num(n))}`))),
    join(range(L), l => sumSign(edge(l) + PLAN.sum1, tint) + sumSign(edge(l) + PLAN.sum2, tint)),
    join(range(STOPS.length), n => drawStop(n, way, flows[n] / top)),
    end(40, glyph(char(t)), `position ${t}`),
    end(WIDTH - 36, goal < 0 ? "–" : glyph(characters[goal]), back ? "target" : percent(p[goal])),
    text(WIDTH - 54, -26, 20, back ? "⟵" : "⟶", { style: `fill:${tint}` })].join("");
  sayWhere(svg, way, flows);
  reveal(svg.parentNode, place(STOPS[S.stop[way]])[0] / WIDTH * svg.clientWidth);
}

/** The same for those who listen. */
function sayWhere(svg, way, flows) {
  const n = S.stop[way], words = `${plain(stopName(STOPS[n]))}, norm ${plain(num(flows[n]))}`;
  const said = { role: "slider", "aria-label": `Stations of the ${way} pass`, "aria-valuemin": 0,
                 "aria-valuemax": STOPS.length - 1, "aria-valuenow": n, "aria-valuetext": words };
  for (const name in said) svg.setAttribute(name, said[name]);
}
