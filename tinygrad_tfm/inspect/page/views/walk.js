/* walk.js: sections 3 and 5, the steps of both walks: buttons, keys, the map, or by itself. Read next: lens.js. */

sections.forward = () => { drawMap("forward"); drawPanel("forward"); };

/** Go to station n of a walk. The layer that is looked at elsewhere comes along. */
function walk(way, n) {
  S.stop[way] = clamp(n, 0, STOPS.length - 1);
  const { l } = STOPS[S.stop[way]];
  if (l !== undefined && l !== S.layer) [S.layer, S.key] = [l, -1];
  redraw();
}

let playing = null, clockwork = null;
/** Walk by itself, from where it stands or, at the end, from the beginning; once more stops it. */
function play(way) {
  const was = playing, back = way === "backward", ends = [0, STOPS.length - 1];
  const [first, last] = back ? ends.reverse() : ends;
  rest();
  if (was === way) return redraw(way);
  playing = way;
  if (S.stop[way] === last) S.stop[way] = first;
  clockwork = setInterval(() => {
    if (S.stop[way] === last) return play(way);
    walk(way, S.stop[way] + (back ? -1 : 1));
  }, S.pace);
  redraw(way);
}
function rest() {
  clearInterval(clockwork);
  playing = null;
}

function startWalk(way) {
  const svg = $("map-" + way), panel = $("panel-" + way);
  svg.onclick = event => {
    const stop = event.target.closest(".stop");
    if (!stop) return;
    rest();
    walk(way, +stop.dataset.n);
  };
  svg.onkeydown = event => {
    const move = moveOf(event);
    if (!move) return;
    event.preventDefault();
    rest();
    walk(way, S.stop[way] + move);
  };
  panel.onclick = event => {
    const link = event.target.closest("[data-source]"), button = event.target.closest("button");
    if (link) { event.preventDefault(); return showSource(link.dataset.source); }
    if (!button) return;
    const { go, play: by, head, nudge: name } = button.dataset;
    if (go) { rest(); walk(way, S.stop[way] + +go); }
    if (by) play(by);
    if (head) { [S.head, S.key] = [+head, -1]; redraw(); }
    if (name) withGradient(() => { panel.querySelector(".nudge").innerHTML = nudged(name); });
  };
}
