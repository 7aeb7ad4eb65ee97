/* backward_attention.js: the strips of attention's stations on the walk backward. This is where blame moves from one
   character to another. Read next: map.js. */

/** The positions that can read t: itself and all that come later. */
const laterThan = t => range(T() - t).map(n => t + n);
/** A muted head hands nothing on, and its strips say so. */
const muteNote = (l, strips) => !model.muted.has(l * H + S.head) ? strips
  : strips.map(s => ({ ...s, read: () => "This head is muted: no gradient passes through it." }));

Object.assign(BACKWARD, {
  out({ l }, t) {
    const B = G.acts.blocks[l], g = row(B.out, t, D), gz = row(B.heads, t, D);
    return [gradStrip("{g:gx}", "arrives, goes both ways", g), gradStrip("{g:gz}", `leaves to ${plural(H, "head")}`, gz,
      productBackRead("{g:gz}", gz, g, l, "attention.out", D), { ...headMarks(), axis: "z" })];
  },

  heads({ l }, t, j) {
    const A = trace.blocks[l], B = G.acts.blocks[l], gz = headOf(B.heads, t), gv = headOf(B.value, t);
    const gp = cut(B.pattern, t), products = i => [...headOf(A.value, i)].map((v, c) => [gz[c], v]);
    const readers = c => laterThan(t).map(i => [weight(l, S.head, i, t), headOf(B.heads, i)[c], quoted(char(i))]);
    const readP = i => i > t ? "masked"
      : `{g:gp}[${t},${i}] = {g:gz}·{v:v}<sub>${i}</sub> = ${sum(products(i))} = <b>${num(gp[i])}</b>`;
    const readV = c => `{g:gv}[${c}] = Σ<sub>i≥${t}</sub> p[i,${t}]·gz<sub>i</sub>[${c}] = ` +
      `${sum(readers(c))} = <b>${num(gv[c])}</b>`;
    return muteNote(l, [gradStrip("{g:gz}", "arrives at this head", gz),
      gradStrip("{g:gp}", "leaves to the pattern", overText(gp, t), readP, textMarks(t, j)),
      gradStrip(`{g:gv} of ${quoted(char(t))}`, "from all later readers", gv, readV)]);
  },

  pattern({ l }, t, j) {
    const B = G.acts.blocks[l], p = cut(trace.blocks[l].pattern, t), gp = cut(B.pattern, t), gs = cut(B.scores, t);
    const mean = range(t + 1).reduce((s, i) => s + p[i] * gp[i], 0), marks = textMarks(t, j);
    const read = i => i > t ? "masked: p = 0, so no gradient"
      : `{g:gs}[${t},${i}] = p·(gp − mean) = ${num(p[i])}·(${num(gp[i])} − ${factor(mean)}) = <b>${num(gs[i])}</b>`;
    return muteNote(l, [
      makeStrip("p", "the pattern", overText(p, t), "query", read, { ...marks, unsigned: true, max: 1 }),
      gradStrip("{g:gp}", `arrives, mean ${num(mean)}`, overText(gp, t), read, marks),
      gradStrip("{g:gs}", "leaves, sums to 0", overText(gs, t), read, marks)]);
  },

  scores({ l }, t, j) {
    const A = trace.blocks[l], B = G.acts.blocks[l], gs = cut(B.scores, t);
    const gq = headOf(B.query, t), gk = headOf(B.key, t);
    const keys = c => range(t + 1).map(i => [gs[i], headOf(A.key, i)[c], quoted(char(i))]);
    const queries = c => laterThan(t).map(i => [cut(B.scores, i)[t], headOf(A.query, i)[c], quoted(char(i))]);
    const read = (out, of, terms, y) => c => `{g:${out}}[${c}] = ${of}[${c}]/√${K} = ` +
      `(${sum(terms(c))})/${ROOT().toFixed(3)} = <b>${num(y[c])}</b>`;
    const readS = i => i > t ? "masked" : `{g:gs}[${t},${i}] = <b>${num(gs[i])}</b>`;
    const readQ = read("gq", "Σ<sub>j</sub> gs[j]·{k:k}<sub>j</sub>", keys, gq);
    const readK = read("gk", `Σ<sub>i≥${t}</sub> gs[i,${t}]·{q:q}<sub>i</sub>`, queries, gk);
    return muteNote(l, [gradStrip("{g:gs}", "arrives", overText(gs, t), readS, textMarks(t, j)),
      gradStrip("{g:gq}", "to this query", gq, readQ),
      gradStrip("{g:gk}", "to this key, from later readers", gk, readK)]);
  },

  rotate({ l }, t) {
    const B = G.acts.blocks[l];
    return ["query", "key"].flatMap(name => [
      gradStrip(`{g:g} of the {${name[0]}:${name}}`, "arrives", headOf(B[name], t)),
      gradStrip("{g:g} turned back", "leaves", headOf(B[name + "Raw"], t))]);
  },

  qkv(stop, t) {
    const { l } = stop, B = G.acts.blocks[l], gy = row(B.attentionIn, t, D), past = straight(stop, t);
    const three = [["query", B.queryRaw], ["key", B.keyRaw], ["value", B.value]].map(([n, a]) => [n, row(a, t, D)]);
    const via = (name, g, i) => dot(g, 0, weightAt(l, "attention." + name), i * D, D);
    const products = ["q", "k", "v"].map(n => i => `g${n}·W<sub>${n}</sub>[${i}]`);
    const read = i => `{g:gy}[${i}] = ${products.map(p => p(i)).join(" + ")}${past ? " + straight" : ""} = ` +
      `${three.map(([name, g]) => factor(via(name, g, i))).join(" + ")}${plus(past && past[i])} = <b>${num(gy[i])}</b>`;
    const marks = { ...headMarks(), ...sameScale(...three.map(([, g]) => g)) };
    const strips = three.map(([name, g]) =>
      gradStrip(`{g:g} of the {${name[0]}:${name}}`, "same scale", g, null, { ...marks, axis: name }));
    return [...strips, ...pastStrip(past), gradStrip("{g:gy}", "leaves", gy, read)];
  },
});
