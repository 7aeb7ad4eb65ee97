/* operands.js: what the formulas of both walks have in common. A strip is a list of numbers as the walks show it:
   {label, note, values, color, read(i): the formula of number i with the numbers that made it, …}.
   Read next: forward.js, backward.js. */

const makeStrip = (label, note, values, color, read, more = {}) => ({ label: colour(label), note, values, color,
  read: read || (i => `${label}[${i}] = <b>${num(values[i])}</b>`), ...more });

const headOf = (a, t) => a.subarray(t * D + S.head * K, t * D + S.head * K + K);
const cut = (a, t) => a.subarray((S.head * CONTEXT + t) * CONTEXT, (S.head * CONTEXT + t + 1) * CONTEXT);
/** A row of a matrix over the text, as long as the text; what lies after position t is masked. */
const overText = (a, t) => Float64Array.from(range(T()), i => (i <= t ? a[i] : 0));
const textMarks = (t, j) => ({ labels: S.ids.map(v => characters[v]), masked: t, self: t, keys: true, chosen: j });
const headMarks = () => ({ groups: K, focus: [S.head * K, S.head * K + K] });
const ROOT = () => Math.sqrt(K);
const weightAt = (l, name) => model.w[`blocks.${l}.${name}.weight`];
const biasAt = (l, name) => model.w[`blocks.${l}.${name}.bias`];
/** "+ bias", where there is one. */
const plus = x => (x === undefined ? "" : ` + ${factor(x)}`);

/** y[j] = Σ x[i]·W[i, j] + b[j], for each j. */
const productRead = (out, y, x, l, name, m, inside) => j => {
  const W = weightAt(l, name), b = biasAt(l, name);
  return `${out}[${j}] = Σ ${inside}·W${b ? " + b" : ""} = ${sum(range(x.length).map(i => [x[i], W[i * m + j]]))}` +
    `${plus(b && b[j])} = <b>${num(y[j])}</b>`;
};
/** gx[i] = Σ g[j]·W[i, j], for each i; `straight` came past the product and is added. */
const productBackRead = (out, gx, g, l, name, m, straight) => i => {
  const W = weightAt(l, name);
  return `${out}[${i}] = Σ<sub>j</sub> g[j]·W[${i},j]${straight ? " + straight" : ""} = ` +
    `${sum(range(m).map(j => [g[j], W[i * m + j]]))}${plus(straight && straight[i])} = <b>${num(gx[i])}</b>`;
};

/** score(i, j) with its operands, in the chosen head, for each j. */
const scoreRead = (l, i) => j => {
  if (j > i) return `score(${i},${j}) = −∞: ${quoted(char(j))} lies in the future`;
  const A = trace.blocks[l], q = headOf(A.query, i), k = headOf(A.key, j), score = cut(A.scores, i)[j];
  const far = scoreBias(model, S.head, i - j);
  const name = { alibi: " − m·distance", relative: " + b[distance]" }[model.positions];
  return colour(`score(${i},${j}) = {q:q}·{k:k}/√${K}${name || ""} = ` +
    `(${sum(range(K).map(c => [q[c], k[c]]))})/${ROOT().toFixed(3)}${name ? plus(far) : ""} = <b>${num(score)}</b>`);
};

/** The parts of a norm at position t: trace `N`, gain and bias. */
function normAt({ kind, l }, t) {
  const N = kind === "norm" ? trace.norm : trace.blocks[l][kind];
  const name = kind === "norm" ? "norm" : `blocks.${l}.norms.${kind === "norm1" ? 0 : 1}`;
  return { x: row(N.x, t, D), hat: row(N.hat, t, D), y: row(N.y, t, D), mean: N.mean[t], std: 1 / N.rstd[t],
           gain: model.w[name + ".gain"], bias: model.w[name + ".bias"] };
}

// ---- what a station is called ---------------------------------------------------------------------------------------

/** The words of a station, as the rules of the library have them. */
const WORDS = ({ kind }) => META.stations[kind];
const HUES = { qkv: "query", rotate: "query", scores: "query", pattern: "query", heads: "value", up: "feed",
               act: "feed", down: "feed", unembed: "prob", loss: "prob" };
const hueOf = ({ kind }) => HUES[kind] || "resid";
const FEED = ["up", "act", "down"];
/** Is this station on the feed-forward's side of its block? */
const fed = ({ kind }) => FEED.includes(kind) || kind === "norm2";
const sideOf = stop => (fed(stop) ? "feed-forward" : "attention");
const stopName = stop => (stop.l === undefined ? "" : `layer ${stop.l + 1} · ${sideOf(stop)} · `) +
  escape(WORDS(stop).name);
/** The function of model.js that computes a station, for those who want to read it. */
const WHERE = {
  forward: { qkv: "linear", rotate: "rotate", scores: "attention", pattern: "attention", heads: "attention",
             out: "linear", up: "linear", act: "ACTIVATIONS", down: "linear", unembed: "unembed", loss: "softmax",
             embed: "forward" },
  backward: { qkv: "linearBack", rotate: "rotate", scores: "attentionBack", pattern: "attentionBack",
              heads: "attentionBack", out: "linearBack", up: "linearBack", act: "ACTIVATIONS", down: "linearBack",
              unembed: "unembedBack", loss: "lossAndGradient", embed: "backward" },
};
const computedBy = (way, { kind }) => WHERE[way][kind] || (way === "forward" ? "layerNorm" : "layerNormBack");
