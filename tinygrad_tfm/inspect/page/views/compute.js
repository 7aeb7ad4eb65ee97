/* compute.js: when the model runs. A small one runs at once; a large one in a worker, so that typing never waits.
   Either way the same function answers, out of model.js. Read next: dock.js. */

/** The trace of a text, and with targets the gradients too: all that is ever asked of the model as one types. */
function answer(model, trace, { ids, targets }) {
  Model.forward(model, ids, trace);
  return { trace, gradient: targets && Model.backward(model, trace, targets) };
}

/** What the worker does after reading model.js: keep the model it was given, and answer. */
function inWorker({ makeModel, makeTrace }) {
  let model = null, trace = null;
  onmessage = ({ data }) => {
    if (data.weights) {
      model = makeModel(data.config, data.weights);
      trace = makeTrace(model);
    }
    model.muted = data.muted;
    model.version = data.version;
    postMessage(answer(model, trace, data.request));
  };
}

let beside = null; // the worker, if there is one; `#worker=1` in the address asks for it
if (META.worker || location.hash.includes("worker=1")) {
  const text = `${$("model").textContent}\n${answer}\n(${inWorker})(Model);`;
  beside = new Worker(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  beside.onmessage = ({ data }) => {
    const { done } = sent;
    sent = null;
    done(data);
    sendNext();
  };
}

let sent = null, weightsThere = null;
const waiting = {}; // at most one question of each kind: a newer one replaces it
function sendNext() {
  const kind = Object.keys(waiting)[0];
  if (sent || !kind) return;
  sent = waiting[kind];
  delete waiting[kind];
  const news = model.w === weightsThere ? {} : { config, weights: model.w };
  weightsThere = model.w;
  beside.postMessage({ ...news, muted: model.muted, version: model.version, request: sent.request });
}
const busy = () => sent !== null;

/** Ask for a trace or a gradient; `done` is told when it is there, which is now unless a worker works. */
function ask(kind, request, done) {
  if (!beside) return done(answer(model, trace, request));
  waiting[kind] = { request, done };
  sendNext();
}

// ---- the gradient, computed when somebody looks at it ---------------------------------------------------------------

let G = null, gradientOf = "";
const sameGradient = () => gradientOf === gradientKey();
const gradientKey = () => [model.version, S.scope, S.scope === "one" && S.target, S.ids.join()].join("|");
/** Calls `done` once G is the gradient of the text and target on the screen. */
function withGradient(done) {
  const key = gradientKey();
  if (sameGradient()) return done();
  ask("gradient", { ids: S.ids, targets: targets() }, ({ gradient }) => {
    [G, gradientOf] = [gradient, key];
    if (sameGradient()) done(); // else the text has moved on, and asks again
  });
}
