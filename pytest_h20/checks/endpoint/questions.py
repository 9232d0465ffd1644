"""Graded questions: the data set, the exact rules, and what a graded set comes to. Pure but for reading a file.

A line of a data set is a JSON object. Ours has ``id``, ``question``, ``expected``, ``rule`` and ``language`` (and ``reasoning``
and ``answer``, the reference the lab's tiny model is taught). A user's GSM8K-style file has ``question`` and ``answer`` whose
last line is ``#### 42``; the number after ``####`` is what counts.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pytest_h20.core.errors import UsageError
from pytest_h20.endpoint.python_value import NotAValue, value_of
from pytest_h20.endpoint.stats import mcnemar, wilson

SHIPPED = Path(__file__).resolve().parent / "data" / "answers.jsonl"
RULES = ("exact_number", "one_of", "regex", "json_equal", "python_value")

DEFAULT_LOWER_BOUND = 0.78
"""Smallest lower 95 % Wilson bound that passes, for the shipped set.

Derived: 57 of the 64 questions right give a lower bound of 0.791, 56 give 0.772, so 0.78 asks for 57. A whole R1 that gets
each with 0.97 misses more than 7 in fewer than 1 of 1000 runs; a model damaged to 0.75 per question gets 57 or more in fewer
than 1 of 100; one that serves garbage (a missing shard, F46) gets none.
"""

_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+−]?\.\d+")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_FENCE = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\n?(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """One graded question. ``where``: file and line, for messages."""

    id: str
    question: str
    expected: Any
    rule: str
    language: str = ""
    reasoning: str = ""
    answer: str = ""
    where: str = ""


@dataclass(frozen=True)
class Grade:
    """One graded answer. ``finish`` is the server's reason, or ``error`` with the error in ``why``."""

    id: str
    right: bool
    why: str
    answer: str = ""
    finish: str = ""


@dataclass(frozen=True)
class Score:
    """A graded set: n, how many right, and the 95 % Wilson interval of the share."""

    grades: tuple[Grade, ...]

    @property
    def n(self) -> int:
        """Questions asked."""
        return len(self.grades)

    @property
    def right(self) -> int:
        """Questions answered rightly."""
        return sum(grade.right for grade in self.grades)

    @property
    def share(self) -> float:
        """right / n."""
        return self.right / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the share. Raises ValueError for an empty set."""
        return wilson(self.right, self.n)

    @property
    def cut(self) -> int:
        """Answers that ended at the token limit: they count as wrong, but say "think longer", not "is wrong"."""
        return sum(grade.finish == "length" for grade in self.grades)


@dataclass(frozen=True)
class PairedAnswers:
    """Two engines on the same questions (McNemar): only where they differ is there anything to learn."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float


def shipped() -> tuple[Question, ...]:
    """The set that comes with the package: 64 questions, every expected value different."""
    return load_dataset(SHIPPED)


def load_dataset(path: str | Path) -> tuple[Question, ...]:
    """Read a JSONL file of questions, ours or GSM8K's form.

    Raises:
        UsageError: file not readable, no JSON, a field missing or of the wrong type, an unknown rule, an id twice, empty.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"data set {path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"data set {path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    questions: list[Question] = []
    seen: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        question = _question(line, f"{path}:{number}", len(questions) + 1)
        if question.id in seen:
            raise UsageError(f"{question.where}: id {question.id!r} was used at {seen[question.id]}; ids must differ")
        seen[question.id] = question.where
        questions.append(question)
    if not questions:
        raise UsageError(f"data set {path}: holds no question; one JSON object with 'question' and 'answer' per line is wanted")
    return tuple(questions)


def _question(line: str, where: str, number: int) -> Question:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({error}); every line is one JSON object") from None
    if not isinstance(item, dict):
        raise UsageError(f"{where}: is a {type(item).__name__}, not an object with 'question' and 'answer'")
    text = item.get("question")
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{where}: 'question' is {text!r:.40}; a text is wanted")
    for name in ("id", "language", "reasoning", "answer"):
        if name in item and not isinstance(item[name], (str, int, float)):
            raise UsageError(f"{where}: '{name}' is {item[name]!r:.40}; a text is wanted")
    if "rule" not in item and "expected" not in item:
        rule, expected = "exact_number", _gsm8k(item, where)
    elif "expected" not in item:
        raise UsageError(f"{where}: 'expected' is missing; rule {item['rule']} compares with it")
    else:
        rule, expected = item.get("rule", "exact_number"), item["expected"]
    if rule not in RULES:
        raise UsageError(f"{where}: rule {rule!r} is unknown; rules are {', '.join(RULES)}")
    _usable(rule, expected, where)
    return Question(
        id=str(item.get("id", f"q{number}")),
        question=text,
        expected=expected,
        rule=rule,
        language=str(item.get("language", "")),
        reasoning=str(item.get("reasoning", "")),
        answer=str(item.get("answer", "")),
        where=where,
    )


def _gsm8k(item: Mapping[str, Any], where: str) -> str:
    if "answer" not in item:
        raise UsageError(f"{where}: 'answer' is missing; GSM8K's form ends it with '#### 42', ours has 'expected' and 'rule'")
    answer = str(item["answer"])
    tail = answer.rpartition("####")[2] if "####" in answer else answer
    value = _last_number(tail)
    if value is None:
        raise UsageError(f"{where}: no number after '####' in 'answer' ({answer[-40:]!r}); give 'expected' and 'rule' instead")
    return str(value)


def _usable(rule: str, expected: Any, where: str) -> None:
    """Complain about an expected value that no answer could ever meet."""
    if rule == "exact_number" and _decimal(str(expected)) is None:
        raise UsageError(f"{where}: 'expected' is {expected!r:.40}; rule exact_number wants a number")
    if rule == "one_of" and not (isinstance(expected, list) and expected and all(isinstance(e, str) for e in expected)):
        raise UsageError(f"{where}: 'expected' is {expected!r:.40}; rule one_of wants a list of texts")
    if rule == "regex":
        try:
            re.compile(expected)
        except (re.error, TypeError) as error:
            raise UsageError(f"{where}: 'expected' is {expected!r:.40}: no regular expression: {error}") from None


# ---------------------------------------------------------------- rules


def grade(question: Question, answer: str | None, finish: str = "stop") -> Grade:
    """Hold one answer (the content, without reasoning) against its rule. Exact: no similarity, no judge model."""
    text = answer or ""
    if not text.strip():
        return Grade(question.id, False, "no answer" + (" (cut at the token limit)" if finish == "length" else ""), text, finish)
    right, why = _RULES[question.rule](question.expected, text.strip())
    return Grade(question.id, right, why, text, finish)


def _exact_number(expected: Any, text: str) -> tuple[bool, str]:
    """The last ``\\boxed{}``, else the number after the last ``####``, else the last number of the text."""
    text = _plain(text)
    boxed = _BOXED.findall(text)
    where = boxed[-1] if boxed else text.rpartition("####")[2]
    said = _last_number(where)
    return said is not None and said == _decimal(str(expected)), f"said {said}, expected {expected}"


def _one_of(expected: Any, text: str) -> tuple[bool, str]:
    """The whole answer is one of the texts, case and closing punctuation aside."""
    text = _plain(text)
    boxed = _BOXED.findall(text)
    said = _bare(_BOXED.sub(r"\1", boxed[-1]) if boxed else text)
    said = re.sub(r"^\\text\s*\{(.*)\}$", r"\1", said)
    return said in {_bare(item) for item in expected}, f"said {said[:60]!r}, expected one of {expected}"


def _regex(expected: Any, text: str) -> tuple[bool, str]:
    """The whole answer matches."""
    said = _strip(text)
    return re.fullmatch(expected, said) is not None, f"said {said[:60]!r}, expected /{expected}/"


def _json_equal(expected: Any, text: str) -> tuple[bool, str]:
    """The answer (or its fenced block) is JSON of the same value and types."""
    for part in (*_FENCE.findall(text), text):
        try:
            said = json.loads(part)
        except (ValueError, RecursionError):
            continue
        return _same_json(said, expected), f"said {json.dumps(said, ensure_ascii=False)[:80]}, expected {json.dumps(expected)}"
    return False, f"no JSON in {text[:60]!r}"


def _python_value(expected: Any, text: str) -> tuple[bool, str]:
    """The answer (or its fenced block) is an expression of that value; it is computed, never executed."""
    why = "no expression"
    for part in (*_FENCE.findall(text), text):
        try:
            said = value_of(_strip(part))
        except NotAValue as error:
            why = str(error)
            continue
        said = list(said) if isinstance(said, tuple) else said
        return _same_json(said, expected), f"gives {said!r:.80}, expected {expected!r}"
    return False, f"{why}: {text[:60]!r}"


_RULES: Mapping[str, Callable[[Any, str], tuple[bool, str]]] = {
    "exact_number": _exact_number,
    "one_of": _one_of,
    "regex": _regex,
    "json_equal": _json_equal,
    "python_value": _python_value,
}


def _plain(text: str) -> str:
    """Full-width forms and markup away, the words untouched."""
    return unicodedata.normalize("NFKC", text).replace("**", "").strip()


def _strip(text: str) -> str:
    """Markup around the whole answer away; nothing inside is touched (``x ** 2`` is no bold)."""
    return text.strip().strip("`$*").strip()


def _bare(text: str) -> str:
    return _strip(text).strip(" .。!！,，:：\"'“”").casefold()


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text.replace(",", "").replace("−", "-"))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text))
    return _decimal(found[-1]) if found else None


def _same_json(said: Any, expected: Any) -> bool:
    """Equal in value and kind: true is not 1, "8" is not 8, but 8.0 is 8."""
    if isinstance(said, bool) or isinstance(expected, bool):
        return said is expected
    if isinstance(said, (int, float)) and isinstance(expected, (int, float)):
        return math.isclose(said, expected, rel_tol=1e-12)
    if isinstance(said, list) and isinstance(expected, list):
        return len(said) == len(expected) and all(map(_same_json, said, expected))
    if isinstance(said, dict) and isinstance(expected, dict):
        return said.keys() == expected.keys() and all(_same_json(said[key], expected[key]) for key in said)
    return type(said) is type(expected) and bool(said == expected)


# ---------------------------------------------------------------- sets


def mixed(questions: Sequence[Question], grades: Sequence[Grade]) -> list[str]:
    """Answers that are wrong for their own question and exactly right for another one: a mix-up, not a mistake.

    Single digits and the like can be right for another question by chance, so only answers that equal the other's reference
    text count.
    """
    by_reference = {_plain(q.answer): q.id for q in questions if len(_plain(q.answer)) > 1}
    found = []
    for question, given in zip(questions, grades, strict=True):
        other = by_reference.get(_plain(given.answer))
        if not given.right and other is not None and other != question.id:
            found.append(f"{question.id} got the answer of {other}: {given.answer.strip()[:40]!r}")
    return found


def compare(first: Score, second: Score) -> PairedAnswers:
    """Two engines on the same questions. Raises UsageError when the questions are not the same."""
    a = {grade.id: grade.right for grade in first.grades}
    b = {grade.id: grade.right for grade in second.grades}
    if a.keys() != b.keys():
        only = sorted(a.keys() ^ b.keys())
        raise UsageError(f"two engines can be compared only on the same questions; {only[:3]} are in one set only")
    only_first = sum(a[key] and not b[key] for key in a)
    only_second = sum(b[key] and not a[key] for key in a)
    both = sum(a[key] and b[key] for key in a)
    return PairedAnswers(both, only_first, only_second, len(a) - both - only_first - only_second, mcnemar(only_first, only_second))
