/* attend.js: section 2, who looks at whom: all heads, one of them enlarged, and its arcs on the text.
   Read next: forward.js. */

function makeHeads(box) {
  box.style.setProperty("--heads", H);
  for (const n of range(L * H)) {
    const button = document.createElement("button");
    button.type = "button";
    button.innerHTML = "<canvas></canvas><small></small>";
    button.title = `Layer ${Math.floor(n / H) + 1}, head ${n % H + 1}`;
    button.onclick = () => { [S.layer, S.head, S.key] = [Math.floor(n / H), n % H, -1]; redraw(); };
    box.append(button);
  }
}

sections.attend = () => {
  const box = $("heads"), n = T();
  if (!box.children.length) makeHeads(box);
  for (const [k, button] of [...box.children].entries()) {
    const l = Math.floor(k / H), h = k % H, s = headScores(l, h);
    button.setAttribute("aria-pressed", l === S.layer && h === S.head);
    button.classList.toggle("off", model.muted.has(k));
    button.lastChild.innerHTML = `<b>${l + 1}.${h + 1}</b> ${s.name}<br>${s.spread.toFixed(1)} bits`;
    paint(button.firstChild, heat((i, j) => weight(l, h, i, j), n));
  }
  drawHead();
  if ($("slopes").checked && !generating) withGradient(() => drawArcs(at()));
};

function drawHead(i = at(), j = keyOf(S.layer, at())) {
  const n = T(), l = S.layer, h = S.head, s = headScores(l, h), share = percent(weight(l, h, i, j));
  const named = (concept, t) => `<b class="${concept}">${quoted(char(t))}</b> at ${t}`;
  $("cap-big").innerHTML = `<b>Layer ${l + 1}, head ${h + 1}</b> (${s.name}). ${named("query", i)} gives ` +
    `<b>${share}</b> of its attention to ${named("key", j)}.`;
  paint($("big"), heat((a, b) => weight(l, h, a, b), n, [i, j]));
  $("big").setAttribute("aria-label", `Attention of layer ${l + 1} head ${h + 1}, ${n} by ${n}. ` +
    `${plain($("cap-big").innerHTML)} Arrow keys move the reader and the character read.`);
  $("mute").checked = model.muted.has(l * H + h);
  $("head-scores").textContent = `${s.words} · induction ${s.induction.toFixed(2)} · ` +
    `entropy ${s.spread.toFixed(1)} of ${s.most.toFixed(1)} bits`;
  $("read-attend").innerHTML = `${scoreRead(l, i)(j)}, softmax over ${plural(i + 1, "character")} → <b>${share}</b>`;
  drawArcs(i);
}

// ---- arcs -----------------------------------------------------------------------------------------------------------

const STEP = 16, BASE = 150; // of a character on the line, and the line's height
const middle = t => (t + 0.5) * STEP;
/** How the share is written under t; the first stands at the edge. */
const shareLook = t => ({ "font-size": 12, "font-weight": 600, style: `fill:${ink.key}`, ...(t ? {} : EDGE) });
const EDGE = { x: 0, "text-anchor": "start" };

/** From reader i back to t, as thick as a share says; up is +1, down −1. */
function arc(i, t, share, name, up, more) {
  const y = up > 0 ? BASE - 2 : BASE + 28, [a, b] = [middle(i), middle(t)], small = y - 24 * up;
  const lift = y - up * 1.3 * Math.min(up > 0 ? 118 : 62, 16 + (i - t) * STEP * 0.42);
  const d = t === i ? `M${b - 4},${y} C${b - 14},${small} ${b + 14},${small} ${b + 4},${y}`
    : `M${a},${y} C${a},${lift} ${b},${lift} ${b},${y}`;
  return tag("path", { d, fill: "none", stroke: ink[name], "stroke-linecap": "round", "stroke-width": 0.8 + 6 * share,
                       opacity: 0.25 + 0.75 * Math.sqrt(share), ...more });
}

const SLOPES = ' Below, the <b class="grad">gradient</b>: how much the loss of section 5 depends on each score; ' +
  "dashed where more attention would lower it.";
/** Below the text: the loss's slope in each score of reader i, over the steepest; dashed where attention helps. */
function slopeArcs(i) {
  const g = cut(G.acts.blocks[S.layer].scores, i).subarray(0, i + 1), most = Math.abs(g[largest(g)]) || 1;
  return join(range(i + 1).filter(t => Math.abs(g[t]) > 0.02 * most), t =>
    arc(i, t, Math.abs(g[t]) / most, "grad", -1, { "stroke-dasharray": g[t] < 0 && "5 5" }));
}

function drawArcs(i) {
  const p = t => weight(S.layer, S.head, i, t), top = range(i + 1).sort((a, b) => p(b) - p(a));
  const box = { y: BASE + 0.75, width: STEP - 1.5, height: 24.5, rx: 3 }, text = { "text-anchor": "middle" };
  const frame = (t, look) => tag("rect", { x: t * STEP + 0.75, ...box, ...look });
  const word = (t, y, c, look) => tag("text", { x: middle(t), y: BASE + y, ...text, ...look }, c);
  const sign = t => ({ class: "mono", "font-size": 15, opacity: t > i && 0.35 });
  const read = [...top].reverse(); // the strongest comes last, on top
  const named = top.slice(0, 4).filter((t, n, all) => p(t) > 0.03 && all.slice(0, n).every(o => Math.abs(o - t) > 1));
  const width = CONTEXT * STEP, slopes = $("slopes").checked && G && sameGradient();
  $("arcs").setAttribute("viewBox", `0 0 ${width} ${BASE + (slopes ? 112 : 48)}`);
  Object.assign($("arcs").style, { minWidth: `${0.78 * width}px`, maxWidth: `${1.05 * width}px` });
  $("arcs").innerHTML = [
    join(read, t => frame(t, { fill: hex("key", 0.75 * Math.sqrt(p(t))) })),
    join(read.filter(t => p(t) >= 0.004), t => arc(i, t, p(t), "query", 1)),
    slopes ? slopeArcs(i) : "",
    frame(i, { fill: "none", stroke: ink.query, "stroke-width": 2 }),
    join(range(T()), t => word(t, 18, escape(glyph(char(t))), sign(t))),
    join(slopes ? [] : named, t => word(t, 42, `${Math.round(100 * p(t))}%`, shareLook(t)))].join("");
  if (i === at()) reveal($("arcs").parentNode, (i + 0.5) / CONTEXT * $("arcs").clientWidth);
  const most = top.slice(0, 3).map(t => `${quoted(char(t))} at ${t} (${percent(p(t))})`).join(", ");
  $("cap-arcs").innerHTML = `What <b class="query">${quoted(char(i))}</b> at ${i} reads in head ` +
    `${S.layer + 1}.${S.head + 1}: <b class="key">${most}</b>. Move over the text to ask for another; click to stay.` +
    (slopes ? SLOPES : "");
}

// ---- hands ----------------------------------------------------------------------------------------------------------

/** The reader i and the character j ≤ i that it reads. */
function look(i, j) {
  S.pos = i === T() - 1 ? -1 : i;
  S.key = Math.min(i, j);
  drawHead();
  drawTape();
}

function startAttend() {
  const big = $("big"), arcs = $("arcs"), under = event => Math.min(T() - 1, columnOf(event, arcs, CONTEXT));
  big.onpointermove = big.onpointerdown = event => {
    const box = big.getBoundingClientRect(), i = Math.floor((event.clientY - box.top) / box.height * T());
    look(clamp(i, 0, T() - 1), columnOf(event, big, T()));
  };
  big.onpointerleave = big.onblur = () => update(); // the other sections follow when the hand rests
  big.onkeydown = event => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    look(clamp(at() + move[0], 0, T() - 1), Math.max(0, keyOf(S.layer, at()) + move[1]));
  };
  arcs.onpointermove = event => { const i = under(event); drawHead(i, mostRead(S.layer, S.head, i)); };
  arcs.onpointerleave = () => drawHead();
  arcs.onclick = event => choose(under(event));
  $("slopes").onchange = () => redraw("attend");
  $("mute").onchange = event => {
    model.muted[event.target.checked ? "add" : "delete"](S.layer * H + S.head);
    model.version = ++stamp;
    update();
  };
}
