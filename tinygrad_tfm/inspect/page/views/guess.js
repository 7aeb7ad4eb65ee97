/* guess.js: guess before you look. The learner says which character comes next and how sure they are, then sees what the
   model said; both pay −log₂ of what they gave the true one. (Shannon 1951 measured English in this way.)
   Read next: heads.js. */

const OPENING = 24; // characters that are given before the first guess
let game = null; //    {text, ids, next: the place to guess, mine, its, rounds, last}

/** Texts to guess from: of the validation text if the run kept some, else what the model wrote by itself. */
function passages() {
  const kept = (META.passages || []).concat(META.metrics.filter(m => m.kind === "passage").map(m => m.text));
  const written = META.metrics.filter(m => m.kind === "sample").slice(-3).map(m => m.text);
  const fit = text => [...text].filter(c => idOf.has(c)).length > OPENING + 10;
  const fresh = kept.filter(fit);
  return fresh.length ? { texts: fresh, whose: "a text that the model has not seen" }
    : { texts: written.concat(META.examples.map(e => e.text)).filter(fit), whose: "a text that the model wrote" };
}

/** Bits a guess costs: `sure` of the probability on one character, the rest spread over the others. */
const guessBits = (sure, right) => -Math.log2(right ? sure : (1 - sure) / (V - 1));

function newGame() {
  const { texts } = passages(), text = texts[game ? (game.nth + 1) % texts.length : 0];
  const ids = [...text].filter(c => idOf.has(c)).map(c => idOf.get(c));
  game = { nth: texts.indexOf(text), ids, next: OPENING, mine: 0, its: 0, rounds: 0, last: null };
}

/** The model's distribution for the place to guess; it sees what the learner sees. */
function itsView() {
  const ids = game.ids.slice(Math.max(0, game.next - CONTEXT), game.next);
  forward(original, ids, scratch);
  return scratch.probs.slice((ids.length - 1) * V, ids.length * V);
}

function guess(v) {
  const p = itsView(), truth = game.ids[game.next], sure = +$("sure").value / 100;
  const mine = guessBits(sure, v === truth), its = -Math.log2(p[truth]);
  game.mine += mine;
  game.its += its;
  game.rounds++;
  game.last = { v, truth, mine, its, p };
  game.next++;
  if (game.next >= game.ids.length) newGame();
  drawGuess();
}

function drawGuess() {
  const { ids, next, last, rounds } = game, from = Math.max(0, next - 48);
  $("o-sure").textContent = `${$("sure").value} %`;
  $("guess-text").innerHTML = ids.slice(from, next).map((v, i) =>
    from + i === next - 1 && last ? `<b>${mark(characters[v])}</b>` : mark(characters[v])).join("") + '<i aria-label="?">?</i>';
  $("guess-last").innerHTML = last ? verdict(last) : `What comes next? The passage is ${passages().whose}.`;
  const bits = x => (rounds ? (x / rounds).toFixed(2) : "–");
  $("guess-score").innerHTML = [["guesses", rounds], ["you pay", `${bits(game.mine)} bits`],
    ["the model pays", `${bits(game.its)} bits`], ["guessing evenly costs", `${Math.log2(V).toFixed(2)} bits`]]
    .map(([what, much]) => `<dt>${what}</dt><dd>${much}</dd>`).join("");
}

function verdict({ v, truth, mine, its, p }) {
  const right = v === truth, top = range(V).sort((a, b) => p[b] - p[a]).slice(0, 3);
  const said = top.map(c => `${quoted(characters[c])} ${percent(p[c])}`).join(", ");
  return `<span class="${right ? "ok" : "bad"}">${right ? "✓" : "✗"}</span> It was <b>${quoted(characters[truth])}</b>` +
    `${right ? "" : `, you said ${quoted(characters[v])}`}: ${mine.toFixed(1)} bits for you, ${its.toFixed(1)} for the model, ` +
    `which said ${said}.`;
}

function showGuess(on) {
  if (on && !passages().texts.length) return;
  $("guess").hidden = !on;
  $("answers").hidden = on;
  $("guess-first").setAttribute("aria-pressed", on);
  $("guess-first").textContent = on ? "Back to the bars" : "Guess first";
  if (on && !game) newGame();
  if (on) drawGuess();
}

function startGuess() {
  $("guess-first").hidden = !passages().texts.length;
  $("guess-first").onclick = () => showGuess($("guess").hidden);
  $("guess-keys").innerHTML = characters.map((c, v) =>
    `<button type="button" data-v="${v}" aria-label="${escape(spoken(c))}">${mark(c)}</button>`).join("");
  $("guess-keys").onclick = event => {
    const key = event.target.closest("[data-v]");
    if (key) guess(+key.dataset.v);
  };
  $("guess").onkeydown = event => { // a key typed anywhere in the game is a guess, but for those that move and press
    const c = event.key === "Enter" ? "\n" : event.key;
    if (event.ctrlKey || event.metaKey || event.altKey || !idOf.has(c)) return;
    if (event.target.closest("input, button") && (c === "\n" || c === " ")) return;
    event.preventDefault();
    guess(idOf.get(c));
  };
  $("sure").oninput = () => drawGuess();
}
