"""The stations of the walk through a decoder: what each does, said by the code that does it.

Equations are read out of docstrings and lines out of source, so that the page cannot say anything else than the code:
where a rule changes its words and is no longer found here, `stations` raises. Only sentences that teach, and belong to
a place in the model and not to a rule, live in this file. `{q:…}` colours a word: q query, k key, v value, r residual
stream, f feed-forward, g gradient.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..models.decoder import Decoder, DecoderConfig
from ..nn import Attention, Block, Embedding, FeedForward, Linear, Rotary
from ..nn.positions import ALiBi, LearnedPositions, RelativeBias, SinusoidalPositions
from ..ops import elementwise, network, products

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Station:
    """What the page says at one station; a text that there is not is empty. `file` and `line` are where to read on."""

    name: str
    title: str
    why: str
    equation: str
    code: str
    back_equation: str
    back_code: str
    back_why: str
    file: str
    line: int


def said(function: Any, *patterns: str) -> str:
    """What these regular expressions find in a docstring (their group, if they have one), joined by commas.

    Raises ValueError if one finds nothing: then the docstring has changed, and the page must be asked again.
    """
    text = re.sub(r"\n\s*", " ", inspect.getdoc(function) or "")
    found = [re.search(pattern, text) for pattern in patterns]
    lost = [pattern for pattern, match in zip(patterns, found) if match is None]
    if lost:
        raise ValueError(f"stations: the docstring of {function.__qualname__} no longer says {lost[0]!r}")
    return ", ".join(match[match.re.groups and 1] for match in found if match)


def lines(function: Any, *beginnings: str) -> str:
    """The lines of a source that begin so, without their indentation and comments.

    Raises ValueError unless each stands there once.
    """
    source = [line.strip() for line in source_of(function)[0]]
    for beginning in beginnings:
        if sum(line.startswith(beginning) for line in source) != 1:
            raise ValueError(f"stations: {function.__qualname__} has no longer one line that begins {beginning!r}")
    wanted = [line for line in source if line.startswith(beginnings)]
    return "\n".join(re.sub(r"\s{2,}#.*", "", line) for line in wanted)


@cache
def source_of(function: Any) -> tuple[list[str], int]:
    """The lines of a source, and the number of the first in its file: looked up once, since many stations quote it."""
    return inspect.getsourcelines(function)


def stations(config: DecoderConfig) -> dict[str, dict[str, Any]]:
    """The texts of every kind of station that a decoder of this shape has, by kind.

    Raises ValueError where docstring or source of a rule no longer say what is quoted.
    """
    absent = {"norm" if not config.pre_norm else "", "rotate" if config.positions != "rotary" else ""}
    return {kind: asdict(describe(config)) for kind, describe in KINDS.items() if kind not in absent}


def station(of: Any, name: str, title: str, why: str, equation: str, code: str, back_equation: str, back_code: str,
            back_why: str) -> Station:
    """A station at a rule or a method, which knows itself where it stands."""
    file = Path(inspect.getsourcefile(of) or "").relative_to(PACKAGE).as_posix()
    return Station(name, title, why, equation, code, back_equation, back_code, back_why, file,
                   source_of(of)[1])


ADDED: dict[str, tuple[Any, str]] = {
    "learned": (LearnedPositions, "Each place in the text owns a row of a second table, and their sum starts the "
                "{r:residual stream}."),
    "sinusoidal": (SinusoidalPositions, "Each place in the text has a pattern of waves of its own, which is not "
                   "trained; their sum starts the {r:residual stream}."),
    "rotary": (Rotary, "It starts the {r:residual stream}. Where the character stands is said later: {q:queries} and "
               "{k:keys} are turned."),
    "relative": (RelativeBias, "It starts the {r:residual stream}. Where the character stands is said later: each "
                 "distance adds a trained number to the scores."),
    "alibi": (ALiBi, "It starts the {r:residual stream}. Where the character stands is said later: each distance "
              "lowers the scores."),
    "none": (Decoder, "It starts the {r:residual stream}. Where it stands nobody says: a head can only count how many "
             "came before.")}


def embed(config: DecoderConfig) -> Station:
    """Ids become vectors."""
    where = config.positions in ("learned", "sinusoidal")
    return station(
        network.embedding, "embedding", "Look up the character" + " and its place" * where,
        "Each character owns one row of a table. " + ADDED[config.positions][1],
        said(Embedding, r"y = W\[ids\]" + ", times √D" * config.scale_embedding),
        lines(network.embedding, "return weight[ids]") + "\n" + lines(Decoder.forward, "x = self.dropout(self.embed"),
        said(network.embedding, r"A row's gradient is .*? stands"), lines(network.embedding, "hot = ", "return hot @"),
        "Looking up copies one row, so the gradient comes home to that one row. A character that stands in several "
        "places collects from all of them.")


def norm(name: str, title: str, why: str) -> Callable[[DecoderConfig], Station]:
    """One of the norms: the same rule, at another place."""
    def describe(config: DecoderConfig) -> Station:
        rule = network.layer_norm
        bias = r"\·gain \+ bias" if config.bias else "·gain"
        return station(
            rule, name, title, why, said(rule, rf"y = \(x − mean\)/√\(var \+ ε\){bias}"),
            lines(rule, "centred =", "rstd =", "normed =", "y = "), said(rule, r"n = .*?ε\)", r"h = g·gain",
                                                                 r"gx = .*?√\(var \+ ε\)"),
            lines(rule, "h = ", "gx = "),
            "Two directions cannot change y: adding a constant to x, and stretching x. The rule removes both from the "
            "gradient. What is left joins the gradient that came straight down the {r:stream}.")
    return describe


def place_of_norm(step: str) -> Callable[[DecoderConfig], Station]:
    """The norm of a step of the block: before it, or behind its sum."""
    before = norm("norm", f"Normalise before {step}", "Only the direction of the {r:stream} is read, not how long "
                  "it has grown. The {r:stream} itself is left untouched.")
    behind = norm("norm", f"Normalise after {step}", "In a post-norm model the sum itself is normalised: the "
                  "{r:stream} never grows, but no gradient passes without this rule.")
    return lambda config: (before if config.pre_norm else behind)(config)


def qkv(config: DecoderConfig) -> Station:
    """Queries, keys and values."""
    return station(
        Attention.project, "query, key, value", "Three readings of the same vector",
        "The {q:query} says what this place is looking for, the {k:key} what it can be found by, the {v:value} what it "
        "hands over. Every head has its own share of the numbers.",
        said(Attention, r"q = x·W_Q, k = m·W_K, v = m·W_V"), lines(Attention.project, "q, k, v = "),
        said(products.matmul, r"ga = g·bᵀ, gb = aᵀ·g"), lines(products.matmul, "return a @ b"),
        "The vector was used three times, so three gradients add up. {g:gq} comes from this place's own reading; "
        "{g:gk} and {g:gv} come from this place and every later one that read it."
        + " The key's bias learns nothing: it would raise all scores of a query alike, and softmax ignores that."
        * config.bias)


def rotate(config: DecoderConfig) -> Station:
    """Rotary positions."""
    return station(
        Rotary.rotate, "rotate", "Turn by where it stands",
        "Each pair of numbers is a hand of a clock, turned by its position, every pair at its own speed. A {q:query} "
        "and a {k:key} then meet at an angle that depends on their distance alone.",
        "(" + said(Rotary, r"x₂ₙ \+ i·x₂ₙ₊₁") + ")·" + said(Rotary, r"exp\(i·t/base\^\(2n/K\)\)"),
        lines(Rotary.rotate, "angles =", "re, im =", "return "), "", "",
        "A turn keeps lengths, so the gradient is turned back by the same angle and no more.")


def scores(config: DecoderConfig) -> Station:
    """How well keys answer queries."""
    added: dict[str, tuple[str, str]] = {
        "alibi": (said(ALiBi, r"scores −= mₕ·\|i − j\|"),
                  " Each step of distance lowers it: every head forgets, at its own speed."),
        "relative": (said(RelativeBias, r"scores \+= b\[head, bucket\(j − i\)\]"),
                     " How far apart the two stand adds a trained number.")}
    equation, sentence = added.get(config.positions, ("", ""))
    return station(
        network.attention_pattern, "scores", "How well does each key answer the query?",
        "A dot product for every earlier character. Without √K the scores would grow with the width of the head, and "
        "softmax would freeze." + sentence,
        said(network.attention_pattern, r"softmax\((q·kᵀ·scale)") + f", {said(network.attention, 'scale is 1/√K')}"
        + f", {equation}" * bool(equation),
        lines(network.attention_pattern, "scores = (q", *["scores = scores"] * bool(equation)),
        said(network.attention, r"gq = gbias·k·scale, gk = gbiasᵀ·q·scale"),
        lines(network.attention, "gs =", "return gs @ k"),
        "A product hands each factor the other one: the {q:query} is pulled towards the {k:keys} whose score should "
        "rise, the {k:key} towards the {q:queries} that should find it.")


def pattern(config: DecoderConfig) -> Station:
    """Mask and softmax."""
    return station(
        network.softmax, "mask and softmax", "Scores become shares",
        "The future is masked (hatched): its score is −∞, its share is exactly 0. The rest is made positive and sums "
        "to 1.",
        said(network.softmax, r"yᵢ = exp xᵢ / Σⱼ exp xⱼ"),
        lines(network.attention_pattern, "scores = namespace", "e = ", "return e /"),
        said(network.softmax, r"gx = y·\(g − Σ g·y\)"), lines(network.attention, "gbias ="),
        "Shares compete: only being better than the average counts, and what has no share gets no gradient. Hence the "
        "mask needs no rule of its own: its share is 0 there.")


def heads(config: DecoderConfig) -> Station:
    """The weighted mean of the values."""
    return station(
        network.attention, "mix of values", "Take that much of each value",
        "The only moment in the whole model when information moves from one character to another.",
        said(network.attention, r"y = softmax\(q·kᵀ·scale \+ bias\)·v"), lines(network.attention, "return dropped @ v"),
        said(network.attention, r"h = g·vᵀ", r"gv = Pᵀ·g"), lines(network.attention, "h = ", "return gs @ k"),
        "And the only moment when blame moves to another character: as much as was read, backwards along the same "
        "arcs.")


def out(config: DecoderConfig) -> Station:
    """The heads' answer joins the stream."""
    return station(
        Attention.forward, "out and add", "Write the answer into the stream",
        "The heads' answers are joined, turned back to the width of the {r:stream} and added. Nothing is overwritten.",
        said(Block, r"x \+ Attention\(norm x\)" if config.pre_norm else r"norm\(x \+ Attention x\)"),
        lines(Attention.forward, "return self.out") + "\n" + lines(Block.forward, "x = x + step"),
        said(elementwise.add, r"∂y/∂a = 1, ∂y/∂b = 1"), lines(elementwise.add, "return a + b"),
        "A sum hands its gradient to both terms unchanged. That is why depth is possible: the {r:stream} is a motorway "
        "back to the embedding.")


def up(config: DecoderConfig) -> Station:
    """Into the hidden layer."""
    return station(
        Linear, "up", "Ask many small questions",
        "Each hidden unit is a question put to this one position; no other character takes part.",
        said(Linear, r"y = x·W" + r" \+ b" * config.bias), lines(Linear.forward, "y = x @", "return y"),
        said(products.matmul, r"ga = g·bᵀ, gb = aᵀ·g"), lines(products.matmul, "return a @ b"),
        "A matrix is walked backward by its transpose. The weight between input i and unit f is blamed by (how large "
        "was the input) × (how much was the unit to blame).")


ACTIVATION_NAMES = {"gelu": "GELU", "gelu_tanh": "GELU (tanh)", "relu": "ReLU", "silu": "SiLU"}


def act(config: DecoderConfig) -> Station:
    """The bend."""
    rule = getattr(elementwise, config.activation)
    off, bend = {"gelu": ("Clearly negative units are switched off, clearly positive ones pass.", "near 0"),
                 "gelu_tanh": ("Clearly negative units are switched off, clearly positive ones pass.", "near 0"),
                 "silu": ("Clearly negative units are switched off, clearly positive ones pass.", "near 0"),
                 "relu": ("Negative units are switched off, positive ones pass.", "0")}[config.activation]
    code = "".join(source_of(rule)[0]).partition('"""\n')[2]
    value, _, back = inspect.cleandoc(code.replace("    return ", "return ")).rpartition(", lambda g: ")
    return station(
        rule, ACTIVATION_NAMES[config.activation], "Keep the answers that say yes",
        off + " Without this bend, up and down would collapse into one matrix.",
        said(rule, r"y = .*?(?=, Φ|: GELU|, also|\.  |, u)", *[r"u = √\(2/π\)\(x \+ 0.044715 x³\)"]
             * (config.activation == "gelu_tanh")),
        "\n".join(line.strip() for line in value.splitlines()),
        said(rule, r"∂y/∂x = .*?(?=   |$)"), "lambda g: " + back.strip(),
        f"One number, one slope: units that are switched off (slope {bend}) are not to blame and learn nothing from "
        "this example.")


def down(config: DecoderConfig) -> Station:
    """Out of the hidden layer, into the stream."""
    return station(
        FeedForward.forward, "down and add", "Write what they found",
        "Every open unit adds its own direction to the {r:stream}, as strongly as it is open.",
        said(Linear, r"y = x·W" + r" \+ b" * config.bias),
        lines(FeedForward.forward, "return ") + "\n" + lines(Block.forward, "x = x + step"),
        said(products.matmul, r"ga = g·bᵀ, gb = aᵀ·g"), lines(products.matmul, "return a @ b"),
        "Each unit asks: is the direction I write along the {g:gradient} or against it?")


def unembed(config: DecoderConfig) -> Station:
    """The stream is compared with every character."""
    tied = config.tied
    return station(
        Embedding.unembed if tied else Linear, "logits", "Compare with every character",
        "One dot product a character: how well does the {r:stream} point towards it?"
        + " It is compared with the embedding table itself (tied weights)." * tied,
        said(Embedding.unembed, r"Logits x·Wᵀ") if tied else said(Linear, r"y = x·W"),
        lines(Embedding.unembed, "return ") if tied else lines(Linear.forward, "y = x @"),
        said(products.matmul, r"ga = g·bᵀ, gb = aᵀ·g"), lines(products.matmul, "return a @ b"),
        "The {r:stream} is told to turn towards the target's row and away from the rows that got too much.")


def loss(config: DecoderConfig) -> Station:
    """Probabilities, and the price of the target."""
    rule = network.cross_entropy
    return station(
        rule, "softmax and loss", "Probability, and the price of the target",
        "Exponentials make every logit positive, the sum makes them shares. The loss is small when the target has a "
        "large share.",
        said(rule, r"y = mean over targets t of −Σᵥ qᵥ·ln softmax\(logits\)ᵥ"), lines(rule, "V, logp =", "y = (1"),
        said(rule, r"The gradient is \(softmax − q\)/n"), lines(rule, "return namespace(g)"),
        "The most beautiful rule of all: what was said minus what should have been said. Everything to the left is "
        "moved by this one list of numbers.")


KINDS: dict[str, Callable[[DecoderConfig], Station]] = {
    "embed": embed, "norm1": place_of_norm("attention"), "qkv": qkv, "rotate": rotate, "scores": scores,
    "pattern": pattern, "heads": heads, "out": out, "norm2": place_of_norm("the feed-forward"), "up": up, "act": act,
    "down": down, "norm": norm("final norm", "Normalise once more", "The {r:stream} has grown layer by layer; only its "
                               "direction is compared with the characters."),
    "unembed": unembed, "loss": loss}
