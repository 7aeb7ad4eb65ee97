/* guess.js: guess before you look. The learner says which character comes next and how sure they are, then sees what
   the model said; both pay −log₂ of what they gave the true one (as in Shannon 1951). Read next: heads.js. */

const OPENING = 24; // characters that are given before the first guess
let game = null; //    {nth passage, ids, next: the place to guess, mine, its: bits so far, rounds, last}

/** Texts to guess from: of the validation text if the run kept some, else what the model wrote by itself. */
function passages() {
  const fit = text => [...text].filter(c => idOf.has(c)).length > OPENING + 10;
  const kept = linesOf("passage").map(m => m.text).filter(fit);
  if (kept.length) return { texts: kept, whose: "a text that the model has not seen" };
  const written = linesOf("sample").slice(-3).map(m => m.text).concat(META.examples.map(e => e.text));
  return { texts: written.filter(fit), whose: "a text that the model wrote" };
}

/** Bits a guess costs: `sure` of the probability on one character, the rest spread evenly over the others. */
const guessBits = (sure, right) => -Math.log2(right ? sure : (1 - sure) / (V - 1));

function newPassage() {
  const { texts } = passages(), nth = game ? (game.nth + 1) % texts.length : 0;
  const ids = [...texts[nth]].filter(c => idOf.has(c)).map(c => idOf.get(c));
  game = { mine: 0, its: 0, rounds: 0, last: null, ...game, nth, ids, next: OPENING };
}

/** The model's distribution for the place to guess; it sees what the learner sees. */
function itsView() {
  const ids = game.ids.slice(Math.max(0, game.next - CONTEXT), game.next);
  forward(model, ids, scratch);
  return scratch.probs.slice((ids.length - 1) * V, ids.length * V);
}

function guess(v) {
  const p = itsView(), truth = game.ids[game.next];
  const mine = guessBits(+$("sure").value / 100, v === truth), its = -Math.log2(p[truth]);
  Object.assign(game, { mine: game.mine + mine, its: game.its + its, rounds: game.rounds + 1, next: game.next + 1,
                        last: { v, truth, mine, its, p } });
  if (game.next >= game.ids.length) newPassage();
  drawGuess();
}

function drawGuess() {
  const { ids, next, last, rounds, mine, its } = game, from = Math.max(0, next - 48);
  const each = bits => (rounds ? `${(bits / rounds).toFixed(2)} bits` : "–");
  $("o-sure").textContent = `${$("sure").value} %`;
  $("guess-text").innerHTML = join(ids.slice(from, next), v => mark(characters[v])) + "<i>?</i>";
  $("guess-last").innerHTML = last ? verdict(last) : `The passage is ${passages().whose}. What comes next?`;
  $("guess-score").innerHTML = pairsOf({ "guesses": rounds, "you pay, on average": each(mine),
    "the model pays": each(its), "guessing evenly costs": `${Math.log2(V).toFixed(2)} bits` });
}

function verdict({ v, truth, mine, its, p }) {
  const right = v === truth, top = range(V).sort((a, b) => p[b] - p[a]).slice(0, 3);
  const said = top.map(c => `${quoted(characters[c])} ${percent(p[c])}`).join(", ");
  const sign = tag("span", { class: right ? "ok" : "bad" }, right ? "✓" : "✗");
  const yours = right ? "" : `, you said ${quoted(characters[v])}`;
  return `${sign} It was <b>${quoted(characters[truth])}</b>${yours}: ${mine.toFixed(1)} bits for you, ` +
    `${its.toFixed(1)} for the model, which said ${said}.`;
}

function showGuess(on) {
  $("guess").hidden = !on;
  $("answers").hidden = on;
  $("guess-first").setAttribute("aria-pressed", on);
  if (on && !game) newPassage();
  if (on) drawGuess();
}

function startGuess() {
  $("guess-first").hidden = !passages().texts.length;
  $("guess-first").onclick = () => showGuess($("guess").hidden);
  $("guess-keys").innerHTML = join(characters, (c, v) =>
    tag("button", { type: "button", "data-v": v, "aria-label": spoken(c) }, mark(c)));
  $("guess-keys").onclick = event => {
    const key = event.target.closest("[data-v]");
    if (key) guess(+key.dataset.v);
  };
  $("guess").onkeydown = event => { // a key typed anywhere in the game is a guess, but for those that press and move
    const c = event.key === "Enter" ? "\n" : event.key, control = event.target.closest("input, button");
    if (event.ctrlKey || event.metaKey || event.altKey || !idOf.has(c) || (control && /\s/.test(c))) return;
    event.preventDefault();
    guess(idOf.get(c));
  };
  $("sure").oninput = drawGuess;
}
