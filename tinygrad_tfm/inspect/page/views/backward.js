/* backward.js: the strips of every station of the walk backward: the gradient that arrives, the one that leaves, and how
   each number is made. Read next: map.js. */

const gradStrip = (label, note, values, read, more) => makeStrip(label, note, values, "grad",
  read || (i => `{g:g}[${i}] = <b>${num(values[i])}</b>`), more);
/** One scale for all of these lists. */
const sameScale = (...lists) => ({ max: Math.max(1e-30, ...lists.map(v => Math.abs(v[largest(v)]))) });

const BACKWARD = {
  loss(_, t) {
    const g = row(G.acts.logits, t, V), p = row(trace.probs, t, V), goal = targets(), target = goal[t];
    const rows = goal.filter(x => x >= 0).length, each = rows > 1 ? "/" + rows : "";
    const read = v => target < 0 ? "This position has no target: no gradient starts here."
      : `{g:g}[${quoted(characters[v])}] = (p − 1[target])${each} = (${num(p[v])} − ${+(v === target)})${each} = <b>${num(g[v])}</b>`;
    return [makeStrip("p", "what the model said", p, "prob", v => `p(${quoted(characters[v])}) = <b>${num(p[v])}</b>`,
                      { labels: characters, unsigned: true }),
            gradStrip("{g:g} logits", target < 0 ? "no loss at this position" : `target ${quoted(characters[target])}`, g, read,
                      { labels: characters })];
  },

  unembed(_, t) {
    const g = row(G.acts.logits, t, V), gy = row(G.acts.last, t, D), U = range(V).map(v => unembedRow(model, v));
    const read = d => `{g:gy}[${d}] = Σ<sub>c</sub> g[c]·U[c][${d}] = ` +
      `${sum(range(V).map(v => [g[v], U[v][d], quoted(characters[v])]))} = <b>${num(gy[d])}</b>`;
    return [gradStrip("{g:g} logits", "arrives", g, v => `{g:g}[${quoted(characters[v])}] = <b>${num(g[v])}</b>`,
                      { labels: characters }), gradStrip("{g:gy}", "leaves", gy, read)];
  },

  norm(stop, t) {
    const { kind, l } = stop, n = normAt(stop, t), B = kind === "norm" ? G.acts : G.acts.blocks[l], N = B[kind];
    const g = row(N.y, t, D), total = row(N.x, t, D), past = straight(stop, t);
    const through = past ? total.map((x, d) => x - past[d]) : total, gh = g.map((x, d) => x * n.gain[d]);
    const mean = gh.reduce((s, x) => s + x / D, 0), along = gh.reduce((s, x, d) => s + x * n.hat[d] / D, 0);
    const read = d => `{g:g} through [${d}] = (ĝ − mean ĝ − x̂·mean(ĝ·x̂))/std = (${num(gh[d])} − ${factor(mean)} − ` +
      `${factor(n.hat[d])}·${factor(along)})/${num(n.std)} = <b>${num(through[d])}</b>`;
    const arrives = gradStrip("{g:gy}", "arrives at the norm", g, d => `{g:gy}[${d}] = <b>${num(g[d])}</b>`);
    if (!past) return [arrives, gradStrip("{g:gx}", "leaves", total, read)];
    const scale = sameScale(past, through, total);
    return [arrives, gradStrip("{g:g} through", "by way of the norm", through, read, scale),
            gradStrip("{g:g} straight", "down the stream", past, d => `straight[${d}] = <b>${num(past[d])}</b>`, scale),
            gradStrip("{g:gx}", "their sum leaves", total, d => `{g:gx}[${d}] = straight + through = ${num(past[d])} + ` +
                      `${factor(through[d])} = <b>${num(total[d])}</b>`, scale)];
  },

  down({ l }, t) {
    const B = G.acts.blocks[l], g = row(B.down, t, D), ga = row(B.act, t, F);
    return [gradStrip("{g:gx}", "arrives, goes both ways", g),
            gradStrip("{g:ga}", `leaves to ${F} units`, ga, productBackRead("{g:ga}", ga, g, l, "feed_forward.down", D))];
  },

  act({ l }, t) {
    const B = G.acts.blocks[l], ga = row(B.act, t, F), gu = row(B.up, t, F), u = row(trace.blocks[l].up, t, F);
    const slopes = u.map(x => model.activation.slope(x));
    const read = i => `{g:gu}[${i}] = ga·slope(${num(u[i])}) = ${num(ga[i])}·${factor(slopes[i])} = <b>${num(gu[i])}</b>`;
    return [gradStrip("{g:ga}", "arrives", ga, read), makeStrip("slope(u)", "one a unit", slopes, "feed", read),
            gradStrip("{g:gu}", "leaves", gu, read)];
  },

  up(stop, t) {
    const B = G.acts.blocks[stop.l], g = row(B.up, t, F), gy = row(B.feedIn, t, D), past = straight(stop, t);
    return [gradStrip("{g:gu}", "arrives", g), ...pastStrip(past), gradStrip("{g:gy}", "leaves", gy,
      productBackRead("{g:gy}", gy, g, stop.l, "feed_forward.up", F, past))];
  },

  out({ l }, t) {
    const B = G.acts.blocks[l], g = row(B.out, t, D), gz = row(B.heads, t, D);
    return [gradStrip("{g:gx}", "arrives, goes both ways", g), gradStrip("{g:gz}", `leaves to ${plural(H, "head")}`, gz,
      productBackRead("{g:gz}", gz, g, l, "attention.out", D), { ...headMarks(), axis: "z" })];
  },

  heads({ l }, t, j) {
    const A = trace.blocks[l], B = G.acts.blocks[l], gz = headOf(B.heads, t), gv = headOf(B.value, t), gp = cut(B.pattern, t);
    const readers = c => range(T() - t).map(n => [weight(l, S.head, t + n, t), headOf(B.heads, t + n)[c], quoted(char(t + n))]);
    const readP = i => i > t ? "masked" : `{g:gp}[${t},${i}] = {g:gz}·{v:v}<sub>${i}</sub> = ` +
      `${sum([...headOf(A.value, i)].map((v, c) => [gz[c], v]))} = <b>${num(gp[i])}</b>`;
    return muteNote(l, [gradStrip("{g:gz}", "arrives at this head", gz),
      gradStrip("{g:gp}", "leaves to the pattern", overText(gp, t), readP, textMarks(t, j)),
      gradStrip(`{g:gv} of ${quoted(char(t))}`, "from all later readers", gv, c => `{g:gv}[${c}] = Σ<sub>i≥${t}</sub> ` +
        `p[i,${t}]·gz<sub>i</sub>[${c}] = ${sum(readers(c))} = <b>${num(gv[c])}</b>`)]);
  },

  pattern({ l }, t, j) {
    const B = G.acts.blocks[l], p = cut(trace.blocks[l].pattern, t), gp = cut(B.pattern, t), gs = cut(B.scores, t);
    const mean = range(t + 1).reduce((s, i) => s + p[i] * gp[i], 0), marks = textMarks(t, j);
    const read = i => i > t ? "masked: p = 0, so no gradient" : `{g:gs}[${t},${i}] = p·(gp − mean) = ${num(p[i])}·(${num(gp[i])} − ` +
      `${factor(mean)}) = <b>${num(gs[i])}</b>`;
    return muteNote(l, [makeStrip("p", "the pattern", overText(p, t), "query", read, { ...marks, unsigned: true, max: 1 }),
      gradStrip("{g:gp}", `arrives, mean ${num(mean)}`, overText(gp, t), read, marks),
      gradStrip("{g:gs}", "leaves, sums to 0", overText(gs, t), read, marks)]);
  },

  scores({ l }, t, j) {
    const A = trace.blocks[l], B = G.acts.blocks[l], gs = cut(B.scores, t), gq = headOf(B.query, t), gk = headOf(B.key, t);
    const keys = c => range(t + 1).map(i => [gs[i], headOf(A.key, i)[c], quoted(char(i))]);
    const queries = c => range(T() - t).map(n => [cut(B.scores, t + n)[t], headOf(A.query, t + n)[c], quoted(char(t + n))]);
    const read = (out, of, terms, y) => c => `{g:${out}}[${c}] = ${of}[${c}]/√${K} = (${sum(terms(c))})/${ROOT().toFixed(3)} = ` +
      `<b>${num(y[c])}</b>`;
    return muteNote(l, [gradStrip("{g:gs}", "arrives", overText(gs, t), i => i > t ? "masked"
        : `{g:gs}[${t},${i}] = <b>${num(gs[i])}</b>`, textMarks(t, j)),
      gradStrip("{g:gq}", "to this query", gq, read("gq", "Σ<sub>j</sub> gs[j]·{k:k}<sub>j</sub>", keys, gq)),
      gradStrip("{g:gk}", "to this key, from later readers", gk,
                read("gk", `Σ<sub>i≥${t}</sub> gs[i,${t}]·{q:q}<sub>i</sub>`, queries, gk))]);
  },

  rotate({ l }, t) {
    const B = G.acts.blocks[l];
    return ["query", "key"].flatMap(name => [gradStrip(`{g:g} of the {${name[0]}:${name}}`, "arrives", headOf(B[name], t)),
      gradStrip(`{g:g} turned back`, "leaves", headOf(B[name + "Raw"], t))]);
  },

  qkv(stop, t) {
    const { l } = stop, B = G.acts.blocks[l], gy = row(B.attentionIn, t, D), past = straight(stop, t);
    const three = ["query", "key", "value"].map(name => ({ name, g: row(name === "value" ? B.value : B[name + "Raw"], t, D) }));
    const via = i => three.map(({ name, g }) => g.reduce((s, x, j) => s + x * weightAt(l, "attention." + name)[i * D + j], 0));
    const read = i => `{g:gy}[${i}] = gq·W<sub>q</sub>[${i}] + gk·W<sub>k</sub>[${i}] + gv·W<sub>v</sub>[${i}]${past ? " + straight" : ""} = ` +
      `${via(i).map(factor).join(" + ")}${plus(past && past[i])} = <b>${num(gy[i])}</b>`;
    const scale = sameScale(...three.map(x => x.g));
    return [...three.map(({ name, g }) => gradStrip(`{g:g} of the {${name[0]}:${name}}`, "same scale", g, null,
              { ...headMarks(), ...scale, axis: name })), ...pastStrip(past), gradStrip("{g:gy}", "leaves", gy, read)];
  },

  embed(_, t) {
    const v = S.ids[t], g = row(G.acts.resid[0], t, D), places = range(T()).filter(i => S.ids[i] === v);
    const gE = row(G.weights["embed.weight"], v, D), scale = model.embedScale;
    const read = d => {
      const terms = places.map(i => [scale, G.acts.resid[0][i * D + d], `at ${i}`]);
      const rest = gE[d] - terms.reduce((s, [a, b]) => s + a * b, 0);
      return `{g:gE}[${quoted(char(t))}][${d}] = ${sum(terms)}${config.tied ? `${plus(rest)} from the logits (tied)` : ""} = <b>${num(gE[d])}</b>`;
    };
    return [gradStrip("{g:gx}₀", "arrives at the embedding", g),
            gradStrip(`{g:gE}[${quoted(char(t))}]`, `from ${plural(places.length, "place")}`, gE, read)];
  },
};
for (const kind of ["norm1", "norm2"]) BACKWARD[kind] = BACKWARD.norm;

/** What comes down the stream past a station and is added to what leaves it: past the norms of a pre-norm block, past
    the steps themselves in a post-norm one. */
function straight({ kind, l }, t) {
  const which = { true: { norm1: "sum1", norm2: "sum2" }, false: { qkv: "sum1", up: "sum2" } }[model.pre][kind];
  return which && row(G.acts.blocks[l][which], t, D);
}
const pastStrip = past => (past ? [gradStrip("{g:g} straight", "down the stream", past)] : []);
/** A muted head hands nothing on, and its strips say so. */
const muteNote = (l, strips) => !model.muted.has(l * H + S.head) ? strips
  : strips.map(s => ({ ...s, read: () => "This head is muted: no gradient passes through it." }));
