/* forward.js: the strips of every station of the walk forward: what goes in, what comes out, and how each number is
   made. Read next: backward.js. */

const READ = model.pre ? "the normalised stream" : "the stream"; // what attention and feed-forward read

const FORWARD = {
  embed(_, t) {
    const c = char(t), scale = model.embedScale, x = row(trace.resid[0], t, D);
    const E = row(model.w["embed.weight"], S.ids[t], D), P = addsPlaces() && row(model.w["positions.weight"], t, D);
    const place = d => (P ? ` + P[${t}][${d}]` : "");
    const read = d => `{r:x}₀[${d}] = E[${quoted(c)}][${d}]${scale === 1 ? "" : "·√D"}${place(d)} = ` +
      `${num(E[d])}${scale === 1 ? "" : `·${num(scale, 6)}`}${P ? plus(P[d]) : ""} = <b>${num(x[d])}</b>`;
    return [makeStrip(`row ${quoted(c)} of E`, "what it is", E, "resid", read),
            ...(P ? [makeStrip(`row ${t} of P`, "where it is", P, "resid", read)] : []),
            makeStrip("{r:x}₀", P ? "their sum" : "the stream begins", x, "resid", read)];
  },

  norm(stop, t) {
    const n = normAt(stop, t);
    const read = d => `y[${d}] = (x[${d}] − mean)/std · gain${n.bias ? " + bias" : ""} = (${num(n.x[d])} − ` +
      `${factor(n.mean)})/${num(n.std)} · ${factor(n.gain[d])}${plus(n.bias && n.bias[d])} = <b>${num(n.y[d])}</b>`;
    return [makeStrip("{r:x}", `mean ${num(n.mean)}, std ${num(n.std)}`, n.x, "resid", read),
            makeStrip("x̂", "mean 0, std 1", n.hat, "resid", read),
            makeStrip("y", n.bias ? "with gain and bias" : "with gain", n.y, "resid", read)];
  },

  qkv({ l }, t) {
    const A = trace.blocks[l], y = row(A.attentionIn, t, D);
    const three = ["query", "key", "value"].map(name => {
      const values = row(name === "value" ? A.value : A[name + "Raw"], t, D), label = `{${name[0]}:${name[0]}}`;
      const read = productRead(label, values, y, l, "attention." + name, D, "y");
      return makeStrip(`{${name[0]}:${name}}`, `${plural(H, "head")} of ${K}`, values, name, read, headMarks());
    });
    return [makeStrip("y", READ, y, "resid", null, { axis: "y" }), ...three];
  },

  rotate({ l }, t) {
    const A = trace.blocks[l], rates = model.w["positions.rates"];
    return ["query", "key"].flatMap(name => {
      const x = headOf(A[name + "Raw"], t), y = headOf(A[name], t), q = `{${name[0]}:${name[0]}}`;
      const read = c => {
        const even = c - c % 2, angle = t * rates[even / 2], [cos, sin] = [Math.cos(angle), Math.sin(angle)];
        const made = c % 2 ? sum([[x[even], sin], [x[even + 1], cos]]) : sum([[x[even], cos], [x[even + 1], -sin]]);
        return `${q}[${c}] = ${q}[${even}]·${c % 2 ? "sin" : "cos"} ${c % 2 ? "+" : "−"} ${q}[${even + 1}]·` +
          `${c % 2 ? "cos" : "sin"} = ${made} = <b>${num(y[c])}</b>`;
      };
      return [makeStrip(q, "as it was read", x, name, c => `${q}[${c}] = <b>${num(x[c])}</b>`),
              makeStrip(`${q} turned`, `pairs turned by ${t} times their rate`, y, name, read)];
    });
  },

  scores({ l }, t, j) {
    const A = trace.blocks[l], q = headOf(A.query, t), k = headOf(A.key, j), product = q.map((x, c) => x * k[c]);
    const read = c => `{q:q}[${c}]·{k:k}[${c}] = ${num(q[c])}·${factor(k[c])} = <b>${num(product[c])}</b>`;
    return [makeStrip(`{q:q} of ${quoted(char(t))}`, `position ${t}`, q, "query", read),
            makeStrip(`{k:k} of ${quoted(char(j))}`, `position ${j}`, k, "key", read),
            makeStrip("{q:q}[c]·{k:k}[c]", `sum ${num(product.reduce((s, x) => s + x, 0))}`, product, "prob", read),
            makeStrip("scores", "touch to choose the key", overText(cut(A.scores, t), t), "query", scoreRead(l, t),
                      textMarks(t, j))];
  },

  pattern({ l }, t, j) {
    const A = trace.blocks[l], here = cut(A.scores, t).subarray(0, t + 1), p = cut(A.pattern, t);
    const max = Math.max(...here), power = i => `${plain(num(here[i]))} − ${plain(factor(max))}`;
    const e = here.map(x => Math.exp(x - max)), z = e.reduce((s, x) => s + x, 0), marks = textMarks(t, j);
    const read = i => i > t ? `p(${t},${i}) = 0: masked`
      : `p(${t},${i}) = e<sup>score − max</sup>/Σ = e<sup>${power(i)}</sup>/${num(z)} = ` +
        `${num(e[i])}/${num(z)} = <b>${num(p[i])}</b>`;
    return [makeStrip("scores", "any number", overText(here, t), "query", read, marks),
            makeStrip("e<sup>score − max</sup>", `sum ${num(z)}`, overText(e, t), "query", read,
                      { ...marks, unsigned: true }),
            makeStrip("pattern", "sum 1", overText(p, t), "query", read, { ...marks, unsigned: true, max: 1 })];
  },

  heads({ l }, t, j) {
    const A = trace.blocks[l], p = cut(A.pattern, t), v = headOf(A.value, j), z = headOf(A.heads, t);
    const muted = model.muted.has(l * H + S.head), shares = { ...textMarks(t, j), unsigned: true, max: 1 };
    const mix = c => range(t + 1).map(i => [p[i], A.value[i * D + S.head * K + c], quoted(char(i))]);
    const readP = i => i > t ? "masked" : `{v:v} of ${quoted(char(i))} at ${i} counts <b>${percent(p[i])}</b>`;
    const readZ = c => muted ? `z[${c}] = 0: this head is muted`
      : `z[${c}] = Σ<sub>j</sub> p[j]·{v:v}<sub>j</sub>[${c}] = ${sum(mix(c))} = <b>${num(z[c])}</b>`;
    return [makeStrip("pattern", "touch to choose whose value", overText(p, t), "query", readP, shares),
            makeStrip(`{v:v} of ${quoted(char(j))}`, `position ${j}, counts ${percent(p[j])}`, v, "value",
                      c => `{v:v}<sub>${j}</sub>[${c}] = <b>${num(v[c])}</b>`),
            makeStrip("z", muted ? "the mix, muted" : "the mix", z, "value", readZ)];
  },

  out({ l }, t) {
    const A = trace.blocks[l], z = row(A.heads, t, D), o = row(A.out, t, D);
    return [makeStrip("z, all heads", `${plural(H, "head")} of ${K}`, z, "value", d =>
              `z[${d}] = <b>${num(z[d])}</b> (head ${Math.floor(d / K) + 1})`, { ...headMarks(), axis: "z" }),
            makeStrip("out", "what attention adds", o, "value", productRead("out", o, z, l, "attention.out", D, "z")),
            ...added(row(trace.resid[l], t, D), o, row(A.sum1, t, D))];
  },

  up({ l }, t) {
    const A = trace.blocks[l], y = row(A.feedIn, t, D), u = row(A.up, t, F);
    const read = productRead("{f:u}", u, y, l, "feed_forward.up", F, "y");
    return [makeStrip("y", READ, y, "resid"), makeStrip("{f:u}", `${F} hidden units`, u, "feed", read)];
  },

  act({ l }, t) {
    const A = trace.blocks[l], u = row(A.up, t, F), a = row(A.act, t, F), open = a.filter(x => x > 0.1).length;
    const read = i => `{f:a}[${i}] = ${config.activation}(${num(u[i])}) = <b>${num(a[i])}</b>`;
    return [makeStrip("{f:u}", `${F} hidden units`, u, "feed", read),
            makeStrip(`{f:a} = ${config.activation}(u)`, `${plural(open, "unit")} open`, a, "feed", read)];
  },

  down({ l }, t) {
    const A = trace.blocks[l], a = row(A.act, t, F), o = row(A.down, t, D);
    const read = productRead("down", o, a, l, "feed_forward.down", D, "a");
    return [makeStrip("{f:a}", `${F} hidden units`, a, "feed", null),
            makeStrip("down", "what feed-forward adds", o, "feed", read),
            ...added(row(A.middle, t, D), o, row(A.sum2, t, D))];
  },

  unembed(_, t) {
    const y = row(trace.last, t, D), z = row(trace.logits, t, V);
    const read = v => `logit[${quoted(characters[v])}] = {r:y}·U[${quoted(characters[v])}] = ` +
      `${sum([...unembedRow(model, v)].map((u, d) => [y[d], u]))} = <b>${num(z[v])}</b>`;
    return [makeStrip("y", "the stream at its end", y, "resid", null),
            makeStrip("logits", `${V} characters`, z, "prob", read, { labels: characters })];
  },

  loss(_, t) {
    const z = row(trace.logits, t, V), p = row(trace.probs, t, V), log = trace.logZ[t];
    const read = v => `p(${quoted(characters[v])}) = e<sup>logit</sup>/Σ e<sup>logit</sup> = ` +
      `e<sup>${plain(num(z[v]))} − ${plain(factor(log))}</sup> = <b>${num(p[v])}</b>, ` +
      `it would cost −ln p = <b>${num(log - z[v])}</b>`;
    return [makeStrip("logits", "any number", z, "prob", read, { labels: characters }),
            makeStrip("probability", "sum 1", p, "prob", read, { labels: characters, unsigned: true })];
  },
};
for (const kind of ["norm1", "norm2"]) FORWARD[kind] = FORWARD.norm;

/** Are positions a table that is added to the stream? */
const addsPlaces = () => Boolean(model.w["positions.weight"]) && model.positions !== "relative";
/** The stream before and after something was added. */
function added(x, o, y) {
  const read = d => `{r:x}[${d}] ← ${num(x[d])} + ${factor(o[d])} = <b>${num(y[d])}</b>`;
  return [makeStrip("{r:x} before", "the stream", x, "resid", d => `{r:x}[${d}] = <b>${num(x[d])}</b>`),
          makeStrip("{r:x} after", "their sum", y, "resid", read)];
}
