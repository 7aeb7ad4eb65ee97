/* update.js: from a changed choice to changed pictures. `update` runs the model and marks every section as out of date;
   a section draws itself when it is both out of date and on the screen. Read next: dock.js. */

const sections = {}, visible = new Set(), stale = new Set(); // name of a section → what draws it
let queued = false, lastMs = 0, lastRows = 0, addressing = 0;

/** The model runs on the text, then everything that is seen is drawn: with the next frame, or now. */
function update(now = false) {
  if (now) return flush();
  if (!queued) requestAnimationFrame(flush);
  queued = true;
}

function flush() {
  queued = false;
  const begun = performance.now(), { ids, unknown, total, from } = seen(S.text);
  ask("trace", { ids }, found => {
    trace = found.trace;
    S.ids = ids;
    if (trace.recomputed) [lastMs, lastRows] = [performance.now() - begun, trace.recomputed];
    if (changed()) forward(original, ids, before);
    notice(unknown, total, from);
    redraw();
  });
}

/** Draws the given sections, or all, again without running the model. */
function redraw(...names) {
  if (!T()) return; // a worker has not answered yet
  for (const name of names.length ? names : Object.keys(sections)) stale.add(name);
  drawTape();
  drawVisible();
  clearTimeout(addressing);
  addressing = setTimeout(() => remember(writeAddress()), 600);
}
const drawVisible = () => drawNow([...visible]);
/** Draws those of the named sections that are out of date, seen or not. */
function drawNow(names) {
  for (const name of names) if (stale.delete(name)) sections[name]();
}

/** What the learner should know about the text and the model, above the first figure. */
function notice(unknown, total, from) {
  const notes = [], button = '<button type="button" id="restore">Restore</button>';
  if (unknown.length) {
    const more = unknown.length > 6 ? " …" : "";
    notes.push(`The model has never seen ${unknown.slice(0, 6).map(quoted).join(" ")}${more}: left out.`);
  }
  if (!total) notes.push(`An empty prompt: the model starts from ${quoted(char(0))}.`);
  if (from) {
    notes.push(`It sees the last ${total - from} of ${total} characters: the window of ${CONTEXT} moves on in jumps.`);
  }
  if (changed()) {
    const how = [moment !== "final" && `weights ${moment === "0" ? "before training" : `of step ${moment}`}`,
                 model.muted.size && `${plural(model.muted.size, "head")} muted`,
                 steps.length && `${plural(steps.length, "gradient step")} taken`];
    notes.push(`<b>A changed model:</b> ${how.filter(Boolean).join(", ")}.${button}`);
  }
  const html = notes.join(" ");
  if ($("notice").innerHTML !== html) $("notice").innerHTML = html;
}

/** The trained model again, with nothing muted. */
function restore() {
  model.muted.clear();
  travel("final");
}
