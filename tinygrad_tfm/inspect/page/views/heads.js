/* heads.js: what a head does, in numbers: on this text, and on random characters said twice. Read next: attend.js. */

const weight = (l, h, i, j) => trace.blocks[l].pattern[(h * CONTEXT + i) * CONTEXT + j];
/** The character that position i reads most, in a head. */
function mostRead(l, h, i) {
  let b = 0;
  for (let j = 1; j <= i; j++) if (weight(l, h, i, j) > weight(l, h, i, b)) b = j;
  return b;
}
/** The character whose key is looked at: the chosen one, or the one read most. */
const keyOf = (l, t) => (l === undefined ? 0 : S.key >= 0 && S.key <= t ? S.key : mostRead(l, S.head, t));

const FEATURES = ["previous character", "two back", "itself", "first character", "word breaks", "same character",
                  "this word"];
let pairs = { of: null, bits: [], even: [] };
/** For every pair (reader i, read j): which features hold, as bits; and how much an even gaze would give each. */
function pairFeatures() {
  const n = T(), of = S.ids.join();
  if (pairs.of === of) return pairs;
  const blank = S.ids.map(v => /\s/.test(characters[v])), bits = [], even = FEATURES.map(() => 0);
  for (let i = 0, word = -1; i < n; i++) {
    if (blank[i]) word = i; // where this word began
    for (let j = 0; j <= i; j++) {
      const holds = [j === i - 1, j === i - 2, j === i, j === 0, j < i - 2 && blank[j], j < i && S.ids[j] === S.ids[i],
                     j < i && j > word];
      bits.push(holds.reduce((b, yes, f) => b | (yes << f), 0));
      if (i) holds.forEach((yes, f) => { even[f] += yes / (i + 1) / (n - 1); });
    }
  }
  return (pairs = { of, bits, even });
}

let induction = { version: -1, score: [] };
/** Random characters said twice: how much does a head look at what followed the same character the first time?
    (Olsson et al. 2022, arXiv:2209.11895) */
function inductionScores() {
  if (induction.version === model.version) return induction.score;
  const r = random(5), half = CONTEXT >> 1, once = range(half).map(() => Math.floor(r() * V));
  const score = range(L * H).map(() => 0);
  if (half > 1) {
    forward(model, once.concat(once), scratch);
    score.forEach((_, n) => {
      const pattern = scratch.blocks[Math.floor(n / H)].pattern, rows = (n % H) * CONTEXT + half;
      for (let i = 0; i < half - 1; i++) score[n] += pattern[(rows + i) * CONTEXT + i + 1] / (half - 1);
    });
  }
  induction = { version: model.version, score };
  return score;
}

/** Share of a head's attention on each feature, its entropy and the most it could be; a name for what stands out. */
function headScores(l, h) {
  const n = T(), pattern = trace.blocks[l].pattern, { bits, even } = pairFeatures(), mass = FEATURES.map(() => 0);
  let spread = 0, most = 0;
  for (let i = 1, k = 1; i < n; i++) {
    most += Math.log2(i + 1) / (n - 1);
    for (let j = 0, cell = (h * CONTEXT + i) * CONTEXT; j <= i; j++, k++) {
      const p = pattern[cell + j];
      if (p < 1e-9) continue;
      spread -= p * Math.log2(p) / (n - 1);
      for (let f = 0; f < mass.length; f++) if (bits[k] >> f & 1) mass[f] += p / (n - 1);
    }
  }
  const order = FEATURES.map((_, f) => f).sort((a, b) => mass[b] - even[b] - mass[a] + even[a]), top = order[0];
  const found = inductionScores()[l * H + h];
  const name = n < 4 ? "too short a text" : found > 0.2 ? "induction-like"
    : mass[top] - even[top] > 0.12 ? FEATURES[top] : spread > 0.8 * most ? "spread out" : "mixed";
  const share = f => `${FEATURES[f]} ${Math.round(100 * mass[f])} % (evenly: ${Math.round(100 * even[f])} %)`;
  return { name, spread, most, induction: found, previous: mass[0], words: order.slice(0, 3).map(share).join(" · ") };
}
