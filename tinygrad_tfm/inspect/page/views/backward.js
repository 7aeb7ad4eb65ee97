/* backward.js: the strips of every station of the walk backward: the gradient that arrives, the one that leaves, and
   how each number is made. Read next: backward_attention.js. */

const gradStrip = (label, note, values, read, more) => makeStrip(label, note, values, "grad",
  read || (i => `{g:g}[${i}] = <b>${num(values[i])}</b>`), more);
/** One scale for all of these lists. */
const sameScale = (...lists) => ({ max: Math.max(1e-30, ...lists.map(v => Math.abs(v[largest(v)]))) });

const BACKWARD = {
  loss(_, t) {
    const g = row(G.acts.logits, t, V), p = row(trace.probs, t, V), goal = targets(), target = goal[t];
    const rows = goal.filter(x => x >= 0).length, each = rows > 1 ? "/" + rows : "";
    const read = v => target < 0 ? "This position has no target: no gradient starts here."
      : `{g:g}[${quoted(characters[v])}] = (p − 1[target])${each} = (${num(p[v])} − ${+(v === target)})${each} = ` +
        `<b>${num(g[v])}</b>`;
    const whose = target < 0 ? "no loss at this position" : `target ${quoted(characters[target])}`;
    return [makeStrip("p", "what the model said", p, "prob", v => `p(${quoted(characters[v])}) = <b>${num(p[v])}</b>`,
                      { labels: characters, unsigned: true }),
            gradStrip("{g:g} logits", whose, g, read, { labels: characters })];
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
            gradStrip("{g:gx}", "their sum leaves", total, d => `{g:gx}[${d}] = straight + through = ` +
                      `${num(past[d])} + ${factor(through[d])} = <b>${num(total[d])}</b>`, scale)];
  },

  down({ l }, t) {
    const B = G.acts.blocks[l], g = row(B.down, t, D), ga = row(B.act, t, F);
    const read = productBackRead("{g:ga}", ga, g, l, "feed_forward.down", D);
    return [gradStrip("{g:gx}", "arrives, goes both ways", g), gradStrip("{g:ga}", `leaves to ${F} units`, ga, read)];
  },

  act({ l }, t) {
    const B = G.acts.blocks[l], ga = row(B.act, t, F), gu = row(B.up, t, F), u = row(trace.blocks[l].up, t, F);
    const slopes = u.map(x => model.activation.slope(x));
    const read = i => `{g:gu}[${i}] = ga·slope(${num(u[i])}) = ${num(ga[i])}·${factor(slopes[i])} = ` +
      `<b>${num(gu[i])}</b>`;
    return [gradStrip("{g:ga}", "arrives", ga, read), makeStrip("slope(u)", "one a unit", slopes, "feed", read),
            gradStrip("{g:gu}", "leaves", gu, read)];
  },

  up(stop, t) {
    const B = G.acts.blocks[stop.l], g = row(B.up, t, F), gy = row(B.feedIn, t, D), past = straight(stop, t);
    return [gradStrip("{g:gu}", "arrives", g), ...pastStrip(past), gradStrip("{g:gy}", "leaves", gy,
      productBackRead("{g:gy}", gy, g, stop.l, "feed_forward.up", F, past))];
  },

  embed(_, t) {
    const v = S.ids[t], g = row(G.acts.resid[0], t, D), places = range(T()).filter(i => S.ids[i] === v);
    const gE = row(G.weights["embed.weight"], v, D), scale = model.embedScale;
    const read = d => {
      const terms = places.map(i => [scale, G.acts.resid[0][i * D + d], `at ${i}`]);
      const rest = gE[d] - terms.reduce((s, [a, b]) => s + a * b, 0);
      const logits = config.tied ? `${plus(rest)} from the logits (tied)` : "";
      return `{g:gE}[${quoted(char(t))}][${d}] = ${sum(terms)}${logits} = <b>${num(gE[d])}</b>`;
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
