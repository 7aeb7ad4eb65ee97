/* figure.js: any figure of the page as an SVG file, as it is on the screen: boxes become rectangles, words stay words,
   canvases are painted again with a pen that writes SVG (paint.js). Read next: start.js. */

const clear = c => c === "transparent" || /, 0\)$|\/ 0\)$/.test(c);

/** The pen of paint.js, writing SVG into a list. */
const svgPen = out => ({
  rect(x, y, w, h, fill) {
    if (w > 0 && h > 0) out.push(`<rect x="${fix(x)}" y="${fix(y)}" width="${fix(w)}" height="${fix(h)}" fill="${fill}"/>`);
  },
  frame(x, y, w, h, stroke) {
    out.push(`<rect x="${fix(x)}" y="${fix(y)}" width="${fix(w)}" height="${fix(h)}" fill="none" stroke="${stroke}" ` +
      `stroke-width="1.5"/>`);
  },
  letter(c, x, y, size, fill) {
    out.push(`<text x="${fix(x)}" y="${fix(y)}" font-family="${escape(MONO)}" font-size="${fix(size)}" fill="${fill}" ` +
      `text-anchor="middle">${escape(c)}</text>`);
  },
  cells(n, side, shade) {
    const cell = side / n, part = x => Math.round(x).toString(16).padStart(2, "0");
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
      this.rect(j * cell, i * cell, cell + 0.05, cell + 0.05, "#" + shade(i, j).map(part).join(""));
    }
  },
});

/** A nested drawing with the styles it has here written into it. */
function nested(svg, box) {
  const copy = svg.cloneNode(true), was = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((e, i) => {
    const style = getComputedStyle(was[i]);
    for (const p of ["fill", "stroke", "stroke-width", "font-family", "font-size", "font-weight"]) e.style[p] = style[p];
    for (const name of ["class", "data-n", "id"]) e.removeAttribute(name);
  });
  const [, , w, h] = (svg.getAttribute("viewBox") || `0 0 ${box.width} ${box.height}`).split(" ");
  return `<svg x="${fix(box.x)}" y="${fix(box.y)}" width="${fix(box.width)}" height="${fix(box.height)}" ` +
    `viewBox="0 0 ${w} ${h}">${new XMLSerializer().serializeToString(copy).replace(/^<svg[^>]*>|<\/svg>$/g, "")}</svg>`;
}

/** The figure as the text of an SVG file. */
function svgOf(figure) {
  const ground = figure.getBoundingClientRect(), out = [];
  let width = ground.width, height = ground.height;
  const place = r => {
    const box = { x: r.left - ground.left, y: r.top - ground.top, width: r.width, height: r.height };
    [width, height] = [Math.max(width, box.x + box.width + 18), Math.max(height, box.y + box.height)];
    return box;
  };
  function words(node, style) {
    const range = document.createRange();
    for (const { 0: word, index } of node.data.matchAll(/\S+/g)) {
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      const r = range.getBoundingClientRect();
      if (!r.width) continue;
      const box = place(r), size = parseFloat(style.fontSize), base = box.y + box.height / 2 + size * 0.36;
      out.push(`<text x="${fix(box.x)}" y="${fix(base)}" font-family="${escape(style.fontFamily)}" font-size="${fix(size)}" ` +
        `font-weight="${style.fontWeight}" font-style="${style.fontStyle}" fill="${style.color}">${escape(word)}</text>`);
    }
  }
  function walk(element) {
    const style = getComputedStyle(element), r = element.getBoundingClientRect();
    if (style.display === "none" || style.visibility === "hidden" || element.matches(".sr, .save") || !r.width) return;
    const box = element === figure ? { x: 0, y: 0, width: r.width, height: r.height } : place(r);
    const edge = parseFloat(style.borderTopWidth), edged = edge > 0 && !clear(style.borderTopColor);
    if (!clear(style.backgroundColor) || edged) {
      const round = Math.min(parseFloat(style.borderTopLeftRadius) || 0, box.height / 2);
      out.push(`<rect x="${fix(box.x)}" y="${fix(box.y)}" width="${fix(box.width)}" height="${fix(box.height)}" ` +
        `rx="${fix(round)}" fill="${clear(style.backgroundColor) ? "none" : style.backgroundColor}" ` +
        (edged ? `stroke="${style.borderTopColor}" stroke-width="${edge}"/>` : "/>"));
    }
    if (element instanceof SVGSVGElement) return out.push(nested(element, box));
    if (element.painter) {
      out.push(`<g transform="translate(${fix(box.x)} ${fix(box.y)})">`);
      element.painter(svgPen(out), box.width, box.height);
      return out.push("</g>");
    }
    for (const node of element.childNodes) {
      if (node.nodeType === Node.TEXT_NODE) words(node, style);
      else if (node.nodeType === Node.ELEMENT_NODE) walk(node);
    }
  }
  walk(figure);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${Math.ceil(width)}" height="${Math.ceil(height)}" ` +
    `viewBox="0 0 ${Math.ceil(width)} ${Math.ceil(height)}"><rect width="100%" height="100%" fill="${ink.paper}"/>` +
    `${out.join("\n")}</svg>\n`;
}

/** Every figure gets a button that hands the file over. */
function addSaveButtons() {
  document.querySelectorAll("figure").forEach(figure => {
    const button = document.createElement("button"), name = figure.dataset.name;
    Object.assign(button, { type: "button", className: "quiet save", textContent: "SVG", title: "Save this figure as SVG" });
    button.setAttribute("aria-label", `Save the figure “${name}” as SVG`);
    button.onclick = () => {
      const url = URL.createObjectURL(new Blob([svgOf(figure)], { type: "image/svg+xml" }));
      Object.assign(document.createElement("a"), { href: url, download: `${name}.svg` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    };
    figure.append(button);
  });
}
