/* words.js: characters, numbers and sums as one reads them. Everything that goes into HTML is escaped here.
   Read next: paint.js. */

const escape = s => String(s).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);

/** <name …>inside</name>. Attributes are escaped here, so nothing in them can end a tag; false ones are left out. */
function tag(name, attributes = {}, inside = "") {
  const given = Object.entries(attributes).filter(([, value]) => value !== false && value !== undefined);
  const words = given.map(([key, value]) => ` ${key}="${escape(typeof value === "number" ? fix(value) : value)}"`);
  return `<${name}${words.join("")}>${inside}</${name}>`;
}
/** The names of those that hold, for a class attribute. */
const classes = which => Object.keys(which).filter(name => which[name]).join(" ") || false;
const fix = x => +x.toFixed(2);
const join = (list, each) => list.map(each).join("");

/** A character as one visible sign. What has no shape, or would turn the writing around, becomes a box. */
function glyph(c) {
  if (c === "\n") return "↵";
  if (c === " ") return "␣";
  if (c === "\t") return "⇥";
  if (/^[\p{C}\p{Zl}\p{Zp}\p{Zs}\p{Default_Ignorable_Code_Point}]$/u.test(c)) return "▯";
  return /^\p{M}$/u.test(c) ? "◌" + c : c;
}
const point = c => "U+" + c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
/** Its name, for titles and for those who listen. */
const spoken = c => (c === "\n" ? "new line" : c === " " ? "space" : glyph(c) === c ? c : point(c));
const mark = c => `<bdi>${escape(glyph(c))}</bdi>`;
const quoted = c => `‘${mark(c)}’`;
/** A text in which nothing can hide, line breaks left as they are. */
const shown = text => [...text].map(c => (c === "\n" || c === " " ? c : glyph(c))).join("");

/** A number in `digits` digits, as HTML: −1.23·10⁻⁵. */
function num(x, digits = 3) {
  if (!isFinite(x)) return Number.isNaN(x) ? "no number" : x < 0 ? "−∞" : "∞";
  if (Math.abs(x) < 1e-14) return "0";
  const size = Math.abs(x), power = (_, sign, n) => `·10<sup>${sign === "-" ? "−" : ""}${n}</sup>`;
  const s = size < 1e-3 || size >= 1e5 ? x.toExponential(digits - 1).replace(/e([+-])?(\d+)/, power)
    : String(+x.toPrecision(digits));
  return s.replace(/^-/, "−");
}
const plain = html => html.replace(/<sup>/g, "^").replace(/<[^>]*>/g, "")
  .replace(/&#(\d+);/g, (_, n) => String.fromCharCode(n));
const factor = x => (x < 0 ? `(${num(x)})` : num(x));
const percent = p => (p >= 0.9995 ? "100" : p >= 0.1 ? (100 * p).toFixed(1) : p >= 0.001 ? (100 * p).toFixed(2)
  : p > 0 ? "<0.1" : "0") + " %";
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

const length = v => Math.sqrt(v.reduce((s, x) => s + x * x, 0));
const row = (a, t, n) => a.subarray(t * n, t * n + n);
/** The index of the largest number, or of the largest `of` it. */
function best(a, of = x => x) {
  let b = 0;
  for (let i = 1; i < a.length; i++) if (of(a[i]) > of(a[b])) b = i;
  return b;
}
const largest = g => best(g, Math.abs);
const agree = (a, b) => Math.abs(a - b) / Math.max(1e-6, Math.abs(a) + Math.abs(b));

/** Σ a·b written out: the four largest products with their numbers, the rest as one number. Labels name the terms. */
function sum(pairs) {
  const terms = pairs.map(([a, b, label]) => ({ a, b, label, product: a * b })).filter(t => t.product !== 0)
    .sort((x, y) => Math.abs(y.product) - Math.abs(x.product));
  const shown = terms.slice(0, 4).map(t => `${factor(t.a)}·${factor(t.b)}${t.label ? `<sub>${t.label}</sub>` : ""}`);
  const rest = terms.slice(4), total = rest.reduce((s, t) => s + t.product, 0);
  const more = rest.length ? ` <span class="more">+ ${rest.length} more (${num(total)})</span>` : "";
  return (shown.join(" + ") || "0") + more;
}

/** {q:text} → bold, in the colour of the concept. */
const CONCEPT = { q: "query", k: "key", v: "value", r: "resid", g: "grad", f: "feed" };
const colour = s => s.replace(/\{([qkvrgf]):([^}]*)\}/g, (_, c, text) => `<b class="${CONCEPT[c]}">${text}</b>`);
