"""The explorer page in a browser: what it shows is what it computes, whoever the reader and whatever the text.

Needs Playwright and a Chromium; else every test here but those of the colours is skipped with a word.
"""

import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from pages import (
    ACCENT,
    AWKWARD,
    NOTHING,
    PHONE,
    SECTIONS,
    SHAPES,
    SMALL,
    TURNED,
    Listener,
    broken,
    chromium,
    photograph,
    show,
    trained_page,
    until,
    untrained_page,
)

from tinygrad_tfm.inspect import explorer

VIEWS = Path(explorer.__file__).parent / "page" / "views"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def trained(browser, tmp_path_factory):
    """The page of a real, small run."""
    return trained_page(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module", params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def shaped(request, browser, tmp_path_factory):
    """A page of each shape, open. Whoever changes its model puts it back."""
    listens = Listener(browser)
    yield listens.open(untrained_page(tmp_path_factory.mktemp("shaped"), SHAPES[request.param]))
    listens.close()
    assert listens.complaints() == []


@pytest.fixture(scope="module")
def small(browser, tmp_path_factory):
    return untrained_page(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture
def listener(browser):
    """Whatever a test opens must neither fetch anything nor say a word on the console."""
    listens = Listener(browser)
    yield listens
    listens.close()
    assert listens.complaints() == []


@pytest.fixture
def page(listener, trained):
    return listener.open(trained)


def write(page, text):
    """Another prompt, drawn."""
    page.fill("#prompt", text)
    page.evaluate("explorer.update(true)")


def set_control(page, name, value):
    page.evaluate("([id, v]) => { const e = document.getElementById(id); e.value = v; "
                  "e.dispatchEvent(new Event('input', {bubbles: true})); }", [name, str(value)])


def logits(page):
    return page.evaluate("({trace, T, META}) => [...trace.logits.subarray(0, T() * META.config.characters.length)]",
                         page.evaluate_handle("explorer"))


# ---- the numbers ----------------------------------------------------------------------------------------------------

def selftest(page):
    """The page's own checks that fail."""
    return page.evaluate("async () => (await explorer.selftest()).filter(row => !row.ok).map(row => row.name)")


def test_the_self_test_holds_for_every_shape(shaped):
    assert selftest(shaped) == []


def test_a_kink_of_relu_is_no_wrong_gradient(listener, tmp_path):
    letters = "\n" + "".join(map(chr, range(32, 96)))              # with these a step of 1e-5 crosses one
    path = untrained_page(tmp_path, SHAPES["post-norm"], letters)
    assert selftest(listener.open(path)) == []
    assert selftest(listener.open(broken(path, tmp_path, "[1e-5, 1e-6]);", "[1e-5]);")))


def test_the_self_test_holds_for_a_trained_model(page):
    show(page, "check")
    page.click("#selftest")
    until(page, "!document.getElementById('selftest').disabled")
    assert page.text_content("#selftest-sum") == "All 9 hold."


WRONG_MODELS = {
    "Logits": [("Math.sqrt(variance + eps)", "Math.sqrt(variance + 10 * eps)"),
               ("y[i] = hat[i] * gain[d]", "y[i] = 1.001 * hat[i] * gain[d]")],
    "Gradient norms": [("addTo(G.resid[l], B.sum1, T * D);", ""), ("- mean - hat[i] * along", "- mean")],
    "Gradients equal finite": [("gPositions, T) {", "gPositions, T) { T = T > 12 ? T : T - 1;")],
    "Another last": [("for (let c = 0, v = j * D + h * K; c < K; c++) A.heads[q + c] += p * A.value[v + c];",
                      "for (let c = 0; c < K; c++) A.heads[q + c] += p * A.value[(to - 1) * D + h * K + c];")],
    "Typed bit by bit": [("while (from < to && ids[from] === trace.ids[from]) from++;",
                          "from = Math.min(trace.ids.length, to - 1);")],
    "Every row": [("const p = (A.pattern[at + j] /= sum);", "const p = (A.pattern[at + j] /= sum * 1.01);")],
    "The lens": [("if (model.pre) layerNorm(one,", "if (false) layerNorm(one,")],
    "Top-k": [("return { p: p.map(x => x / mass), order, kept };", "return { p, order, kept };")],
    "Files and addresses": [('"use strict";\n(() => {', '"use strict";\n(() => { new Image().src = "file:///none.png";')],
}


@pytest.mark.parametrize("name, old, new", [(name, *change) for name, all in WRONG_MODELS.items() for change in all])
def test_the_self_test_notices_a_wrong_model(browser, small, tmp_path, name, old, new):
    listens = Listener(browser)
    found = selftest(listens.open(broken(small, tmp_path, old, new)))
    listens.close()
    assert any(row.startswith(name) for row in found), found


# Every number of every station, touched: [station, which number, its formula]; and what is no number. As one text:
# Playwright takes its time over lists.
READINGS = """() => {
  const e = explorer, readings = [], holes = [];
  for (const t of [0, e.T() - 1]) for (const stop of e.STOPS) for (const way of ["FORWARD", "BACKWARD"]) {
    for (const strip of e[way][stop.kind](stop, t, e.keyOf(stop.l, t))) strip.values.forEach((x, i) => {
      const station = `${way} ${stop.kind}`, name = `${e.plain(strip.label)}[${i}], ${t}`;
      const html = e.colour(strip.read(i));
      if (Number.isNaN(x) || /NaN|undefined|null|no number/.test(html)) holes.push(`${station} ${name} ${html}`);
      if (html.split(" = ").length > 2) readings.push([station, name, html]);
    });
  }
  return JSON.stringify({readings, holes: holes.slice(0, 5), kinds: [...new Set(e.STOPS.map(stop => stop.kind))]});
}"""
PLAIN = {"FORWARD loss", "FORWARD act", "BACKWARD rotate"}          # what they write is a value, or no plain arithmetic


def arithmetic(html):
    """The last sum of a formula, as Python reads it, and the number it is said to be; None if there is none."""
    text = re.sub(r"<sub>.*?</sub>", "", html).replace(" from the logits (tied)", "")
    text = re.sub(r"<[^>]*>", "", re.sub(r"·10<sup>(.*?)</sup>", r"e\1", text)).replace("−", "-")
    sides = re.sub(r"\+ \d+ more \((.*?)\)", r"+ (\1)", text).replace("·", "*").split(" = ")
    numbers = re.fullmatch(r"[-+*/(). \de]+", sides[-2]) if len(sides) > 2 else None
    said = re.fullmatch(r"-?[\d.]+(e-?\d+)?", sides[-1])
    return (sides[-2], float(said[0])) if numbers and said else None


def formulas(page):
    """By station how many formulas were worked out again from the operands they print, and those that are wrong."""
    write(page, "a quick brown")
    show(page, "backward")
    until(page, "explorer.G && explorer.sameGradient()")
    found, seen, wrong = json.loads(page.evaluate(READINGS)), {}, []
    for station, name, html in found["readings"]:
        if parts := arithmetic(html):
            terms, said = parts
            size = eval(re.sub(r"(e-)|-", lambda m: m[1] or "+", terms))           # three digits of each operand are
            seen[station] = seen.get(station, 0) + 1                                # shown: hence the tolerance
            if not abs(eval(terms) - said) <= 0.02 * abs(size) + 1e-12:
                wrong.append(f"{station} {name}: {terms} is not {said}")
    return found, seen, wrong


def test_formulas_give_the_numbers_they_end_with(shaped):
    found, seen, wrong = formulas(shaped)
    assert wrong == [] and found["holes"] == []
    assert {f"{way} {kind}" for way in ("FORWARD", "BACKWARD") for kind in found["kinds"]} - seen.keys() <= PLAIN
    assert sum(seen.values()) > 700


WRONG_FORMULAS = [
    ("${sum(range(m).map(j => [g[j], W[i * m + j]]))}", "${sum(range(m).map(j => [g[j], W[j * m + i]]))}"),
    ("[p[i], A.value[i * D + S.head * K + c], quoted", "[p[i], A.value[t * D + S.head * K + c], quoted"),
    ("gp − mean) = ${num(p[i])}·(${num(gp[i])}", "gp − mean) = ${num(p[i])}·(${num(gs[i])}"),
]


@pytest.mark.parametrize("old, new", WRONG_FORMULAS, ids=["transposed", "another value", "another gradient"])
def test_wrong_operands_are_noticed(browser, small, tmp_path, old, new):
    listens = Listener(browser)
    wrong = formulas(listens.open(broken(small, tmp_path, old, new)))[2]
    listens.close()
    assert wrong


def test_nudging_agrees_at_every_weight(shaped):
    page = shaped
    write(page, "a quick brown fox")                                # beyond the window
    show(page, "backward")
    until(page, "explorer.G && explorer.sameGradient()")
    slopes = page.evaluate("""() => Object.fromEntries(explorer.PARTS.map(name => {
      const e = explorer, i = e.largest(e.G.weights[name]), d = e.nudge(e.model, e.S.ids, e.targets(), name, i, 1e-5);
      return [name, [d.slope, e.G.weights[name][i]]];
    }))""")
    rounding = 1e-10                                               # of a loss of about 3, over two steps of 1e-5
    assert len(slopes) >= 8
    assert not {name: (d, g) for name, (d, g) in slopes.items() if not abs(d - g) <= 1e-6 * abs(g) + rounding}


def test_a_nudge_can_be_asked_for_on_the_page(page):
    show(page, "backward")
    page.evaluate("explorer.walk('backward', explorer.STOPS.findIndex(s => s.kind === 'down'))")
    page.wait_for_selector("[data-nudge]")
    page.locator("[data-nudge]").first.click()
    assert "they agree" in page.text_content(".nudge")


def test_a_key_press_costs_one_row_and_a_moved_window_all(listener, browser, tmp_path):
    shape = dict(context=64, layers=4, heads=4, width=128)
    path = untrained_page(tmp_path, shape, text="".join(map(chr, range(32, 97))))
    page = listener.open(path)
    took = page.evaluate("""() => {
      const e = explorer, {characters} = e.META.config, range = n => Array.from({length: n}, (_, i) => i);
      const run = text => { e.S.text = text; e.update(true); return e.lastRows; };
      const text = n => range(n).map(i => characters[7 * i % 65]).join("");
      run(text(40));
      return {one: range(12).map(i => run(text(41 + i))), full: run(characters[1] + text(63))};
    }""")
    assert took == {"one": [1] * 12, "full": 64}


# ---- the prompt -----------------------------------------------------------------------------------------------------

def test_typing_is_seen_at_once(page):
    write(page, "2 times 2 is ")
    page.click("#prompt")
    page.keyboard.press("Control+End")
    page.keyboard.type("4")
    until(page, "explorer.T() === 14")
    assert page.locator("#tape span").count() == 14
    assert page.evaluate("explorer.lastRows") == 1                  # the rest was kept


@pytest.mark.parametrize("text, notice", [
    ("", "An empty prompt"), ("日本語 2", "never seen ‘日’ ‘本’ ‘語’"), ("é", "never seen"),
    ("2", ""), ("2 times 2 " * 300, "It sees the last"),
], ids=["empty", "another-script", "accent", "one", "long"])
def test_any_prompt_will_do(page, text, notice):
    write(page, text)
    assert page.locator("#bars li").count() > 0
    assert notice in page.text_content("#notice")
    assert page.evaluate("explorer.T()") <= 32


def test_beyond_the_window_most_keys_cost_one_row(page):
    costs = []
    for n in range(33, 57):
        write(page, ("2 times 2 is 4. " * 5)[:n])
        costs.append(page.evaluate("explorer.lastRows"))
    assert sum(rows == 1 for rows in costs) == 21 and max(costs) <= 32, costs      # 24 keys, a jump every 8


def test_sliders_shape_what_is_drawn(page):
    write(page, "3 times 3 is ")
    top = lambda: float(page.locator("#bars .pc").first.text_content().split()[0].lstrip("<"))
    kept = lambda: page.evaluate("explorer.nextDistribution().kept")
    usual = top()
    set_control(page, "temperature", 2)
    hot = top()
    set_control(page, "temperature", 0.3)
    assert hot < usual < top()
    set_control(page, "temperature", 0)
    assert top() == 100 and kept() == 1
    set_control(page, "temperature", 1)
    set_control(page, "top-k", 3)
    assert kept() == 3 and page.locator("#bars li:not(.cut)").count() == 3
    set_control(page, "top-k", 999)
    set_control(page, "top-p", 0.5)
    assert 1 <= kept() < 10
    page.evaluate("explorer.choose(3)")
    assert "The text goes on with" in page.text_content("#cap-bars")


def test_the_same_seed_writes_the_same_text(page):
    def generated():
        write(page, "5 times ")
        set_control(page, "count", 12)
        set_control(page, "seed", 3)
        page.click("#generate")
        until(page, "!explorer.generating")
        return page.input_value("#prompt")
    first = generated()
    assert generated() == first and len(first) == 20
    set_control(page, "seed", 4)
    set_control(page, "count", 2000)
    page.click("#generate")
    until(page, "document.getElementById('prompt').value.length > 24")
    page.click("#generate")                                        # now it says Stop
    length = len(page.input_value("#prompt"))
    page.wait_for_timeout(150)
    assert len(page.input_value("#prompt")) == length
    page.click("#restart")
    assert page.input_value("#prompt") == first


# ---- changes to the model -------------------------------------------------------------------------------------------

def test_a_muted_head_counts_and_comes_back(page):
    show(page, "attend")
    before = logits(page)
    page.check("#mute")
    page.wait_for_selector("#restore")
    assert not np.allclose(logits(page), before)
    page.click("#restore")
    until(page, "!document.getElementById('restore')")
    assert logits(page) == before                                  # the very same numbers


def test_arcs_show_how_much_the_loss_depends_on_each_score(page):
    write(page, "2 times 2")
    show(page, "attend")
    arcs = lambda: page.locator("#arcs path").count()
    plain = arcs()
    page.check("#slopes")
    until(page, f"document.querySelectorAll('#arcs path').length > {plain}")
    falling = page.evaluate("""() => { const e = explorer, T = e.META.config.context, t = e.T() - 1;
      const from = (e.S.head * T + t) * T, g = [...e.G.acts.blocks[e.S.layer].scores.subarray(from, from + t + 1)];
      return g.filter(x => x < -0.02 * Math.max(...g.map(Math.abs))).length; }""")
    assert page.locator("#arcs path[stroke-dasharray]").count() == falling > 0
    page.uncheck("#slopes")
    assert arcs() == plain


def test_a_step_lowers_the_loss_and_is_undone(page):
    show(page, "backward")
    loss, before = page.evaluate("explorer.G.loss"), logits(page)
    page.click("#step")
    until(page, f"explorer.G.loss < {loss}")
    cells = page.locator("#steps td").all_text_contents()
    was, promised, after = (float(cell.replace("−", "-")) for cell in cells[1:4])
    assert after < was and promised < was and was - after < 1.5 * (was - promised)
    page.click("#undo")
    until(page, f"Math.abs(explorer.G.loss - {loss}) < 1e-12")
    assert logits(page) == before


def test_earlier_weights_know_less(page):
    write(page, AWKWARD[100:130])
    show(page, "training")
    loss = """() => { const {trace, META, S} = explorer, V = META.config.characters.length, next = S.ids.slice(1);
      return next.reduce((s, v, i) => s + trace.logZ[i] - trace.logits[i * V + v], 0) / next.length; }"""
    moments, losses = page.evaluate("[...document.querySelectorAll('[data-moment]')].map(b => b.dataset.moment)"), []
    for moment in moments:
        page.click(f"[data-moment='{moment}']")
        page.wait_for_selector(f"[data-moment='{moment}'][aria-pressed=true]")
        losses.append(page.evaluate(loss))
    assert moments[0] == "0" and moments[-1] == "final" and len(moments) >= 3
    assert abs(losses[0] - np.log(page.evaluate("explorer.META.config.characters.length"))) < 0.2
    assert losses == sorted(losses, reverse=True), losses


# ---- hands and ears -------------------------------------------------------------------------------------------------

def test_everything_can_be_done_with_keys(page):
    write(page, "2 times 2 is 4")
    show(page, "forward")
    stop = lambda way: page.evaluate(f"explorer.S.stop.{way}")
    page.focus("#map-forward")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert stop("forward") == 2
    page.focus("#tape")
    page.keyboard.press("Home")
    assert page.evaluate("explorer.at()") == 0
    page.keyboard.press("End")
    show(page, "attend")
    page.focus("#big")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("[explorer.at(), explorer.S.key < explorer.at()]") == [12, True]
    show(page, "forward")
    strip = page.locator("#panel-forward canvas").last
    strip.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel-forward canvas").last.get_attribute("aria-valuenow") == "1"


def test_a_walk_walks_by_itself(listener, trained):
    page = listener.open(trained)
    show(page, "forward")
    page.evaluate("explorer.S.pace = 30; explorer.walk('forward', explorer.STOPS.length - 5)")
    page.click("#panel-forward [data-play]")
    until(page, "explorer.playing === null && explorer.S.stop.forward === explorer.STOPS.length - 1")
    page.evaluate("explorer.S.pace = 1e6")
    page.click("#panel-forward [data-play]")                       # at the end it begins anew
    assert page.evaluate("[explorer.playing, explorer.S.stop.forward]") == ["forward", 0]
    page.click("#panel-forward [data-play]")
    assert page.evaluate("explorer.playing") is None


def test_every_station_says_what_the_library_says(page):
    words, kinds = page.evaluate("explorer.META.stations"), page.evaluate("explorer.STOPS.map(stop => stop.kind)")
    for way, part in ("forward", "code"), ("backward", "back_code"):
        show(page, way)
        for n, kind in enumerate(kinds):
            page.evaluate("([way, n]) => explorer.walk(way, n)", [way, n])
            until(page, f"document.querySelector('#panel-{way} h3').textContent === {json.dumps(words[kind]['title'])}")
            said = page.text_content(f"#panel-{way}")
            assert words[kind][part] in said and f"{words[kind]['file']}, line {words[kind]['line']}" in said


def test_the_page_shows_how_it_computes(page):
    named, stops = {"forward": set(), "backward": set()}, page.evaluate("explorer.STOPS.length")
    for way in named:
        show(page, way)
        for n in range(stops):
            page.evaluate(f"explorer.walk('{way}', {n})")
            station = f"station {n + 1 if way == 'forward' else stops - n} of {stops}"
            until(page, f"document.querySelector('#panel-{way} small').textContent.endsWith('{station}')")
            named[way].add(page.get_attribute(f"#panel-{way} [data-source]", "data-source"))
    assert len(named["forward"]) > 4 and len(named["backward"]) > 4
    for name in sorted(named["forward"] | named["backward"]):
        page.evaluate("name => { const link = document.querySelector('#panel-forward [data-source]'); "
                      "link.dataset.source = name; link.click(); }", name)
        assert re.match(rf"(function|const) {name}\b", page.text_content("#source .found")), name
    listing = page.text_content("#source pre")
    same = listing.strip() == (VIEWS.parent / "model.js").read_text(encoding="utf-8").strip()
    assert same


def test_guessing_is_paid_in_bits(page):
    page.click("#guess-first")
    assert page.is_hidden("#bars") and page.is_visible("#guess-keys")
    game = page.evaluate("({...explorer.game})")
    truth = page.evaluate("explorer.META.config.characters")[game["ids"][game["next"]]]
    set_control(page, "sure", 50)
    page.click(f"#guess-keys [data-v='{game['ids'][game['next']]}']")
    V, after = page.evaluate("explorer.META.config.characters.length"), page.evaluate("({...explorer.game})")
    assert abs(after["mine"] - 1) < 1e-12 and after["rounds"] == 1 and after["its"] > 0
    assert page.text_content("#guess-last").startswith("✓") and truth.strip() in page.text_content("#guess-last")
    set_control(page, "sure", 80)
    wrong = (after["ids"][after["next"]] + 1) % V
    page.click(f"#guess-keys [data-v='{wrong}']")
    assert abs(page.evaluate("explorer.game.mine") - 1 + np.log2(0.2 / (V - 1))) < 1e-12
    page.focus("#guess-text")
    page.keyboard.press("2")                                       # typed instead of chosen
    assert page.evaluate("explorer.game.rounds") == 3
    page.click("#guess-first")
    assert page.is_visible("#bars")


def test_a_link_brings_back_what_was_seen(listener, trained):
    page = listener.open(trained)
    write(page, "7 times 7 is 49. </script>")
    page.evaluate("""() => { const e = explorer;
      Object.assign(e.S, {layer: 1, head: 1, pos: 5, temperature: 0.5, topK: 9, seed: 5, scope: "all", target: "2"});
      Object.assign(e.S.stop, {forward: 7, backward: 2});
      e.model.muted.add(2);
      e.model.version += 1e6;
      e.update(true); }""")
    address, before = page.evaluate("explorer.writeAddress()"), logits(page)
    again = listener.open(trained, address)
    keys = ["text", "layer", "head", "pos", "temperature", "topK", "seed", "scope", "target", "stop"]
    state = lambda page: page.evaluate("keys => keys.map(k => JSON.stringify(explorer.S[k]))", keys)
    assert state(again) == state(page) and logits(again) == before
    assert again.evaluate("writeAddress => explorer.writeAddress()") == address
    other = listener.open(trained)
    other.evaluate("address => { location.hash = address; }", address)              # a link followed on an open page
    until(other, "explorer.S.head === 1")
    assert logits(other) == before


def test_an_address_that_makes_no_sense_does_no_harm(listener, trained):
    page = listener.open(trained, "#text=2%20t&layer=99&head=-4&pos=zzz&topK=1e9&temperature=NaN&target=%E6%97%A5"
                                  "&moment=77&muted=a,999&forward=1000&scope=x&at=nowhere")
    assert page.evaluate("explorer.T()") == 3 and page.evaluate("explorer.model.muted.size") == 0


def test_every_figure_is_saved_as_svg(page):
    for section in SECTIONS:
        show(page, section)
    files = page.evaluate("[...document.querySelectorAll('figure')].map(f => [f.dataset.name, explorer.svgOf(f)])")
    assert len(files) == 10
    for name, text in files:
        root = ET.fromstring(text)
        assert root.tag.endswith("svg") and float(root.get("width")) > 300, name
        assert not re.search(r"NaN|undefined|Infinity|<script|<foreignObject|<image|href", text), name
        assert set(re.findall(r"https?://[^\"']+", text)) == {"http://www.w3.org/2000/svg"}, name
        assert len(list(root.iter())) > 30, name
    words = "".join(ET.fromstring(dict(files)["walk forward"]).itertext())
    assert "layer" in words and "station" in words
    with page.expect_download() as download:
        page.locator("figure .save").nth(3).click()
    assert download.value.suggested_filename.endswith(".svg")


# ---- every reader, every text ---------------------------------------------------------------------------------------

def test_a_text_stays_a_text(page):
    """What would run, end the script or turn the writing around is shown, and does nothing."""
    write(page, AWKWARD[:60])
    for section in SECTIONS:
        show(page, section)
    page.evaluate("for (const name in explorer.sections) explorer.sections[name]()")
    page.click("#guess-first")
    assert page.evaluate("window.struck") is None
    assert page.evaluate("document.querySelectorAll('img, main script').length") == 0
    characters = page.evaluate("explorer.META.config.characters")
    assert {"<", ">", TURNED, NOTHING, ACCENT} <= set(characters)
    shown = page.evaluate("document.querySelector('main').innerText")
    assert TURNED not in shown and NOTHING not in shown and "▯" in shown and "◌" + ACCENT in shown


@pytest.mark.parametrize("old, new", [
    ("const mark = c => `<bdi>${escape(glyph(c))}</bdi>`;", "const mark = c => c === '<' ? '<img src=x>' : escape(c);"),
    ('return "▯";', "return c;")])
def test_a_text_that_is_not_kept_apart_is_noticed(browser, trained, tmp_path, old, new):
    listens = Listener(browser)
    with pytest.raises(AssertionError):
        test_a_text_stays_a_text(listens.open(broken(trained, tmp_path, old, new)))
    listens.close()


def test_what_is_fetched_or_said_is_noticed(browser, small, tmp_path):
    listens = Listener(browser)
    page = listens.open(broken(small, tmp_path, "readColours();\n  S.stop", "console.log('hm'); readColours(); S.stop"))
    page.evaluate("new Image().src = 'https://example.org/x.png'")
    page.wait_for_timeout(100)
    listens.close()
    assert "hm" in listens.complaints() and any("example.org" in line for line in listens.complaints())


@pytest.mark.parametrize("shape", [{}, PHONE], ids=["desk", "phone"])
def test_a_link_leads_to_its_section(listener, trained, shape):
    """On a page nobody has scrolled through, too: figures drawn on the way must not push the section down."""
    for section in "lens", "training":
        page = listener.open(trained, **shape)
        page.evaluate("id => document.querySelector(`nav a[href='#${id}']`).click()", section)
        page.wait_for_timeout(900)
        top, dock, bottom = page.evaluate("""id => [document.querySelector(`#${id} h2`).getBoundingClientRect().top,
            document.getElementById("dock").getBoundingClientRect().bottom, innerHeight]""", section)
        assert dock - 1 <= top < bottom - 30, section


def test_another_moment_keeps_what_is_muted_and_restoring_does_not(page):
    page.evaluate("() => { explorer.model.muted.add(0); explorer.travel('0'); explorer.update(true); }")
    assert page.evaluate("[...explorer.model.muted]") == [0]
    page.click("#restore")
    assert page.evaluate("[...explorer.model.muted]") == []


def test_nothing_is_global_but_what_must_be(page):
    mine = page.evaluate("""() => { const frame = document.body.appendChild(document.createElement('iframe'));
      const known = new Set(Object.getOwnPropertyNames(frame.contentWindow)); frame.remove();
      const names = Object.getOwnPropertyNames(window).filter(name => !known.has(name));
      return names.filter(name => !/^\\d+$|playwright/i.test(name)); }""")
    assert mine == ["explorer"]


def test_no_barrier_is_found_in_light_or_dark(page):
    assert barriers(page) == []
    page.evaluate("explorer.setTheme('dark'); for (const name in explorer.sections) explorer.sections[name]()")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert violations(page) == []


def barriers(page, *rules):
    """What axe-core finds, every section drawn; by these of its rules, or by all."""
    import axe_playwright_python
    write(page, "2 times 2 is")
    for section in SECTIONS:
        show(page, section)
    page.click("#guess-first")
    page.evaluate("document.getElementById('answers').hidden = false")
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    page.evaluate("document.querySelectorAll('.listing span').forEach((e, i) => i < 5 || e.remove())")   # all alike
    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    return violations(page, *rules)


def violations(page, *rules):
    """What axe-core, once it is there, finds in what is drawn."""
    options = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = page.evaluate("options => axe.run(options)", options)["violations"]
    return [f"{v['id']}: {node['target']} {node['failureSummary']}" for v in found for node in v["nodes"][:2]]


@pytest.mark.parametrize("rule, old, new", [
    ("label", '<label class="sr" for="prompt">', '<label class="sr">'),
    ("color-contrast", "--soft: light-dark(#5b626c,", "--soft: light-dark(#9aa0a8,")])
def test_a_barrier_would_be_found(browser, trained, tmp_path, rule, old, new):
    listens = Listener(browser)
    found = barriers(listens.open(broken(trained, tmp_path, old, new)), rule)
    listens.close()
    assert any(line.startswith(rule) for line in found), found


def sideways(listens, path):
    """How far a phone could scroll to the side (innerWidth grows with the page there)."""
    page = listens.open(path, **PHONE)
    for section in SECTIONS:
        show(page, section)
    return page.evaluate("document.documentElement.scrollWidth") - PHONE["viewport"]["width"]


def test_a_phone_does_not_scroll_sideways(browser, listener, trained, tmp_path):
    assert sideways(listener, trained) == 0
    wide = broken(trained, tmp_path, ".scroll { overflow-x: auto;", ".scroll { overflow-x: visible;")
    assert sideways(listener, wide) > 0


def test_a_worker_gives_the_same_numbers(listener, trained):
    alone, beside = listener.open(trained), listener.open(trained, "#worker=1")
    assert alone.evaluate("explorer.beside === null") and beside.evaluate("explorer.beside !== null")
    for page in (alone, beside):
        page.fill("#prompt", "9 times 9 is ")
        until(page, "explorer.T() === 13")
        show(page, "attend")
        page.evaluate("explorer.S.layer = explorer.S.head = 0")
        page.check("#mute")
        page.wait_for_selector("#restore")
        until(page, "!explorer.busy()")
        show(page, "backward")
    page = beside
    assert logits(alone) == logits(beside)
    assert alone.evaluate("explorer.G.loss") == beside.evaluate("explorer.G.loss")
    page.evaluate("for (let i = 0; i < 15; i++) { explorer.S.text += '2'; explorer.update(true); }")  # all at once
    until(page, "!explorer.busy() && explorer.T() === 28")


# ---- the pictures of docs/explorer.md ------------------------------------------------------------------------------

DARK = dict(color_scheme="dark")
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"


@pytest.mark.slow
def test_the_pictures(browser, listener, trained, tmp_path):
    """TINYGRAD_TFM_PICTURES=runs/first makes those of docs/explorer.md anew, from that run; else they go nowhere."""
    run = os.environ.get("TINYGRAD_TFM_PICTURES")
    folder = PICTURES if run else tmp_path
    folder.mkdir(exist_ok=True)
    path = explorer.explore(run, tmp_path / "page.html", say=lambda line: None).path if run else trained
    walk = "#{0} figure:has(#map-{0})".format
    for name, options, selector, section, then in [
            ("top", {}, None, "predict", "scrollTo(0, 0)"),
            ("guess", {}, "#guess", "predict", GUESS),
            ("attend", {}, "#attend", "attend", ""),
            ("forward", {}, walk("forward"), "forward", STATION.format(way="forward", kind="heads")),
            ("lens", {}, "#lens figure", "lens", ""),
            ("backward", {}, walk("backward"), "backward", STATION.format(way="backward", kind="norm2")),
            ("training", {}, "#training figure", "training", ""),
            ("phone", PHONE, None, "attend", ""),
            ("dark", DARK, walk("backward"), "backward", STATION.format(way="backward", kind="qkv"))]:
        page = listener.open(path, **options)
        show(page, section)
        page.evaluate(then or "0")
        page.wait_for_timeout(300)
        photograph(page, selector, folder / f"explorer-{name}.png")
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("explorer-*.png"))}
    assert len(sizes) == 9 and all(5_000 < size < 200_000 for size in sizes.values()), sizes


STATION = """() => {{ const e = explorer, l = e.META.config.layers - 1;
  e.walk("{way}", e.STOPS.findIndex(stop => stop.kind === "{kind}" && stop.l === l)); }}"""
GUESS = """() => { document.getElementById("guess-first").click();
  for (let n = 0; n < 4; n++) { const {ids, next} = explorer.game;
    document.querySelector(`#guess-keys [data-v="${n === 1 ? 0 : ids[next]}"]`).click(); } }"""


# ---- the colours ----------------------------------------------------------------------------------------------------

CONCEPTS = ("query", "key", "value", "resid", "feed", "grad")
# How each kind of eye sees linear RGB, all cones of one kind missing (Machado, Oliveira & Fernandes 2009, table 1).
EYES = {"all cones": np.eye(3),
        "protan": [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
        "deutan": [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
        "tritan": [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]}
TO_XYZ = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]])


def palette(css):
    """theme → name → linear RGB."""
    def rgb(word):
        c = np.array([int(word[i:i + 2], 16) for i in (1, 3, 5)]) / 255
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", css)
    return {theme: {name: rgb(both[i]) for name, *both in pairs} for i, theme in enumerate(("light", "dark"))}


def contrast(a, b):
    """WCAG's, from 1 to 21."""
    light, dark = sorted((a @ TO_XYZ[1] + 0.05, b @ TO_XYZ[1] + 0.05), reverse=True)
    return light / dark


def lab(c):
    """CIELAB of a linear RGB."""
    xyz = TO_XYZ @ np.clip(c, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def weaknesses(css):
    """Colours that cannot be read on what is under them, and ideas that some eye takes for one another."""
    found = []
    for theme, c in palette(css).items():
        found += [f"{theme}: {name} on {ground} {ratio:.2f}" for name in (*CONCEPTS, "ink", "soft", "prob")
                  for ground in ("card", "paper", "wash") if (ratio := contrast(c[name], c[ground])) < 4.5]
        for eye, matrix in EYES.items():
            seen = {name: lab(np.array(matrix) @ c[name]) for name in CONCEPTS}
            found += [f"{theme}, {eye}: {a} and {b} {gap:.1f}" for i, a in enumerate(CONCEPTS) for b in CONCEPTS[:i]
                      if (gap := np.linalg.norm(seen[a] - seen[b])) < 14]            # CIE76
    return found


def test_colours_can_be_read_and_told_apart():
    css = (VIEWS.parent / "style.css").read_text(encoding="utf-8")
    assert all(len(colours) == 13 for colours in palette(css).values())
    assert weaknesses(css) == []
    assert weaknesses(css.replace("#5a430a", "#8a5a00"))           # key and feed-forward, to a protan
    assert weaknesses(css.replace("#5b626c", "#80868e"))           # too pale


# ---- the files ------------------------------------------------------------------------------------------------------

def test_views_are_short_and_say_what_they_are():
    files = sorted(VIEWS.glob("*.js"))
    assert {path.stem for path in files} == set(explorer.VIEWS)
    for path in [*files, VIEWS.parent / "style.css", VIEWS.parent / "page.html"]:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert max(map(len, lines)) <= 120, f"{path.name}: {max(range(len(lines)), key=lambda i: len(lines[i])) + 1}"
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"/* {path.name}: ") and len(text.splitlines()) <= 150, path.name
        after = re.match(r".*?(?:Read next: ([\w., ]+)\.|the last file\.)", text, re.DOTALL)
        assert after and all((VIEWS / name).exists() for name in (after[1] or "").split(", ") if name), path.name


def test_no_address_stands_in_the_page(trained):
    text = Path(trained).read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:|url\(\s*[\"']?https?:|@import", text)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|sendBeacon", text)
    assert "default-src 'none'" in text
    json.loads(re.search(r'<script type="application/json" id="meta">(.*?)</script>', text, re.DOTALL)[1])
