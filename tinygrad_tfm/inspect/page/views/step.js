/* step.js: take the step: every weight a little against its gradient, what that promised, and what it gave.
   Read next: training.js. */

function takeStep() {
  const eta = 10 ** +$("eta").value, square = gradientSquare(), { loss, weights: g } = G, goal = targets(), muted = model.muted;
  const w = { ...model.w };
  for (const { name } of META.tensors) if (trains(name)) w[name] = w[name].map((x, i) => x - eta * g[name][i]);
  model = variant(w);
  model.muted = muted;
  forward(model, S.ids, scratch);
  const after = lossAndGradient(model, scratch, goal).loss, last = T() - 1;
  const share = S.scope === "one" ? percent(scratch.probs[last * V + idOf.get(S.target)]) : "–";
  steps.push({ loss, promised: loss - eta * square, after, share });
  drawSteps();
  update();
}

function drawSteps() {
  const from = Math.max(0, steps.length - 6), cells = s => [s.loss, s.promised].map(x => `<td>${minus(x.toFixed(3))}</td>`).join("");
  $("steps").innerHTML = steps.slice(from).map((s, i) => `<tr><td>${from + i + 1}</td>${cells(s)}<td><b class="${s.after < s.loss ? "ok"
    : "bad"}">${s.after.toFixed(3)}</b></td><td>${s.share}</td></tr>`).join("") ||
    '<tr><td colspan="5" class="num">No step taken yet.</td></tr>';
  $("undo").disabled = !steps.length;
}
const minus = s => s.replace("-", "−");

function startStep() {
  $("step").onclick = () => withGradient(takeStep);
  $("undo").onclick = () => travel(moment);
  $("eta").oninput = () => { $("o-eta").innerHTML = num(10 ** +$("eta").value); };
  drawSteps();
}
