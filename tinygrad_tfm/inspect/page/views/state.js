/* state.js: what the page knows. The model, its trace of the text, and what the learner has chosen.
   Nothing is drawn here, and no number of the network computed: that is model.js. Read next: words.js, compute.js. */

const { range, fromBase64, readWeights, makeModel, untrained, stationsOf, weightsOf, scoreBias, unembedRow, makeTrace,
        dot, forward, backward, lens, windowStart, lossAndGradient, distribution, random, draw } = Model;
const $ = id => document.getElementById(id);
const META = JSON.parse($("meta").textContent), config = META.config, characters = config.characters;
const linesOf = kind => META.metrics.filter(m => m.kind === kind);
const idOf = new Map(characters.map((c, i) => [c, i]));
const trained = readWeights(META.tensors, fromBase64($("weights").textContent));
const original = makeModel(config, trained);
const { L, H, D, K, F, V } = original, CONTEXT = original.T;
const STOPS = stationsOf(config);

// ---- the model: the trained one, or what the learner made of it -----------------------------------------------------

let stamp = 0, steps = [], moment = "final";
/** The same shape with other weights; a new version, so that no trace is taken for its own. */
const variant = (weights, muted = new Set()) => ({ ...makeModel(config, weights), muted, version: ++stamp });
let model = variant(trained);
let trace = makeTrace(original), before = makeTrace(original), scratch = makeTrace(original);
const changed = () => model.muted.size > 0 || steps.length > 0 || moment !== "final";

// ---- what the learner has chosen ------------------------------------------------------------------------------------

const S = {
  text: META.prompt, ids: [], pos: -1, //           pos: the position in question, −1 for the last
  layer: 0, head: 0, key: -1, //                    key: the character that is read, −1 for the one read most
  stop: { forward: 0, backward: 0 }, cell: {}, //   the station of each walk, and the number touched there
  pace: 1600, //                                    milliseconds at a station, when a walk walks by itself
  target: META.target, scope: "one", lensRow: L, allBars: false,
  temperature: 1, topK: V, topP: 1, seed: 1, count: 300,
};

const T = () => S.ids.length, at = () => (S.pos < 0 || S.pos >= T() ? T() - 1 : S.pos);
const char = i => characters[S.ids[i]];
const home = { text: null }; // the text before generating, to come back to

/** The ids the model sees of a text: known characters only, and of a long text the end.
    The window moves on in jumps, so that most keystrokes leave it where it is and cost one row. */
function seen(text) {
  const all = [...text], known = all.filter(c => idOf.has(c)), unknown = [...new Set(all.filter(c => !idOf.has(c)))];
  const from = windowStart(known.length, CONTEXT);
  const shown = known.length ? known.slice(from) : [idOf.has("\n") ? "\n" : characters[0]];
  return { ids: shown.map(c => idOf.get(c)), unknown, total: known.length, from };
}

/** Where a loss stands: the target after the whole text, or every character that follows another. −1: no loss. */
function targets() {
  if (S.scope === "all" && T() > 1) return S.ids.map((_, i) => (i + 1 < T() ? S.ids[i + 1] : -1));
  return S.ids.map((_, i) => (i === T() - 1 ? idOf.get(S.target) : -1));
}

// ---- the address keeps all of it: a bookmark, or a link in a lecture ------------------------------------------------

const ADDRESSED = { pos: "whole", layer: "whole", head: "whole", temperature: "real", topK: "whole", topP: "real",
                    seed: "whole", count: "whole", scope: "word", target: "word" };
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

/** What `#text=…&stop=…` says, into S; whatever is missing or cannot be stays as it is. */
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (given.has("text")) S.text = given.get("text").slice(0, 4000);
  for (const [name, kind] of Object.entries(ADDRESSED)) {
    const word = given.get(name), x = kind === "whole" ? parseInt(word) : parseFloat(word);
    if (kind === "word" ? word !== null : Number.isFinite(x)) S[name] = kind === "word" ? word : x;
  }
  for (const way of ["forward", "backward"]) {
    const n = parseInt(given.get(way) ?? given.get("stop"));
    S.stop[way] = clamp(Number.isFinite(n) ? n : S.stop[way], 0, STOPS.length - 1);
  }
  S.layer = clamp(S.layer, 0, L - 1); S.head = clamp(S.head, 0, H - 1); S.pos = Math.max(-1, S.pos);
  S.temperature = clamp(S.temperature, 0, 2); S.topK = clamp(S.topK, 1, V); S.topP = clamp(S.topP, 0.05, 1);
  S.seed = clamp(S.seed, 0, 999999); S.count = clamp(S.count, 1, 2000);
  if (!idOf.has(S.target)) S.target = META.target;
  if (S.scope !== "all") S.scope = "one";
  const whole = n => Number.isInteger(n) && n >= 0 && n < L * H;
  const muted = (given.get("muted") || "").split(",").filter(Boolean).map(Number).filter(whole);
  return { given, muted, moment: given.get("moment") || "final", section: given.get("at") };
}

/** The address of what is on the screen now. */
function writeAddress() {
  const out = new URLSearchParams({ text: S.text.slice(-4000) });
  for (const name in ADDRESSED) out.set(name, S[name]);
  for (const way of ["forward", "backward"]) out.set(way, S.stop[way]);
  if (model.muted.size) out.set("muted", [...model.muted].sort((a, b) => a - b).join());
  if (moment !== "final") out.set("moment", moment);
  return "#" + out;
}

/** Puts a link into the address bar. Some browsers refuse that to a page from the disk; nothing else depends on it. */
function remember(link) {
  try {
    history.replaceState(null, "", link);
  } catch (refused) {
    return;
  }
}
