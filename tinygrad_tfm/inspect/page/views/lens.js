/* lens.js: section 4, what the model would say if it stopped after each layer. ("The logit lens", nostalgebraist 2020)
   Read next: blame.js. */

const depth = l => (l ? `layer ${l}` : "embedding");

sections.lens = () => {
  const n = T(), t = at(), p = range(L + 1).map(l => range(n).map(i => lens(model, trace, l, i)));
  const said = p.map(rows => rows.map(q => best(q))), end = said[L][t], answer = t + 1 < n ? S.ids[t + 1] : end;
  const cell = (l, i) => {
    const v = said[l][i], q = p[l][i][v], hit = i + 1 < n && v === S.ids[i + 1], here = i === t && l === S.lensRow;
    const title = `after ${spoken(char(i))}: ${spoken(characters[v])} ${percent(q)}`;
    return tag("td", { "data-l": l, "data-i": i, class: classes({ hit, at: here }),
                       style: tinted("resid", 0.9 * q), title }, mark(characters[v]));
  };
  const head = text => tag("th", { scope: "row" }, text);
  const text = i => tag("td", { "data-l": S.lensRow, "data-i": i, class: i === t && "at" }, mark(char(i)));
  $("lens-table").innerHTML = '<caption class="sr">Best guess for the next character after each layer</caption>' +
    join(range(L + 1).reverse(), l => tag("tr", {}, head(depth(l)) + join(range(n), i => cell(l, i)))) +
    tag("tr", { class: "text" }, head("the text") + join(range(n), text));
  const settled = range(L + 1).find(l => said.slice(l).every(rows => rows[t] === end));
  $("cap-lens").innerHTML = `After ${quoted(char(t))} at ${t} the model ends with <b>${quoted(characters[end])}</b>, ` +
    `and holds that opinion from <b>${settled ? depth(settled) : "the embedding"}</b> on. ${TIED}Click a cell.`;
  reveal($("lens-table").parentNode, $("lens-table").rows[0].cells[t + 1].offsetLeft);
  $("lens-detail").innerHTML = join(range(L + 1), l => opinions(l, p[l][t], answer));
};
const TIED = config.tied
  ? "With tied weights the bare embedding mostly repeats its own character: the layers must turn it away. " : "";

/** The five likeliest characters at one depth, and the rank of the true one. */
function opinions(l, q, answer) {
  const five = range(V).sort((a, b) => q[b] - q[a] || a - b).slice(0, 5);
  const rank = q.filter(x => x > q[answer]).length + 1;
  const bar = v => tag("span", { class: "track" }, tag("s", { style: `width:${fix(100 * q[v])}%` }));
  const line = v => tag("span", {}, mark(characters[v])) + bar(v) + tag("span", {}, `${Math.round(100 * q[v])} %`);
  return tag("div", {}, tag("h3", {}, depth(l)) + tag("ol", {}, join(five, v => tag("li", {}, line(v)))) +
    tag("span", { class: "num" }, `${quoted(characters[answer])} is no. ${rank}`));
}

function startLens() {
  $("lens-table").onclick = event => {
    const cell = event.target.closest("td");
    if (!cell) return;
    S.lensRow = +cell.dataset.l;
    choose(+cell.dataset.i);
  };
}
