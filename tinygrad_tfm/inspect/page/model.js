"use strict";
/* How this page computes: a decoder-only transformer in plain JavaScript, forward, backward and drawing of characters.

   Nothing is drawn here (that is views/) and nothing is hidden: every value on the way stays in the trace. It computes
   what `models/decoder.py` computes, in double precision; the page's self-test compares the two.
   Letters: T time, D width, H heads, K = D/H, F hidden width, V characters, L layers.
   Arrays are flat and row-major, x[t*D + d]; weights are (in, out), so that y = x·W + b reads as in Python.
   Read first: stationsOf, forward, backward. */

const zeros = n => new Float64Array(n);
const range = n => Array.from({ length: n }, (_, i) => i);

// ---- weights --------------------------------------------------------------------------------------------------------

/** A 16-bit float (sign, 5 bits of exponent, 10 of fraction) as a number. */
function fromHalf(h) {
  const sign = h & 0x8000 ? -1 : 1, exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function fromBase64(text) {
  const raw = atob(text.trim()), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

/** name → Float64Array. Little-endian float16 or float32, or int8 behind one float32 scale a row. */
function readWeights(table, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset), weights = {};
  for (const { name, shape, offset, dtype } of table) {
    const n = shape.reduce((a, b) => a * b, 1), row = shape[shape.length - 1], data = offset + 4 * (n / row);
    const read = { float16: i => fromHalf(view.getUint16(offset + 2 * i, true)),
                   float32: i => view.getFloat32(offset + 4 * i, true),
                   int8: i => view.getInt8(data + i) * view.getFloat32(offset + 4 * Math.floor(i / row), true) }[dtype];
    weights[name] = zeros(n);
    for (let i = 0; i < n; i++) weights[name][i] = read(i);
  }
  return weights;
}

/** Sizes, choices and weights together. Whoever changes a weight or mutes a head raises `version`. */
function makeModel(config, weights) {
  const { layers: L, heads: H, width: D, context: T, hidden: F, eps, tied, pre_norm: pre, positions } = config;
  return { L, H, D, T, F, K: D / H, V: config.characters.length, eps, tied, pre, positions, w: weights,
           activation: ACTIVATIONS[config.activation], embedScale: config.scale_embedding ? Math.sqrt(D) : 1,
           muted: new Set(), version: 0 };
}

/** The same model before its first step: `start_as_gpt2` with other dice. What is not trained stays. */
function untrained(config, table, weights, seed) {
  const next = random(seed), drawn = { ...weights };
  const normal = std => std * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  for (const { name, shape, trained } of table) {
    const writes = /(attention\.out|feed_forward\.down)\.weight$/.test(name) ? Math.sqrt(2 * config.layers) : 1;
    const std = name === "embed.weight" && config.scale_embedding ? config.width ** -0.5
      : name === "embed.weight" || name === "positions.weight" ? 0.02 : config.std / writes;
    if (trained) drawn[name] = weights[name].map(() => shape.length > 1 ? normal(std) : +name.endsWith("gain"));
  }
  return drawn;
}

// ---- the stations ---------------------------------------------------------------------------------------------------

/** Every stop on the way from characters to loss, in order. Post-norm has its norms behind the sums, no last one. */
function stationsOf(config) {
  const turn = config.positions === "rotary" ? ["rotate"] : [], attend = ["scores", "pattern", "heads", "out"];
  const feed = ["up", "act", "down"];
  const block = config.pre_norm ? ["norm1", "qkv", ...turn, ...attend, "norm2", ...feed]
    : ["qkv", ...turn, ...attend, "norm1", ...feed, "norm2"];
  return [{ kind: "embed" }, ...range(config.layers).flatMap(l => block.map(kind => ({ kind, l }))),
          ...(config.pre_norm ? [{ kind: "norm" }] : []), { kind: "unembed" }, { kind: "loss" }];
}

/** The names of the weights at a station, those that this model has. */
function weightsOf(model, { kind, l }) {
  const parts = { embed: ["embed.weight", ...(model.positions === "relative" ? [] : ["positions.weight"])],
                  norm1: ["norms.0.gain", "norms.0.bias"], norm2: ["norms.1.gain", "norms.1.bias"],
                  qkv: ["query", "key", "value"].flatMap(n => [`attention.${n}.weight`, `attention.${n}.bias`]),
                  scores: [], out: ["attention.out.weight", "attention.out.bias"],
                  up: ["feed_forward.up.weight", "feed_forward.up.bias"],
                  down: ["feed_forward.down.weight", "feed_forward.down.bias"], norm: ["norm.gain", "norm.bias"],
                  unembed: [model.tied ? "embed.weight" : "unembed.weight"] }[kind] || [];
  const names = parts.map(name => (l === undefined ? "" : `blocks.${l}.`) + name);
  if (kind === "scores" && model.positions === "relative") names.push("positions.weight");
  return names.filter(name => model.w[name]);
}

// ---- the rules, forward ---------------------------------------------------------------------------------------------

/** y[t] = x[t]·W + b for from ≤ t < to. Two rows and four inputs at a time, since memory is slower than sums: a weight
    once read serves two rows, a sum once read takes four products. */
function linear(x, W, b, y, from, to, n, m) {
  for (let t = from; t < to; t += 2) {
    const u = Math.min(t + 1, to - 1), yt = y.subarray(t * m, t * m + m);
    const yu = t < u ? y.subarray(u * m, u * m + m) : zeros(m);
    if (b) { yt.set(b); yu.set(b); } else { yt.fill(0); yu.fill(0); }
    let i = 0, w = 0;
    for (; i + 3 < n; i += 4, w += 4 * m) {
      const o = t * n + i, a0 = x[o], a1 = x[o + 1], a2 = x[o + 2], a3 = x[o + 3];
      const p = u * n + i, c0 = x[p], c1 = x[p + 1], c2 = x[p + 2], c3 = x[p + 3];
      for (let j = 0, k = w; j < m; j++, k++) {
        const w0 = W[k], w1 = W[k + m], w2 = W[k + 2 * m], w3 = W[k + 3 * m];
        yt[j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3;
        yu[j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3;
      }
    }
    for (; i < n; i++, w += m) for (let j = 0; j < m; j++) {
      yt[j] += x[t * n + i] * W[w + j];
      yu[j] += x[u * n + i] * W[w + j];
    }
  }
}

/** y = (x − mean)/√(var + ε)·gain + bias, row by row; x̂ and 1/√(var + ε) are kept for the way back. */
function layerNorm(norm, gain, bias, from, to, D, eps) {
  const { x, hat, y } = norm;
  for (let t = from; t < to; t++) {
    let mean = 0, variance = 0;
    for (let i = t * D; i < t * D + D; i++) mean += x[i] / D;
    for (let i = t * D; i < t * D + D; i++) variance += (x[i] - mean) ** 2 / D;
    norm.mean[t] = mean;
    norm.rstd[t] = 1 / Math.sqrt(variance + eps);
    for (let d = 0, i = t * D; d < D; d++, i++) {
      hat[i] = (x[i] - mean) * norm.rstd[t];
      y[i] = hat[i] * gain[d] + (bias ? bias[d] : 0);
    }
  }
}

/** Rotary positions: neighbours (x₂ₙ, x₂ₙ₊₁) of a head turned by the angle way·t·rateₙ and added to y. */
function rotate({ D, K, w }, x, y, from, to, way) {
  for (let t = from; t < to; t++) for (let d = 0, i = t * D; d < D; d += 2, i += 2) {
    const angle = way * t * w["positions.rates"][(d % K) / 2], cos = Math.cos(angle), sin = Math.sin(angle);
    y[i] += x[i] * cos - x[i + 1] * sin;
    y[i + 1] += x[i] * sin + x[i + 1] * cos;
  }
}

/** The bucket of T5 in which a distance falls: of 32, half for single distances, the rest in logarithmic steps. */
function bucket(distance, buckets = 32, furthest = 128) {
  const exact = buckets / 2;
  if (distance < exact) return distance;
  const steps = Math.log(distance / exact) / Math.log(furthest / exact) * (buckets - exact);
  return Math.min(exact + Math.floor(steps + 1e-9), buckets - 1);
}

/** What positions add to the score of two places that are this far apart. */
function scoreBias({ positions, H, w }, h, distance) {
  if (positions === "alibi") return -w["positions.slopes"][h] * distance;
  return positions === "relative" ? w["positions.weight"][bucket(distance) * H + h] : 0;
}

/** Causal attention: scores = q·k/√K + bias, pattern = softmax of the scores up to here, heads = pattern·v. */
function attention(model, l, A, from, to) {
  const { D, H, K, T } = model, scale = 1 / Math.sqrt(K);
  for (let h = 0; h < H; h++) {
    const bias = range(to).map(distance => scoreBias(model, h, distance));
    for (let i = from; i < to; i++) {
      const at = (h * T + i) * T, q = i * D + h * K;
      let max = -Infinity, sum = 0;
      for (let j = 0; j <= i; j++) {
        A.scores[at + j] = dot(A.query, q, A.key, j * D + h * K, K) * scale + bias[i - j];
        max = Math.max(max, A.scores[at + j]);
      }
      for (let j = 0; j <= i; j++) sum += A.pattern[at + j] = Math.exp(A.scores[at + j] - max);
      A.heads.fill(0, q, q + K);
      for (let j = 0; j <= i; j++) {
        const p = (A.pattern[at + j] /= sum);
        if (model.muted.has(l * H + h)) continue;
        for (let c = 0, v = j * D + h * K; c < K; c++) A.heads[q + c] += p * A.value[v + c];
      }
    }
  }
}

function dot(a, i, b, j, n) {
  let sum = 0;
  for (let k = 0; k < n; k++) sum += a[i + k] * b[j + k];
  return sum;
}

/** 2/√π ∫₀ˣ exp(−t²) dt = 2/√π·exp(−x²)·Σ 2ⁿx²ⁿ⁺¹/(1·3·5⋯(2n+1)), whose terms all have one sign. */
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= 2 * x * x / (2 * n + 1);
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

const sigmoid = u => u < 0 ? Math.exp(u) / (1 + Math.exp(u)) : 1 / (1 + Math.exp(-u));
const normalCdf = u => 0.5 * erf(u * Math.SQRT1_2) + 0.5;
const TANH = 2 * Math.sqrt(2 / Math.PI), CUBE = 0.044715;
const tanhGate = u => sigmoid(TANH * u * (1 + CUBE * u * u));

/** Each activation: its value at u, and its slope there. */
const ACTIVATIONS = {
  gelu: { value: u => u * normalCdf(u), slope: u => normalCdf(u) + u * Math.exp(-u * u / 2) / Math.sqrt(2 * Math.PI) },
  gelu_tanh: { value: u => u * tanhGate(u),
               slope: u => { const s = tanhGate(u); return s + u * s * (1 - s) * TANH * (1 + 3 * CUBE * u * u); } },
  relu: { value: u => Math.max(u, 0), slope: u => +(u > 0) },
  silu: { value: u => u * sigmoid(u), slope: u => sigmoid(u) * (1 + u * (1 - sigmoid(u))) },
};

/** z → probabilities, in place over z[at … at+n). Returns ln Σ exp z. */
function softmax(z, at, n) {
  let max = -Infinity, sum = 0;
  for (let i = 0; i < n; i++) max = Math.max(max, z[at + i]);
  for (let i = 0; i < n; i++) sum += z[at + i] = Math.exp(z[at + i] - max);
  for (let i = 0; i < n; i++) z[at + i] /= sum;
  return max + Math.log(sum);
}

/** Logits of rows from ≤ t < to: y·Eᵀ with the embedding's own table if tied, else y·W. */
function unembed(model, y, logits, from, to) {
  const { D, V, w } = model;
  if (!model.tied) return linear(y, w["unembed.weight"], null, logits, from, to, D, V);
  for (let t = from; t < to; t++) for (let v = 0; v < V; v++)
    logits[t * V + v] = dot(y, t * D, w["embed.weight"], v * D, D);
}

/** The D numbers that the stream is compared with for character v: row of the table, or column of the weight. */
function unembedRow({ D, V, tied, w }, v) {
  const value = tied ? d => w["embed.weight"][v * D + d] : d => w["unembed.weight"][d * V + v];
  return Float64Array.from({ length: D }, (_, d) => value(d));
}

// ---- the whole model, forward ---------------------------------------------------------------------------------------

const makeNorm = (T, D, x = zeros(T * D), y = zeros(T * D)) =>
  ({ x, y, mean: zeros(T), rstd: zeros(T), hat: zeros(T * D) });

/** Room for every value on the way of one text of up to T characters; gradients have the same.

    One array may have two names, so that forward and backward need not know where the norms stand: pre-norm reads the
    stream (norm1.x is resid[l]) and adds to it, post-norm norms the sum and that is the stream (norm2.y is resid[l+1]).
    attentionIn and feedIn are what the two steps read, sum1 and sum2 what they are added into. */
function makeTrace({ T, D, H, F, V, L, pre, positions }) {
  const resid = range(L + 1).map(() => zeros(T * D)), turned = positions === "rotary";
  const blocks = range(L).map(l => {
    const middle = zeros(T * D), query = zeros(T * D), key = zeros(T * D);
    const norm1 = pre ? makeNorm(T, D, resid[l]) : makeNorm(T, D, undefined, middle);
    const norm2 = pre ? makeNorm(T, D, middle) : makeNorm(T, D, undefined, resid[l + 1]);
    return { norm1, norm2, attentionIn: pre ? norm1.y : resid[l], feedIn: pre ? norm2.y : middle,
             queryRaw: turned ? zeros(T * D) : query, keyRaw: turned ? zeros(T * D) : key, query, key,
             value: zeros(T * D), scores: zeros(H * T * T), pattern: zeros(H * T * T), heads: zeros(T * D),
             out: zeros(T * D), sum1: pre ? middle : norm1.x, middle, up: zeros(T * F), act: zeros(T * F),
             down: zeros(T * D), sum2: pre ? resid[l + 1] : norm2.x };
  });
  const norm = pre ? makeNorm(T, D, resid[L]) : null;
  return { ids: [], version: -1, recomputed: 0, resid, blocks, norm, last: pre ? norm.y : resid[L],
           logits: zeros(T * V), probs: zeros(T * V), logZ: zeros(T) };
}

/** Fills the trace. A row depends on no later one, so rows of an unchanged beginning are kept: that is the KV cache. */
function forward(model, ids, trace) {
  const { D, F, V, L, eps, w, pre } = model, to = ids.length;
  let from = 0;
  if (trace.version === model.version) while (from < to && ids[from] === trace.ids[from]) from++;
  const place = model.positions === "relative" ? undefined : w["positions.weight"];
  for (let t = from; t < to; t++) for (let d = 0; d < D; d++)
    trace.resid[0][t * D + d] = w["embed.weight"][ids[t] * D + d] * model.embedScale + (place ? place[t * D + d] : 0);
  for (let l = 0; l < L; l++) {
    const A = trace.blocks[l], at = `blocks.${l}.`;
    const step = (name, x, y, n, m) => linear(x, w[`${at}${name}.weight`], w[`${at}${name}.bias`], y, from, to, n, m);
    const norm = n => layerNorm(A[`norm${n + 1}`], w[`${at}norms.${n}.gain`], w[`${at}norms.${n}.bias`],
                                from, to, D, eps);
    const sum = (a, b, y) => { for (let i = from * D; i < to * D; i++) y[i] = a[i] + b[i]; };
    if (pre) norm(0);
    step("attention.query", A.attentionIn, A.queryRaw, D, D);
    step("attention.key", A.attentionIn, A.keyRaw, D, D);
    step("attention.value", A.attentionIn, A.value, D, D);
    if (model.positions === "rotary") for (const n of ["query", "key"])
      rotate(model, A[n + "Raw"], A[n].fill(0, from * D, to * D), from, to, 1);
    attention(model, l, A, from, to);
    step("attention.out", A.heads, A.out, D, D);
    sum(trace.resid[l], A.out, A.sum1);
    norm(pre ? 1 : 0);
    step("feed_forward.up", A.feedIn, A.up, D, F);
    for (let i = from * F; i < to * F; i++) A.act[i] = model.activation.value(A.up[i]);
    step("feed_forward.down", A.act, A.down, F, D);
    sum(A.middle, A.down, A.sum2);
    if (!pre) norm(1);
  }
  if (pre) layerNorm(trace.norm, w["norm.gain"], w["norm.bias"], from, to, D, eps);
  unembed(model, trace.last, trace.logits, from, to);
  for (let t = from; t < to; t++) {
    trace.probs.set(trace.logits.subarray(t * V, t * V + V), t * V);
    trace.logZ[t] = softmax(trace.probs, t * V, V);
  }
  return Object.assign(trace, { ids: ids.slice(), version: model.version, recomputed: to - from });
}

/** What the model would say at row t if it stopped after layer l (0: the embedding alone). */
function lens(model, trace, l, t) {
  const { D, V, w } = model, row = trace.resid[l].subarray(t * D, t * D + D), one = makeNorm(1, D, row), p = zeros(V);
  if (model.pre) layerNorm(one, w["norm.gain"], w["norm.bias"], 0, 1, D, model.eps);
  unembed(model, model.pre ? one.y : row, p, 0, 1);
  softmax(p, 0, V);
  return p;
}

/** Where the window begins once there are `count` characters: 0 while they fit, then in jumps, between which no row is
    computed anew. `generate.py` jumps by half a context, the page by a quarter: it sees more of the past. */
function windowStart(count, context, jump = Math.max(1, context >> 2)) {
  return Math.max(0, Math.ceil((count - context) / jump) * jump);
}

// ---- the rules and the whole model, backward ------------------------------------------------------------------------
// Each rule takes g = ∂loss/∂y and adds to gx = ∂loss/∂x and to the gradients of its weights.

const addTo = (gx, g, n) => { for (let i = 0; i < n; i++) gx[i] += g[i]; };

/** gx = g·Wᵀ, gW = xᵀ·g, gb = Σ g. Four rows at a time: a weight and its gradient once read serve all four. */
function linearBack(x, W, g, gx, gW, gb, T, n, m) {
  const rows = range(T).filter(t => g.subarray(t * m, t * m + m).some(v => v !== 0));    // elsewhere nothing is blamed
  if (gb) for (const t of rows) addTo(gb, g.subarray(t * m, t * m + m), m);
  for (let i = 0; i < n; i++) {
    const w = W.subarray(i * m, i * m + m), gw = gW.subarray(i * m, i * m + m);
    let r = 0;
    for (; r + 3 < rows.length; r += 4) {
      const t = rows[r], u = rows[r + 1], v = rows[r + 2], s = rows[r + 3];
      const at = x[t * n + i], au = x[u * n + i], av = x[v * n + i], as = x[s * n + i];
      let gt = 0, gu = 0, gv = 0, gs = 0;
      for (let j = 0; j < m; j++) {
        const a = g[t * m + j], b = g[u * m + j], c = g[v * m + j], d = g[s * m + j], k = w[j];
        gt += a * k; gu += b * k; gv += c * k; gs += d * k;
        gw[j] += at * a + au * b + av * c + as * d;
      }
      gx[t * n + i] += gt; gx[u * n + i] += gu; gx[v * n + i] += gv; gx[s * n + i] += gs;
    }
    for (; r < rows.length; r++) {
      const t = rows[r], a = x[t * n + i];
      gx[t * n + i] += dot(g, t * m, w, 0, m);
      for (let j = 0; j < m; j++) gw[j] += a * g[t * m + j];
    }
  }
}

function layerNormBack({ hat, rstd }, G, gain, gGain, gBias, T, D) {
  for (let t = 0; t < T; t++) {
    let mean = 0, along = 0;
    for (let d = 0, i = t * D; d < D; d++, i++) {
      const g = G.y[i];
      gGain[d] += g * hat[i];
      if (gBias) gBias[d] += g;
      mean += g * gain[d] / D;
      along += g * gain[d] * hat[i] / D;
    }
    for (let d = 0, i = t * D; d < D; d++, i++) G.x[i] += rstd[t] * (G.y[i] * gain[d] - mean - hat[i] * along);
  }
}

function attentionBack(model, l, A, G, gPositions, T) {
  const { D, H, K } = model, scale = 1 / Math.sqrt(K);
  for (let h = 0; h < H; h++) for (let i = 0; i < T; i++) {
    if (model.muted.has(l * H + h)) continue;
    const at = (h * model.T + i) * model.T, q = i * D + h * K;
    let mean = 0;
    for (let j = 0; j <= i; j++) {
      G.pattern[at + j] = dot(G.heads, q, A.value, j * D + h * K, K);
      mean += A.pattern[at + j] * G.pattern[at + j];
      for (let c = 0, v = j * D + h * K; c < K; c++) G.value[v + c] += A.pattern[at + j] * G.heads[q + c];
    }
    for (let j = 0; j <= i; j++) {
      const gs = G.scores[at + j] = A.pattern[at + j] * (G.pattern[at + j] - mean);
      if (gPositions) gPositions[bucket(i - j) * H + h] += gs;
      for (let c = 0, k = j * D + h * K; c < K; c++) {
        G.query[q + c] += gs * scale * A.key[k + c];
        G.key[k + c] += gs * scale * A.query[q + c];
      }
    }
  }
}

/** Mean cross-entropy of the rows that have a target (−1: none) and its gradient: probability − 1 at the target. */
function lossAndGradient({ V, T }, trace, targets) {
  const rows = targets.filter(target => target >= 0).length, g = zeros(T * V);
  let loss = 0;
  targets.forEach((target, t) => {
    if (target < 0) return;
    loss += (trace.logZ[t] - trace.logits[t * V + target]) / rows;
    for (let v = 0; v < V; v++) g[t * V + v] = (trace.probs[t * V + v] - (v === target)) / rows;
  });
  return { loss, g };
}

/** Walks the model right to left. Gradients of all values on the way, named as in the trace, and of all weights. */
function backward(model, trace, targets) {
  const { D, F, V, L, w, pre } = model, T = trace.ids.length, G = makeTrace(model), gw = {};
  for (const name in w) gw[name] = zeros(w[name].length);
  const { loss, g } = lossAndGradient(model, trace, targets), relative = model.positions === "relative";
  G.logits = g;
  unembedBack(model, trace.last, g, G.last, gw, T);
  if (pre) layerNormBack(trace.norm, G.norm, w["norm.gain"], gw["norm.gain"], gw["norm.bias"], T, D);
  for (let l = L - 1; l >= 0; l--) {
    const A = trace.blocks[l], B = G.blocks[l], at = `blocks.${l}.`;
    const back = (name, x, gy, gx, n, m) => linearBack(
      x, w[`${at}${name}.weight`], gy, gx, gw[`${at}${name}.weight`], gw[`${at}${name}.bias`], T, n, m);
    const norm = n => layerNormBack(A[`norm${n + 1}`], B[`norm${n + 1}`], w[`${at}norms.${n}.gain`],
                                    gw[`${at}norms.${n}.gain`], gw[`${at}norms.${n}.bias`], T, D);
    if (!pre) norm(1);
    addTo(B.down, B.sum2, T * D);                                           // a sum hands its gradient to both terms
    addTo(B.middle, B.sum2, T * D);
    back("feed_forward.down", A.act, B.down, B.act, F, D);
    for (let i = 0; i < T * F; i++) B.up[i] = B.act[i] && B.act[i] * model.activation.slope(A.up[i]);
    back("feed_forward.up", A.feedIn, B.up, B.feedIn, D, F);
    norm(pre ? 1 : 0);
    addTo(B.out, B.sum1, T * D);                                            // both again
    addTo(G.resid[l], B.sum1, T * D);
    back("attention.out", A.heads, B.out, B.heads, D, D);
    attentionBack(model, l, A, B, relative && gw["positions.weight"], T);
    if (model.positions === "rotary") for (const n of ["query", "key"]) rotate(model, B[n], B[n + "Raw"], 0, T, -1);
    back("attention.query", A.attentionIn, B.queryRaw, B.attentionIn, D, D);
    back("attention.key", A.attentionIn, B.keyRaw, B.attentionIn, D, D);
    back("attention.value", A.attentionIn, B.value, B.attentionIn, D, D);
    if (pre) norm(0);
  }
  for (let t = 0; t < T; t++) for (let d = 0; d < D; d++) {
    gw["embed.weight"][trace.ids[t] * D + d] += G.resid[0][t * D + d] * model.embedScale;
    if (w["positions.weight"] && !relative) gw["positions.weight"][t * D + d] += G.resid[0][t * D + d];
  }
  return { loss, acts: G, weights: gw };
}

function unembedBack(model, y, g, gy, gw, T) {
  const { D, V, tied, w } = model;
  if (!tied) return linearBack(y, w["unembed.weight"], g, gy, gw["unembed.weight"], null, T, D, V);
  for (let t = 0; t < T; t++) for (let v = 0; v < V; v++) {
    const a = g[t * V + v];
    if (a !== 0) for (let d = 0; d < D; d++) {
      gy[t * D + d] += a * w["embed.weight"][v * D + d];
      gw["embed.weight"][v * D + d] += a * y[t * D + d];
    }
  }
}

// ---- drawing characters ---------------------------------------------------------------------------------------------

/** Logits → what is drawn from, as `Sampling.probabilities` has it: temperature, then the k likeliest, then the fewest
    of these that hold the share p of their mass. Temperature 0 is the likeliest alone. */
function distribution(logits, { temperature, topK, topP }) {
  const V = logits.length, order = range(V).sort((a, b) => logits[b] - logits[a] || a - b);
  const p = temperature > 0 ? Float64Array.from(logits, z => (z - logits[order[0]]) / temperature) : zeros(V);
  softmax(p, 0, V);
  const k = temperature > 0 ? Math.min(topK, V) : 1, total = order.slice(0, k).reduce((sum, v) => sum + p[v], 0);
  let kept = 0, mass = 0;
  while (kept < k && (kept === 0 || mass < topP * total)) mass += p[order[kept++]];
  order.slice(kept).forEach(v => { p[v] = 0; });
  return { p: p.map(x => x / mass), order, kept };
}

/** mulberry32: a small seeded stream of numbers in [0, 1). */
function random(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** The character that a number u in [0, 1) falls on. */
function draw(p, u) {
  let sum = 0;
  for (let v = 0; v < p.length; v++) if ((sum += p[v]) > u && p[v] > 0) return v;
  return Math.max(0, p.lastIndexOf(Math.max(...p)));
}

module.exports = {
  zeros, range, fromHalf, fromBase64, readWeights, makeModel, untrained, stationsOf, weightsOf, linear, layerNorm,
  rotate, bucket, scoreBias, attention, dot, erf, ACTIVATIONS, softmax, unembed, unembedRow, makeNorm, makeTrace,
  forward, lens, windowStart, lossAndGradient, backward, distribution, random, draw };
