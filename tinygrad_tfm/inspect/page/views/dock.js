/* dock.js: the prompt, the strip of characters the model sees, and drawing one after the other.
   Read next: predict.js. */

/** The surprise of the character at i, in bits: −log₂ of what the model gave it. */
const surprise = (i, tr = trace) => (i ? -Math.log2(tr.probs[(i - 1) * V + S.ids[i]]) : 0);

function drawTape() {
  const tape = $("tape"), n = T(), wrap = tape.parentNode;
  while (tape.children.length > n) tape.lastChild.remove();
  while (tape.children.length < n) {
    const cell = document.createElement("span");
    cell.id = "tape-" + tape.children.length;
    cell.setAttribute("role", "option");
    cell.append(document.createElement("bdi"), document.createElement("i"));
    tape.append(cell);
  }
  for (let i = 0; i < n; i++) {
    const cell = tape.children[i], [sign, column] = cell.children, c = char(i), bits = surprise(i);
    if (sign.textContent !== glyph(c)) sign.textContent = glyph(c);
    cell.classList.toggle("blank", /\s/.test(c));
    column.style.height = Math.min(18, 2.2 * bits) + "px";
    cell.title = `position ${i}: ${spoken(c)}` + (i ? `, surprise ${bits.toFixed(1)} bits` : "");
    cell.setAttribute("aria-label", cell.title);
    cell.setAttribute("aria-selected", i === at());
  }
  tape.setAttribute("aria-activedescendant", "tape-" + at());
  const left = tape.children[at()].offsetLeft;
  if (left < wrap.scrollLeft || left + 17 > wrap.scrollLeft + wrap.clientWidth) {
    wrap.scrollLeft = left - wrap.clientWidth + 40;
  }
}

/** Another position is in question. */
function choose(i) {
  S.pos = i === T() - 1 ? -1 : i;
  S.key = -1;
  redraw();
}

/** Another text, from a hand or an example. */
function setText(text) {
  stop();
  S.text = text;
  S.pos = S.key = -1;
  if ($("prompt").value !== text) $("prompt").value = text;
  update();
}

// ---- drawing characters ---------------------------------------------------------------------------------------------

let generating = null, dice = null, remaining = 0;
const nextDistribution = (t = T() - 1) => distribution(row(trace.logits, t, V), S);

function drawOne() {
  S.text += characters[draw(nextDistribution().p, dice())];
  S.pos = -1;
  $("prompt").value = S.text;
  $("prompt").scrollTop = 1e6;
  update(true);
}

function generate() {
  if (generating) return stop();
  home.text = S.text;
  dice = random(S.seed);
  remaining = S.count;
  S.pos = -1;
  $("generate").textContent = "Stop";
  generating = setInterval(() => {
    if (busy()) return;
    drawOne();
    if (--remaining <= 0) stop();
  }, 30);
}

function stop() {
  clearInterval(generating);
  generating = null;
  $("generate").textContent = "Generate";
}

/** A text of the learner's own: there is nothing to come back to, and the dice are thrown from the seed again. */
function anotherText(text) {
  home.text = dice = null;
  setText(text);
}

function startDock() {
  $("prompt").value = S.text;
  $("prompt").oninput = event => anotherText(event.target.value);
  $("generate").onclick = generate;
  $("one").onclick = () => {
    stop();
    if (busy()) return;
    home.text ??= S.text;
    dice ??= random(S.seed);
    drawOne();
  };
  $("restart").onclick = () => {
    anotherText(home.text ?? S.text);
  };
  $("tape").onclick = event => {
    const cell = event.target.closest("[role=option]");
    if (cell) choose([...$("tape").children].indexOf(cell));
  };
  $("tape").onkeydown = event => {
    const move = moveOf(event);
    if (!move) return;
    event.preventDefault();
    choose(clamp(at() + move, 0, T() - 1));
  };
  $("notice").onclick = event => { if (event.target.id === "restore") restore(); };
}
