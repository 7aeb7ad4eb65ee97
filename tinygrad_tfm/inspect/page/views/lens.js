/* lens.js: section 4, what the model would say if it stopped after each layer. (nostalgebraist 2020, "the logit lens")
   Read next: blame.js. */

const depth = l => (l ? `layer ${l}` : "embedding");

sections.lens = () => {
  const n = T(), t = at(), p = range(L + 1).map(l => range(n).map(i => lens(model, trace, l, i)));
  const said = p.map(rows => rows.map(q => best(q))), end = said[L][t], answer = t + 1 < n ? S.ids[t + 1] : end;
  const cell = (l, i) => {
    const v = said[l][i], q = p[l][i][v], hit = i + 1 < n && v === S.ids[i + 1], here = i === t && l === S.lensRow;
    return `<td data-l="${l}" data-i="${i}" class="${hit ? "hit" : ""} ${here ? "at" : ""}" style="${tinted("resid", 0.9 * q)}" ` +
      `title="after ‘${escape(glyph(char(i)))}’: ${escape(glyph(characters[v]))} ${percent(q)}">${mark(characters[v])}</td>`;
  };
  const line = l => `<tr><th scope="row">${depth(l)}</th>${range(n).map(i => cell(l, i)).join("")}</tr>`;
  const text = range(n).map(i => `<td data-l="${S.lensRow}" data-i="${i}" ${i === t ? 'class="at"' : ""}>${mark(char(i))}</td>`);
  $("lens-table").innerHTML = '<caption class="sr">Best guess for the next character after each layer</caption>' +
    `${range(L + 1).reverse().map(line).join("")}<tr class="text"><th scope="row">the text</th>${text.join("")}</tr>`;
  const settled = range(L + 1).find(l => said.slice(l).every(rows => rows[t] === end));
  $("cap-lens").innerHTML = `After ${quoted(char(t))} at ${t} the model ends with <b>${quoted(characters[end])}</b>, and holds that ` +
    `opinion from <b>${settled ? `layer ${settled}` : "the embedding"}</b> on. ` +
    (config.tied ? "With tied weights the bare embedding can only repeat its own character: the layers must turn it away. " : "") +
    "Click a cell.";
  reveal($("lens-table").parentNode, $("lens-table").rows[0].cells[t + 1].offsetLeft);
  $("lens-detail").innerHTML = range(L + 1).map(l => opinions(l, p[l][t], answer)).join("");
};

/** The five likeliest characters at one depth, and the place of the true one. */
function opinions(l, q, answer) {
  const five = range(V).sort((a, b) => q[b] - q[a] || a - b).slice(0, 5), rank = q.filter(x => x > q[answer]).length + 1;
  const bar = v => `<li><span>${mark(characters[v])}</span><i><s style="width:${(100 * q[v]).toFixed(1)}%"></s></i>` +
    `<span>${Math.round(100 * q[v])} %</span></li>`;
  return `<div><h3>${depth(l)}</h3><ol>${five.map(bar).join("")}</ol>` +
    `<span class="num">${quoted(characters[answer])} is no. ${rank}</span></div>`;
}

function startLens() {
  $("lens-table").onclick = event => {
    const cell = event.target.closest("td");
    if (!cell) return;
    S.lensRow = +cell.dataset.l;
    choose(+cell.dataset.i);
  };
}
