/* step.js: take the step: every weight a little against its gradient, what that promised, and what it gave.
   Read next: training.js. */

function takeStep() {
  const eta = 10 ** +$("eta").value, { loss, weights: g } = G, w = { ...model.w };
  for (const name of PARTS) w[name] = w[name].map((x, i) => x - eta * g[name][i]);
  model = variant(w, model.muted);
  forward(model, S.ids, scratch);
  const after = lossAndGradient(model, scratch, targets()).loss, p = row(scratch.probs, T() - 1, V)[idOf.get(S.target)];
  steps.push({ loss, promised: loss - eta * gradientSquare(), after, share: S.scope === "one" ? percent(p) : "–" });
  drawSteps();
  update();
}

function drawSteps() {
  const from = Math.max(0, steps.length - 6), nats = x => x.toFixed(3).replace("-", "−");
  const after = s => tag("b", { class: s.after < s.loss ? "ok" : "bad" }, nats(s.after));
  const cells = (s, i) => [from + i + 1, nats(s.loss), nats(s.promised), after(s), s.share];
  const line = (s, i) => tag("tr", {}, join(cells(s, i), x => tag("td", {}, x)));
  $("steps").innerHTML = join(steps.slice(from), line) ||
    '<tr><td colspan="5" class="num">No step taken yet.</td></tr>';
  $("undo").disabled = !steps.length;
}

function startStep() {
  $("step").onclick = () => withGradient(takeStep);
  $("undo").onclick = () => travel(moment);
  $("eta").oninput = () => { $("o-eta").innerHTML = num(10 ** +$("eta").value); };
  drawSteps();
}
