/* blame.js: section 5, walk backward: the loss, who is to blame for it, and the gradient of every group of weights.
   The walk itself is walk.js. Read next: step.js. */

let later = null;
sections.backward = () => { // a backward pass costs as much as two forward: it waits until the fingers rest
  if (later && generating) return; // nor can it wait for the last of many characters
  clearTimeout(later);
  later = setTimeout(() => { later = null; withGradient(drawBackward); }, generating ? 400 : 60);
};

function drawBackward() {
  const choice = Math.exp(G.loss), why = `nats = −ln ${num(1 / choice)} for ${quoted(S.target)} after the whole text`;
  $("loss").textContent = G.loss.toFixed(3);
  $("loss-words").innerHTML = S.scope === "one" ? why : `nats a character, as if choosing among ${choice.toFixed(1)}`;
  drawBlame();
  drawMap("backward");
  drawPanel("backward");
  drawGroups();
  $("o-eta").innerHTML = num(10 ** +$("eta").value);
}

const SPREAD = { one: "It starts at the last character alone; every layer of attention spreads it to the left.",
                 all: "Every character starts with a loss of its own." };

/** The norm of the gradient on the stream, for every layer and every character. */
function drawBlame() {
  const n = T(), t = at(), blame = range(L + 1).map(l => range(n).map(i => length(row(G.acts.resid[l], i, D))));
  const most = Math.max(1e-30, ...blame.flat()), shade = x => (x ? Math.max(0.05, 1 + Math.log10(x / most) / 2.5) : 0);
  const head = text => tag("th", { scope: "row" }, text);
  const cell = (x, i) => tag("td", { "data-i": i, class: i === t && "at", style: `background:${hex("grad", shade(x))}`,
                                     title: `‘${glyph(char(i))}’ at ${i}: ${plain(num(x))}` });
  $("blame").innerHTML = '<caption class="sr">Norm of the gradient of the loss on the residual stream</caption>' +
    join(range(L + 1).reverse(), l => tag("tr", {}, head(depth(l)) + join(blame[l], cell))) +
    tag("tr", { class: "text" }, head("the text") + join(range(n), i => tag("td", { "data-i": i }, mark(char(i)))));
  const order = range(n).sort((a, b) => blame[0][b] - blame[0][a]), total = blame[0].reduce((s, x) => s + x, 0) || 1;
  const share = i => `${quoted(char(i))} at ${i} (${Math.round(100 * blame[0][i] / total)} %)`;
  $("cap-blame").innerHTML = "Who is to blame? The stronger the colour, the more the loss depends on the stream " +
    `there (logarithmic). ${SPREAD[S.scope]} At the embedding, most lies on ` +
    `<b class="grad">${order.slice(0, 3).map(share).join(", ")}</b>.`;
  reveal($("blame").parentNode, $("blame").rows[0].cells[t + 1].offsetLeft);
}

// ---- groups of weights ----------------------------------------------------------------------------------------------

/** [label, name in the model, kind of station, concept]; % stands for a block. */
const GROUPS = [
  ["norm 1", "%norms.0", "norm1"], ["query", "%attention.query", "qkv", "query"],
  ["key", "%attention.key", "qkv", "key"], ["value", "%attention.value", "qkv", "value"],
  ["out", "%attention.out", "out"], ["norm 2", "%norms.1", "norm2"],
  ["up", "%feed_forward.up", "up", "feed"], ["down", "%feed_forward.down", "down", "feed"],
  [config.tied ? "embedding (tied)" : "embedding", "embed", "embed"],
  ["positions", "positions", model.positions === "relative" ? "scores" : "embed"],
  ["final norm", "norm", "norm"], ["unembedding", "unembed", "unembed"]];
const PARTS = META.tensors.filter(t => trains(t.name)).map(t => t.name);
const partsOf = group => PARTS.filter(name => name.replace(/\.[^.]*$/, "") === group);
const groupNorm = group => Math.hypot(...partsOf(group).map(name => length(G.weights[name])));
/** The squared norm of the whole gradient: a step of size η promises η times this. */
const gradientSquare = () => PARTS.reduce((s, name) => s + length(G.weights[name]) ** 2, 0);

function drawGroups() {
  const inBlock = (name, l) => name.replace("%", `blocks.${l}.`), layers = name => (name[0] === "%" ? range(L) : [0]);
  const there = GROUPS.filter(([, name]) => partsOf(inBlock(name, 0)).length);
  const most = Math.max(1e-30, ...there.flatMap(([, name]) => layers(name).map(l => groupNorm(inBlock(name, l)))));
  const cell = ([label, name, kind], l) => {
    const x = groupNorm(inBlock(name, l)), width = 100 * clamp(1 + Math.log10(Math.max(1e-12, x / most)) / 3, 0.02, 1);
    const stop = STOPS.findIndex(s => s.kind === kind && (s.l === undefined || s.l === l));
    const bar = tag("i", { style: `width:${fix(width)}%` }), title = `${label}: walk there`;
    return tag("td", {}, tag("button", { type: "button", "data-stop": stop, title }, num(x, 2) + bar));
  };
  const head = join(range(L), l => tag("th", { scope: "col" }, depth(l + 1)));
  const line = group => tag("th", { scope: "row", class: group[3] }, group[0]) +
    join(layers(group[1]), l => cell(group, l));
  $("groups").innerHTML = `<thead><tr><td></td>${head}</tr></thead>` +
    tag("tbody", {}, join(there, group => tag("tr", {}, line(group))));
  $("cap-groups").innerHTML = `Gradient norm of each group of weights, ‖<b class="grad">g</b>‖ = ` +
    `<b>${num(Math.sqrt(gradientSquare()))}</b> in all; bars are logarithmic. Click one to walk there.`;
}

function startBlame() {
  $("target").innerHTML = join(characters, c =>
    tag("option", { value: c }, escape(spoken(c) === glyph(c) ? c : `${glyph(c)} ${spoken(c)}`)));
  $("target").onchange = event => {
    [S.target, S.scope] = [event.target.value, "one"];
    showChoices();
    redraw("backward");
  };
  document.querySelectorAll("[name=scope]").forEach(radio => {
    radio.onchange = () => { S.scope = radio.value; redraw("backward"); };
  });
  $("blame").onclick = event => {
    const cell = event.target.closest("td");
    if (cell) choose(+cell.dataset.i);
  };
  $("groups").onclick = event => {
    const button = event.target.closest("[data-stop]");
    if (!button) return;
    walk("backward", +button.dataset.stop);
    $("map-backward").scrollIntoView({ block: "center" });
  };
}
