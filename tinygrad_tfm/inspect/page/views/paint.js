/* paint.js: the few ways this page puts marks on paper. A painter draws with a pen; one pen draws on a canvas, another
   writes SVG, so that whatever is on the screen can be saved as it is (figure.js). Read next: dock.js. */

let ink = {};
const INKS = ["paper", "card", "ink", "soft", "line", "wash", "query", "key", "value", "resid", "feed", "grad", "prob"];
/** The colours of style.css as they are now, light or dark: name → "#rrggbb". */
function readColours() {
  const probe = document.body.appendChild(document.createElement("i"));
  for (const name of INKS) {
    probe.style.color = `var(--${name})`;
    const parts = getComputedStyle(probe).color.match(/\d+/g).slice(0, 3);
    ink[name] = "#" + parts.map(x => (+x).toString(16).padStart(2, "0")).join("");
  }
  probe.remove();
}
const hex = (name, alpha) => ink[name] + Math.round(255 * clamp(alpha, 0, 1)).toString(16).padStart(2, "0");
const rgb = name => [1, 3, 5].map(i => parseInt(ink[name].slice(i, i + 2), 16));
const MONO = 'ui-monospace, Menlo, "DejaVu Sans Mono", monospace';

/** rect, frame, letter and cells, on a canvas. */
function canvasPen(canvas) {
  const scale = window.devicePixelRatio || 1, ctx = canvas.getContext("2d");
  canvas.width = Math.round(canvas.clientWidth * scale);
  canvas.height = Math.round(canvas.clientHeight * scale);
  ctx.scale(scale, scale);
  return {
    rect(x, y, w, h, fill) { ctx.fillStyle = fill; ctx.fillRect(x, y, w, h); },
    frame(x, y, w, h, stroke) { ctx.strokeStyle = stroke; ctx.lineWidth = 1.5; ctx.strokeRect(x, y, w, h); },
    letter(c, x, y, size, fill) {
      Object.assign(ctx, { font: `${size}px ${MONO}`, textAlign: "center", fillStyle: fill });
      ctx.fillText(c, x, y);
    },
    cells(n, side, shade) { // one pixel a cell, then enlarged: thousands of rectangles would be slow
      const image = new ImageData(n, n), small = document.createElement("canvas");
      for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) image.data.set([...shade(i, j), 255], 4 * (i * n + j));
      small.width = small.height = n;
      small.getContext("2d").putImageData(image, 0, 0);
      ctx.imageSmoothingEnabled = false;
      ctx.drawImage(small, 0, 0, side, side);
    },
  };
}

/** Let a painter draw on a canvas, and remember it there for whoever wants the same as SVG. */
function paint(canvas, painter) {
  canvas.painter = painter;
  painter(canvasPen(canvas), canvas.clientWidth, canvas.clientHeight);
}

// ---- a list of numbers ----------------------------------------------------------------------------------------------

/** Small columns: up is positive, down is negative, so the sign never rests on colour. `s` is a strip (operands.js). */
const strip = (s, chosen) => (pen, w, h) => {
  const n = s.values.length, step = w / n, foot = s.labels ? 20 : 0;
  const max = s.max || s.values.reduce((m, v) => (isFinite(v) ? Math.max(m, Math.abs(v)) : m), 1e-30);
  const base = s.unsigned ? h - foot - 1 : (h - foot) / 2, room = s.unsigned ? base - 3 : base - 2;
  const gap = step > 3 ? 1 : 0;
  for (let i = 0; i < n; i++) {
    const x = i * step, bar = room * s.values[i] / max, here = i === chosen;
    const faint = s.focus && (i < s.focus[0] || i >= s.focus[1]);
    if (here) pen.rect(x, 0, Math.max(step, 2), h, hex("ink", 0.13));
    if (s.masked !== undefined && i > s.masked) {
      for (let y = 2; y < base; y += 5) pen.rect(x, y, step - 0.5, 1.5, hex("soft", 0.16));
    } else if (isFinite(bar)) {
      const y = bar >= 0 ? base - bar : base, fill = hex(s.color, faint ? 0.28 : 1);
      pen.rect(x + gap / 2, y, Math.max(step - gap, 0.6), Math.max(Math.abs(bar), 0.7), fill);
    }
    if (s.labels && (step > 6.4 || here)) {
      const size = step > 6.4 ? clamp(step * 1.05, 8, 13) : 14;
      pen.letter(glyph(s.labels[i]), x + step / 2, h - 5, size, i === s.self || here ? ink.ink : ink.soft);
    }
  }
  if (s.labels) pen.rect(0, base, w, 1, ink.line);
  if (s.groups) for (let i = s.groups; i < n; i += s.groups) pen.rect(i * step - 0.5, 0, 1, h - foot, ink.line);
};

// ---- a causal matrix ------------------------------------------------------------------------------------------------

/** Weights in [0, 1], readers downwards; the root makes small ones visible. `cross`: a reader, and what it reads. */
const heat = (get, n, cross) => (pen, side) => {
  const card = rgb("card"), wash = rgb("wash"), full = rgb("query"), cell = side / n;
  pen.cells(n, side, (i, j) => {
    const a = j > i ? 0 : Math.sqrt(get(i, j)), ground = j > i ? wash : card;
    return ground.map((c, k) => a * full[k] + (1 - a) * c);
  });
  if (!cross) return;
  pen.frame(0.75, cross[0] * cell, side - 1.5, cell, ink.query);
  pen.frame(cross[1] * cell, 0.75, cell, side - 1.5, ink.key);
};

// ---- tints of table cells -------------------------------------------------------------------------------------------

const linear8 = v => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const luminance = c => c.reduce((s, v, i) => s + [0.2126, 0.7152, 0.0722][i] * linear8(v / 255), 0);
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
/** A tint of a concept over the card, and whichever of ink and card reads better on it. A middle tint suits neither:
    then it is made lighter until one does. */
function tinted(name, alpha) {
  const back = rgb("card"), front = rgb(name);
  for (let a = clamp(alpha || 0, 0, 1); ; a = Math.max(0, a - 0.02)) { // what is no number has no tint
    const mix = luminance(front.map((v, i) => a * v + (1 - a) * back[i]));
    const text = ["card", "ink"].map(c => ({ on: contrast(luminance(rgb(c)), mix), c })).sort((x, y) => y.on - x.on)[0];
    if (text.on >= 4.6 || a === 0) return `background:${hex(name, a)};color:${ink[text.c]}`;
  }
}

// ---- hands ----------------------------------------------------------------------------------------------------------

/** Scrolls a figure sideways, never the page, until x (in the figure's own pixels) is in view. */
function reveal(wrap, x) {
  const out = x < wrap.scrollLeft + 60 || x > wrap.scrollLeft + wrap.clientWidth - 40;
  if (out) wrap.scrollLeft = x - wrap.clientWidth * 0.6;
}
/** Which of n equal columns of an element a pointer is over. */
function columnOf(event, element, n) {
  const box = element.getBoundingClientRect();
  return clamp(Math.floor((event.clientX - box.left) / box.width * n), 0, n - 1);
}
/** How far an arrow key, Home or End moves. */
const moveOf = event => ({ ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 })[event.key];
