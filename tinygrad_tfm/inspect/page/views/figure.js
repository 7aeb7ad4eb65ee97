/* figure.js: any figure of the page as an SVG file, as it is on the screen: boxes become rectangles, words stay words,
   canvases are painted again with a pen that writes SVG (paint.js). Read next: start.js. */

const clear = c => c === "transparent" || /, 0\)$|\/ 0\)$/.test(c);

/** The pen of paint.js, writing SVG into a list. */
const svgPen = out => ({
  rect(x, y, width, height, fill) {
    if (width > 0 && height > 0) out.push(tag("rect", { x, y, width, height, fill }));
  },
  frame(x, y, width, height, stroke) {
    out.push(tag("rect", { x, y, width, height, fill: "none", stroke, "stroke-width": 1.5 }));
  },
  letter(c, x, y, size, fill) {
    const look = { "font-family": MONO, "font-size": size, "text-anchor": "middle" };
    out.push(tag("text", { x, y, fill, ...look }, escape(c)));
  },
  cells(n, side, shade) { // neighbours of one colour are one rectangle: most of a map is pale
    const cell = side / n, part = x => Math.round(x).toString(16).padStart(2, "0");
    const colours = i => range(n).map(j => "#" + shade(i, j).map(part).join(""));
    for (let i = 0; i < n; i++) {
      const row = colours(i);
      for (let j = 0, end; j < n; j = end) {
        for (end = j + 1; end < n && row[end] === row[j];) end++;
        this.rect(j * cell, i * cell, (end - j) * cell + 0.05, cell + 0.05, row[j]);
      }
    }
  },
});

const KEPT = ["fill", "stroke", "stroke-width", "font-family", "font-size", "font-weight"];
/** A nested drawing with the styles it has here written into it. */
function nested(svg, box) {
  const copy = svg.cloneNode(true), was = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((e, i) => {
    const style = getComputedStyle(was[i]);
    for (const property of KEPT) e.style[property] = style[property];
    for (const name of ["class", "data-n", "id"]) e.removeAttribute(name);
  });
  const inside = new XMLSerializer().serializeToString(copy).replace(/^<svg[^>]*>|<\/svg>$/g, "");
  return tag("svg", { ...box, viewBox: svg.getAttribute("viewBox") }, inside);
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
      out.push(tag("text", { x: box.x, y: base, fill: style.color, "font-family": style.fontFamily, "font-size": size,
                             "font-weight": style.fontWeight, "font-style": style.fontStyle }, escape(word)));
    }
  }
  function walk(element) {
    const style = getComputedStyle(element), r = element.getBoundingClientRect();
    if (style.display === "none" || style.visibility === "hidden" || element.matches(".sr, .save") || !r.width) return;
    const box = element === figure ? { x: 0, y: 0, width: r.width, height: r.height } : place(r);
    const line = style.borderTopColor, edge = parseFloat(style.borderLeftWidth), edged = edge > 0 && !clear(line);
    if (!edge && parseFloat(style.borderTopWidth)) svgPen(out).rect(box.x, box.y, box.width, 1, line); // a rule above
    if (!clear(style.backgroundColor) || edged) {
      const rx = Math.min(parseFloat(style.borderTopLeftRadius) || 0, box.height / 2);
      const fill = clear(style.backgroundColor) ? "none" : style.backgroundColor;
      out.push(tag("rect", { ...box, rx, fill, stroke: edged && line, "stroke-width": edged && edge }));
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
  [width, height] = [Math.ceil(width), Math.ceil(height)];
  const paper = tag("rect", { width, height, fill: ink.paper });
  const whole = { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}` };
  return tag("svg", whole, paper + out.join("\n")) + "\n";
}

/** Every figure gets a button that hands the file over. */
function addSaveButtons() {
  document.querySelectorAll("figure").forEach(figure => {
    const button = document.createElement("button"), name = figure.dataset.name;
    Object.assign(button, { type: "button", className: "quiet save", textContent: "SVG" });
    button.title = "Save this figure as SVG";
    button.setAttribute("aria-label", `Save the figure “${name}” as SVG`);
    button.onclick = () => {
      const url = URL.createObjectURL(new Blob([svgOf(figure)], { type: "image/svg+xml" }));
      Object.assign(document.createElement("a"), { href: url, download: `${name}.svg` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    };
    figure.append(button);
  });
}
