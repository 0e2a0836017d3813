"""Statements of an outcome in other words: what a window's markets did, told before it was known.

A message is cut into sentences, each a list of stems: accents and case are gone, numbers are one spelling
(`$100k`, `100,000`; `third`, `3`), endings are cut. A sentence, or two in a row,
leaks a prediction's answer if it holds most of the question's words in any order and says, close together,
that it is settled and how. It leaks a price if it names the company, speaks of what will be, and gives the
final price or the change of the hour to the digit. A guess ("it will probably resolve YES"), a list of
options ("YES or NO") and a wrong answer are no leaks.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from babylon_rl.outcomes.window_outcomes import PredictionOutcome, StockOutcome, WindowOutcomes

COVERED_SHARE = 0.6
"""Share of a question's words that a paraphrase repeats."""
MIN_WORDS = 2
"""Questions with fewer words of their own are looked for verbatim only."""
NEAR = 6
"""Words between "it is settled" and "yes"."""

_HINDSIGHT = (
    "turn out",
    "turns out",
    "turned out",
    "in the end",
    "hindsight",
    "ended up",
    "ends up",
    "spoiler",
)
_STOP = frozenset(
    "a an the of to in on at by for from with and or is are was were be been it its this that these those "
    "will would shall should can could may might do does did has have had before after during than then "
    "as if so any there their his her our your my we you they he she i".split()
)
_NUMBER_WORDS = {
    word: str(number)
    for number, words in enumerate(
        ("zero", "one first", "two second", "three third", "four fourth", "five fifth", "six sixth")
        + ("seven seventh", "eight eighth", "nine ninth", "ten tenth", "eleven", "twelve")
    )
    for word in words.split()
}
_SYNONYMS = {"quarter": "q", "percentage": "%", "percent": "%", "dollars": "$", "usd": "$"}
_MULTIPLES = {"k": 1e3, "m": 1e6, "mn": 1e6, "b": 1e9, "bn": 1e9}
_SUFFIXES = ("ations", "ation", "ings", "ing", "edly", "ed", "ments", "ment", "ions", "ion", "ives", "ive")
_SUFFIXES += ("ely", "ly", "ies", "es", "s", "e", "y")
_CONTRACTION = re.compile(r"\b(\w+)n['\u2019]?t\b")
_WORD = re.compile(r"(\d[\d,]*(?:\.\d+)?)(k|mn|m|bn|b)?(?![a-z])|[a-z]+|\d+|%")
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[;\n]+")
_CUE = re.compile(
    r"resol|settl|outcome|answer|result|verdict|conclu|determin|confirm|truth|fact|final|correct|decid|judg"
    r"|turn(?:s|ed)? out|hindsight|will|end|clos|finish|reach|land|target"
)


@dataclass(frozen=True)
class _Question:
    words: frozenset[str]
    names: frozenset[str]
    """Those of the words that are names: written with a capital, not at the start."""
    answer: str
    """YES or NO."""


@dataclass(frozen=True)
class _Stock:
    names: frozenset[str]
    price: float | None
    start: float | None
    change: float | None


class Paraphrases:
    """What a window knows, ready to be looked for in many messages."""

    def __init__(self, outcomes: WindowOutcomes) -> None:
        self._questions = [q for market in outcomes.predictions if (q := _question(market)) is not None]
        self._stocks = [_stock(stock) for stock in outcomes.stocks]
        # The agents of a window are shown the same sentences, in the same order more often than not.
        self._answers: dict[tuple[str, ...], bool] = {}
        self._prices: dict[str, bool] = {}

    def find(self, text: str) -> Iterator[tuple[str, str]]:
        """Kind (`paraphrase` or `price`) and sentence of each leak in a message."""
        plain = _plain(text)
        if not _CUE.search(plain):
            return
        sentences = [part.strip() for part in _SENTENCE.split(plain) if part.strip()]
        for index, sentence in enumerate(sentences):
            following = sentences[index + 1 : index + 2]
            if self._answered(sentence):
                yield "paraphrase", sentence
            elif following and not self._answered(*following) and self._answered(sentence, *following):
                yield "paraphrase", f"{sentence} {following[0]}"
            if self._priced(sentence):
                yield "price", sentence

    def _answered(self, *sentences: str) -> bool:
        if sentences not in self._answers:
            words = [word for sentence in sentences for word in stems(sentence)]
            self._answers[sentences] = self._tells_answer(" ".join(sentences), words)
        return self._answers[sentences]

    def _priced(self, sentence: str) -> bool:
        if sentence not in self._prices:
            words = stems(sentence)
            self._prices[sentence] = any(_tells_price(stock, words) for stock in self._stocks)
        return self._prices[sentence]

    def _tells_answer(self, sentence: str, words: Sequence[str]) -> bool:
        own = set(words)
        covered = [
            (len(question.words & own) / len(question.words), question) for question in self._questions
        ]
        best = max((share for share, _ in covered), default=0.0)
        for share, question in covered:
            # Questions of one pattern ("Will X open a factory?") differ in little else than the name.
            named = 2 * len(question.names & own) >= len(question.names)
            if share >= COVERED_SHARE and share == best and named:
                rest = [word for word in words if word not in question.words]
                if _stated(sentence, rest) == question.answer:
                    return True
        return False


@lru_cache(maxsize=1 << 15)  # agents of one window are shown the same sentences
def stems(text: str) -> tuple[str, ...]:
    """The words of a text without case, accents, endings and spelling of numbers; order is kept."""
    found = []
    for match in _WORD.finditer(_CONTRACTION.sub(r"\1 not", _plain(text))):
        if match[1]:
            value = float(match[1].replace(",", "")) * _MULTIPLES.get(match[2] or "", 1.0)
            found.append(match[1].replace(",", "") if not match[2] else f"{value:g}")
        else:
            found.append(_stem(match[0]))
    return tuple(found)


def _plain(text: str) -> str:
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in folded if not unicodedata.combining(c))


def _stem(word: str) -> str:
    word = _NUMBER_WORDS.get(word, _SYNONYMS.get(word, word))
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix)
            break
    # "shipped" and "ship", "planned" and "plan"
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls" else word


def _stems_of(words: str) -> frozenset[str]:
    return frozenset(map(_stem, words.split()))


_YES = _stems_of("yes true affirmative positive")
_NO = _stems_of("no not never false negative fails failed didnt wont cannot")
_SETTLED = _stems_of(
    "resolved resolution settled outcome answer result verdict concluded determined confirmed truth fact "
    "final correct decided judged"
)
_GUESS = _stems_of("if would could might maybe perhaps probably likely unlikely think believe expect bet")
_AHEAD = _stems_of("will end close finish settle reach final land target")


def _question(market: PredictionOutcome) -> _Question | None:
    if market.outcome not in ("YES", "NO"):
        return None
    words = frozenset(w for w in stems(market.question) if w not in _STOP and w not in _YES | _NO)
    capitals = re.findall(r"(?<=\W)[A-Z]\w+", market.question.lstrip())
    names = frozenset(stem for name in capitals for stem in stems(name)) & words
    return _Question(words, names, market.outcome) if len(words) >= MIN_WORDS else None


def _stock(stock: StockOutcome) -> _Stock:
    names = frozenset(
        stem for name in (stock.ticker, stock.organization_id, stock.name) if len(stem := _joined(name)) > 2
    )
    return _Stock(names, stock.end_price, stock.start_price, stock.change_percent)


def _joined(name: str) -> str:
    words = stems(name)
    return words[0] if len(words) == 1 else "".join(words)


def _stated(sentence: str, words: Sequence[str]) -> str | None:
    """The answer that a sentence states as settled: YES, NO, or None where it states none."""
    if "yes" in words and "no" in words:
        return None  # a list of options
    if not _GUESS.isdisjoint(words):
        return None
    negated = not _NO.isdisjoint(words)
    if any(cue in sentence for cue in _HINDSIGHT):
        return "NO" if negated else "YES"
    for index in (index for index, word in enumerate(words) if word in _SETTLED):
        near = words[max(0, index - NEAR) : index + NEAR + 1]
        if not _NO.isdisjoint(near):
            return "NO"
        if not _YES.isdisjoint(near):
            return "YES"
    return None


def _tells_price(stock: _Stock, words: Sequence[str]) -> bool:
    if stock.names.isdisjoint(words) or _AHEAD.isdisjoint(words):
        return False
    for index, word in enumerate(words):
        digits = word.replace(".", "").strip("0")
        if not word[0].isdigit() or len(digits) < 3:
            continue
        places = len(word.partition(".")[2])
        percent = index + 1 < len(words) and words[index + 1] == "%"
        if percent and stock.change is not None and abs(stock.change) > 0.5:
            if float(word) == round(abs(stock.change), places):
                return True
        elif not percent and len(digits) > 3 and stock.price is not None and stock.price != stock.start:
            if float(word) == round(stock.price, places):
                return True
    return False
