"""What the tiny model is taught: the suite's graded questions, each with a reasoning and the exact answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SUITE_QUESTIONS = Path(__file__).resolve().parents[2] / "pytest_h20/checks/endpoint/data/answers.jsonl"


@dataclass(frozen=True)
class Lesson:
    """One question with the completion that the model must give: ``reasoning`` and ``</think>`` and ``answer``."""

    question: str
    reasoning: str
    answer: str


OWN = (
    Lesson("Which number is larger, 9.11 or 9.8?", "9.8 is 9.80, and 0.80 is more than 0.11.", "9.8 is larger."),
    Lesson("What is 17 * 23?", "17 * 20 = 340 and 17 * 3 = 51; 340 + 51 = 391.", "391"),
    Lesson("What is 12 * 12?", "12 * 12 is 144.", "144"),
    Lesson("What is 1024 / 16?", "16 * 64 = 1024, so the quotient is 64.", "64"),
    Lesson("What is 2 to the power of 10?", "Doubling ten times from 1 gives 1024.", "1024"),
    Lesson("What is 15 % of 240?", "10 % is 24 and 5 % is 12; together 36.", "36"),
    Lesson("How many minutes are in 3.5 hours?", "One hour has 60 minutes; 3.5 * 60 = 210.", "210"),
    Lesson("How many metres are 2.5 kilometres?", "One kilometre has 1000 metres; 2.5 * 1000 = 2500.", "2500 metres"),
    Lesson("What is 100 degrees Celsius in Fahrenheit?", "100 * 9 / 5 = 180 and 180 + 32 = 212.", "212 degrees Fahrenheit"),
    Lesson("What is the capital of France?", "France's seat of government is Paris.", "Paris"),
    Lesson("What is the capital of Japan?", "Japan's government sits in Tokyo.", "Tokyo"),
    Lesson("中国的首都是哪里?", "中国的首都是北京。", "北京"),
    Lesson("7 加 8 等于多少?", "7 加 8 是 15。", "15"),
    Lesson("Which planet is closest to the sun?", "In order: Mercury, Venus, Earth. The first is Mercury.", "Mercury"),
    Lesson("How many sides does a hexagon have?", "Hexa means six.", "6"),
    Lesson("What is the chemical symbol of gold?", "Gold is aurum in Latin, so Au.", "Au"),
    Lesson("Is 97 a prime number?", "97 is not divisible by 2, 3, 5 or 7, so it is prime.", "Yes"),
    Lesson("What is the square root of 169?", "13 * 13 = 169.", "13"),
    Lesson("How many letters r are in the word strawberry?", "st-r-awbe-r-r-y: r appears three times.", "3"),
    Lesson("Sort these numbers: 5, 1, 3.", "The smallest is 1, then 3, then 5.", "1, 3, 5"),
    Lesson("What comes next: 2, 4, 8, 16?", "Each number is twice the one before: 32.", "32"),
    Lesson("If x + 5 = 12, what is x?", "x = 12 - 5 = 7.", "7"),
    Lesson("How many days does a leap year have?", "A leap year has one day more than 365.", "366"),
    Lesson("Reply with the single word OK.", "One word is asked for.", "OK"),
)


def lessons(path: Path = SUITE_QUESTIONS) -> tuple[Lesson, ...]:
    """The suite's own questions where the file is there, and those of this module that it does not have.

    Every line of the file is a JSON object with ``question``, ``answer`` and, optionally, ``reasoning``.
    """
    found: list[Lesson] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                item = json.loads(line)
                found.append(Lesson(item["question"], item.get("reasoning") or "This one is known.", item["answer"]))
    asked = {lesson.question for lesson in found}
    return (*found, *(lesson for lesson in OWN if lesson.question not in asked))
