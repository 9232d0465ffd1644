"""Faults of what is said: a model that starts, streams and counts well, and is wrong."""

from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Fault, http, ids


def _knob(name: str, knob: str, sentence: str, source: str, red: str, phrase: str) -> Fault:
    return Fault(name, "answers", sentence, source, http(knob), ids("answers", red), phrase)


FAULTS = (
    _knob(
        "garbage",
        "garbage",
        "The engine runs with damaged weights and answers nonsense.",
        "F46, sgl#3434",
        "accuracy needle",
        "0 of 64 right",
    ),
    _knob(
        "stupid", "stupid", "Another, smaller model answers under the name of R1.", "a distilled model", "accuracy needle", "0 of 64 right"
    ),
    _knob("needle-lost", "needle_lost", "What stands in a long prompt is not found.", "rope scaling lost", "needle", "said 0, expected"),
    _knob("answers-not-split", "not_split", "Answers hold the reasoning, too.", "F63", "accuracy", "50 of 64 right"),
)
