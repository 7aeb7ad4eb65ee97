/* blame.js: section 5, walk backward: the loss, who is to blame for it, and the gradient of every group of weights.
   The walk itself is walk.js. Read next: step.js. */

let later = null;
sections.backward = () => { // a backward pass costs as much as two forward: it waits until the fingers rest
  clearTimeout(later);
  later = setTimeout(() => withGradient(drawBackward), generating ? 400 : 60);
};

function drawBackward() {
  $("loss").textContent = G.loss.toFixed(3);
  $("loss-words").innerHTML = S.scope === "one" ? `nats = −ln ${num(Math.exp(-G.loss))} for ${quoted(S.target)} after the whole text`
    : `nats a character, as if choosing among ${Math.exp(G.loss).toFixed(1)}`;
  drawBlame();
  drawMap("backward");
  drawPanel("backward");
  drawGroups();
  $("o-eta").innerHTML = num(10 ** +$("eta").value);
}

/** The norm of the gradient on the stream, for every layer and every character. */
function drawBlame() {
  const n = T(), t = at(), blame = range(L + 1).map(l => range(n).map(i => length(row(G.acts.resid[l], i, D))));
  const most = Math.max(1e-30, ...blame.flat()), shade = x => (x ? Math.max(0.05, 1 + Math.log10(x / most) / 2.5) : 0);
  const cell = (x, i) => `<td data-i="${i}" class="${i === t ? "at" : ""}" style="background:${hex("grad", shade(x))}" ` +
    `title="${escape(`‘${glyph(char(i))}’ at ${i}: ${plain(num(x))}`)}"></td>`;
  const line = l => `<tr><th scope="row">${depth(l)}</th>${blame[l].map(cell).join("")}</tr>`;
  $("blame").innerHTML = '<caption class="sr">Norm of the gradient of the loss on the residual stream</caption>' +
    `${range(L + 1).reverse().map(line).join("")}<tr class="text"><th scope="row">the text</th>` +
    `${range(n).map(i => `<td data-i="${i}">${mark(char(i))}</td>`).join("")}</tr>`;
  const share = blame[0].map((x, i) => [x, i]).sort((a, b) => b[0] - a[0]), total = share.reduce((s, [x]) => s + x, 0) || 1;
  const three = share.slice(0, 3).map(([x, i]) => `${quoted(char(i))} at ${i} (${Math.round(100 * x / total)} %)`).join(", ");
  $("cap-blame").innerHTML = "Who is to blame? The stronger the colour, the more the loss depends on the stream there " +
    `(logarithmic). ${S.scope === "one" ? "It starts at the last character alone; every layer of attention spreads it to the left."
      : "Every character starts with a loss of its own."} At the embedding, most lies on <b class="grad">${three}</b>.`;
  reveal($("blame").parentNode, $("blame").rows[0].cells[t + 1].offsetLeft);
}

// ── groups of weights ──────────────────────────────────────────────────────────────────────────────────────────────

/** [label, name in the model, kind of station, concept]; of a block with %. */
const GROUPS = [["norm 1", "%norms.0", "norm1"], ["query", "%attention.query", "qkv", "query"], ["key", "%attention.key", "qkv", "key"],
  ["value", "%attention.value", "qkv", "value"], ["out", "%attention.out", "out"], ["norm 2", "%norms.1", "norm2"],
  ["up", "%feed_forward.up", "up", "feed"], ["down", "%feed_forward.down", "down", "feed"],
  [config.tied ? "embedding (tied)" : "embedding", "embed", "embed"],
  ["positions", "positions", model.positions === "relative" ? "scores" : "embed"], ["final norm", "norm", "norm"],
  ["unembedding", "unembed", "unembed"]];
const partsOf = group => META.tensors.map(t => t.name).filter(n => n.slice(0, n.lastIndexOf(".")) === group && trains(n));
const groupNorm = group => Math.hypot(...partsOf(group).map(n => length(G.weights[n])));
/** The squared norm of the whole gradient: what a step of size η promises is η times this. */
const gradientSquare = () => META.tensors.filter(t => trains(t.name)).reduce((s, { name }) => s + length(G.weights[name]) ** 2, 0);

function drawGroups() {
  const perLayer = GROUPS.filter(([, name]) => name[0] === "%");
  const once = GROUPS.filter(([, name]) => name[0] !== "%" && partsOf(name).length);
  const named = (name, l) => name.replace("%", `blocks.${l}.`);
  const most = Math.max(1e-30, ...perLayer.flatMap(([, n]) => range(L).map(l => groupNorm(named(n, l)))), ...once.map(([, n]) => groupNorm(n)));
  const cell = (name, kind, l, label) => {
    const x = groupNorm(name), stop = STOPS.findIndex(s => s.kind === kind && (l === undefined || s.l === l));
    const width = 100 * clamp(1 + Math.log10(Math.max(1e-12, x / most)) / 3, 0.02, 1);
    return `<td><button type="button" data-stop="${stop}" title="${label}"><span>${num(x, 2)}</span>` +
      `<i style="width:${width.toFixed(1)}%"></i></button></td>`;
  };
  $("groups").innerHTML = `<thead><tr><td></td>${range(L).map(l => `<th scope="col">layer ${l + 1}</th>`).join("")}</tr></thead><tbody>` +
    perLayer.map(([label, name, kind, hue]) => `<tr><th scope="row" class="${hue || ""}">${label}</th>` +
      `${range(L).map(l => cell(named(name, l), kind, l, `${label}, layer ${l + 1}`)).join("")}</tr>`).join("") +
    once.map(([label, name, kind]) => `<tr><th scope="row">${label}</th>${cell(name, kind, undefined, label)}</tr>`).join("") + "</tbody>";
  $("cap-groups").innerHTML = `Gradient norm of each group of weights, ‖<b class="grad">g</b>‖ = ` +
    `<b>${num(Math.sqrt(gradientSquare()))}</b> in all; bars are logarithmic. Click one to walk there.`;
}

function startBlame() {
  $("target").innerHTML = characters.map(c => `<option value="${escape(c)}">${escape(glyph(c))}${spoken(c) === glyph(c) ? ""
    : " " + escape(spoken(c))}</option>`).join("");
  $("target").onchange = event => { [S.target, S.scope] = [event.target.value, "one"]; showChoices(); redraw("backward"); };
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
