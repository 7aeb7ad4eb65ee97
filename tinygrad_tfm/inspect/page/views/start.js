/* start.js: the page as it opens, and everything that belongs to no single section. This is the last file. */

const themeNow = () => document.documentElement.dataset.theme || "auto";
const nextTheme = () => ({ auto: "light", light: "dark", dark: "auto" })[themeNow()];
function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-label", `Colour theme: ${theme}`);
  readColours();
  redraw();
}

/** What S says, shown by the things that choose it. */
function showChoices() {
  $("prompt").value = S.text;
  for (const id of ["temperature", "top-k", "top-p", "seed", "count"]) $(id).value = S[keyOfControl(id)];
  $("target").value = S.target;
  document.querySelector(`[name=scope][value=${S.scope}]`).checked = true;
}

function writeFacts() {
  const { step, steps, corpus, seconds } = META.run, count = step ?? steps;
  const time = seconds < 90 ? plural(Math.round(seconds), "second") : plural(Math.round(seconds / 60), "minute");
  const run = count && `${count.toLocaleString("en-GB")} steps on ${corpus}${seconds ? ` in ${time}` : ""}`;
  const facts = [plural(L, "layer"), plural(H, "head"), `width ${D}`, `context ${CONTEXT}`, `${V} characters`, run];
  $("fact-params").textContent = config.params.toLocaleString("en-GB");
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  document.querySelectorAll(".size-D").forEach(e => { e.textContent = D; });
  const letters = [["T", "time: characters it sees", CONTEXT], ["D", "width of the stream", D], ["H", "heads", H],
                   ["L", "layers", L], ["K", "width of a head", K], ["F", "hidden units", F], ["V", "alphabet", V]];
  $("letters").innerHTML = join(letters, ([letter, ...rest]) =>
    tag("tr", {}, tag("th", { scope: "row" }, letter) + join(rest, x => tag("td", {}, x))));
}

/** What the address says: at the start, and whenever somebody follows a link into this page. */
function enter() {
  stop();
  rest();
  const { given, muted, moment: to, section } = readAddress();
  showChoices();
  if (to !== moment || steps.length) travel(to);
  if (muted.length || model.muted.size) {
    model.muted = new Set(muted);
    model.version = ++stamp;
  }
  update(true);
  if (section && $(section)) goTo($(section));
  return given;
}

/** Scrolls to a section. Figures above it that are drawn for the first time push it down: they are drawn before, and
    it is looked for once more when the gradient has come. */
function goTo(section, again = true) {
  const all = [...document.querySelectorAll("main > section")];
  drawNow(all.filter(one => one.offsetTop <= section.offsetTop).map(one => one.id));
  section.scrollIntoView({ behavior: "instant" });
  if (again) setTimeout(() => goTo(section, false), 400);
}

/** The head that a newcomer should see first: the one that looks back by one most. */
function lookAtPrevious() {
  const scores = range(L * H).map(n => headScores(Math.floor(n / H), n % H).previous), n = best(scores);
  [S.layer, S.head] = [Math.floor(n / H), n % H];
}

async function copyLink() {
  const here = [...visible].find(id => Math.abs($(id).getBoundingClientRect().top - 190) < innerHeight / 2);
  const link = location.href.split("#")[0] + writeAddress() + (here ? `&at=${here}` : "");
  remember(link);
  const done = await navigator.clipboard?.writeText(link).then(() => true, () => false);
  $("link").textContent = done ? "copied" : "in the address";
  setTimeout(() => { $("link").textContent = "link"; }, 1500);
}

function watchSections() {
  const eye = new IntersectionObserver(seen => {
    for (const { target, isIntersecting } of seen) visible[isIntersecting ? "add" : "delete"](target.id);
    drawVisible();
  }, { rootMargin: "150px" });
  const all = [...document.querySelectorAll("main > section")], links = [...document.querySelectorAll("nav a")];
  all.forEach(section => eye.observe(section));
  addEventListener("scroll", () => {
    const here = all.filter(section => section.getBoundingClientRect().top < innerHeight * 0.5).pop();
    for (const a of links) {
      if (here && a.hash === "#" + here.id) a.setAttribute("aria-current", "true");
      else a.removeAttribute("aria-current");
    }
  }, { passive: true });
  links.forEach(a => {
    a.onclick = event => {
      event.preventDefault();
      const heading = $(a.hash.slice(1)).querySelector("h2");
      goTo(heading.closest("section"));
      heading.tabIndex = -1;
      heading.focus({ preventScroll: true });
    };
  });
}

function start() {
  readColours();
  S.stop = { forward: Math.min(3, STOPS.length - 1), backward: STOPS.length - 1 };
  [startDock, startPredict, startGuess, startAttend, startLens, startBlame, startStep, startTraining, startSelftest,
   () => startWalk("forward"), () => startWalk("backward"), addSaveButtons, writeFacts].forEach(begin => begin());
  const given = enter();
  if (!given.has("head") && !beside) { lookAtPrevious(); redraw(); }
  watchSections();
  $("theme").onclick = () => setTheme(nextTheme());
  $("link").onclick = copyLink;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); redraw(); });
  let width = innerWidth; // on a phone the height changes all the time, the width when it is turned
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
  addEventListener("hashchange", () => { if (location.hash.includes("=")) enter(); }); // others are places in the page
  addEventListener("beforeprint", () => drawNow([...stale]));
  new ResizeObserver(() => document.documentElement.style.setProperty("--dock", `${$("dock").offsetHeight}px`))
    .observe($("dock")); // headings stop below it
}
start();

/** For the curious, in the browser's console: explorer.S, explorer.trace, explorer.model … */
const live = { model: () => model, trace: () => trace, G: () => G, generating: () => generating, game: () => game,
               playing: () => playing, beside: () => beside, lastMs: () => lastMs, lastRows: () => lastRows };
window.explorer = {
  S, META, STOPS, FORWARD, BACKWARD, PARTS, sections, T, at, keyOf, colour, plain, busy, update, redraw, choose, walk,
  travel, selftest, svgOf, targets, nudge, largest, agree, setTheme, writeAddress, nextDistribution, sameGradient,
};
for (const name in live) Object.defineProperty(window.explorer, name, { get: live[name] });
