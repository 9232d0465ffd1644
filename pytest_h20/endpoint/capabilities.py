"""What an engine version can do with a request, and what it must not be sent. Data, each row with its source.

``supported``: judged. ``refused``: a 4xx is the right answer. ``accepted_silently``: the field is ignored or anything is
served; nothing can be concluded, the check is skipped with the note. ``harmful``: it hurts the engine and is never sent.
Where the dialect (:class:`pytest_h20.engines.api.ApiShape`) knows already, it is asked instead of repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_h20.engines.base import EngineName, Version

Outcome = Literal["supported", "refused", "accepted_silently", "harmful"]


@dataclass(frozen=True)
class Capability:
    """One row: from version ``since`` (inclusive) to ``below`` (exclusive), "" = open."""

    name: str
    engine: EngineName
    outcome: Outcome
    note: str
    source: str
    since: str = ""
    below: str = ""
    cpu_only: bool = False

    def applies(self, engine: str, version: Version) -> bool:
        """Whether this row speaks about that engine at that version."""
        return (
            self.engine == engine
            and (not self.since or version.at_least(self.since))
            and (not self.below or version.below(self.below))
            and (not self.cpu_only or version.is_cpu_build)
        )


_RECORDED = "recorded from SGLang 0.5.16"
_VLLM = "recorded from vLLM 0.24.0 and 0.32.0"

TABLE: tuple[Capability, ...] = (
    Capability("n", "sglang", "harmful", "each request with n > 1 leaves a request id behind and SIGTERM then never ends", _RECORDED),
    Capability("out_of_vocabulary", "sglang", "harmful", "one token id outside the vocabulary kills the whole server", _RECORDED),
    Capability("out_of_vocabulary", "vllm", "refused", "", _VLLM, since="0.24.0"),
    Capability(
        "out_of_vocabulary",
        "vllm",
        "harmful",
        "not known to be refused before 0.24, so it is not sent",
        "no recording",
        below="0.24.0",
    ),
    Capability(
        "structured_output",
        "sglang",
        "harmful",
        "a CPU build dies in the grammar backend",
        "seen on SGLang 0.5.16 CPU",
        cpu_only=True,
    ),
    Capability("seed", "sglang", "accepted_silently", "seed takes effect only with --enable-deterministic-inference", "SGLang docs; S"),
    Capability(
        "continuous_usage",
        "sglang",
        "accepted_silently",
        "continuous_usage_stats is not known before 0.5.16",
        _RECORDED,
        below="0.5.16",
    ),
    Capability(
        "max_completion_tokens",
        "sglang",
        "accepted_silently",
        "max_completion_tokens is not known before 0.4.8",
        "no recording",
        below="0.4.8",
    ),
    Capability("unknown_role", "vllm", "accepted_silently", "a message with an unknown role is accepted", _VLLM),
    Capability("unknown_role", "sglang", "refused", "", _RECORDED),
    Capability("temperature_5", "sglang", "accepted_silently", "temperature has no upper bound", _RECORDED),
    Capability("temperature_5", "vllm", "refused", "", _VLLM, since="0.24.0"),
    Capability("temperature_5", "vllm", "accepted_silently", "an upper bound is not known before 0.24", "no recording", below="0.24.0"),
    Capability("max_tokens_zero", "sglang", "accepted_silently", "max_tokens 0 is served with one token", _RECORDED),
    Capability("top_logprobs_100", "sglang", "accepted_silently", "top_logprobs has no upper bound", _RECORDED),
    Capability("top_logprobs_alone", "sglang", "accepted_silently", "top_logprobs without logprobs is ignored", _RECORDED),
    Capability("stream_options_alone", "sglang", "accepted_silently", "stream_options without stream is ignored", _RECORDED),
    Capability("image_part", "sglang", "accepted_silently", "an image on a text model is dropped", _RECORDED),
    Capability("tools_without_parser", "sglang", "accepted_silently", "tools without a parser are put into the prompt", _RECORDED),
    Capability("logit_bias", "sglang", "accepted_silently", "logit_bias has no effect before 0.4.7", "S; not recorded", below="0.4.7"),
    Capability("parse_route", "vllm", "refused", "vLLM has no route that runs the reasoning parser on a text", _VLLM),
    Capability("separate_reasoning", "vllm", "accepted_silently", "separate_reasoning is SGLang's, and vLLM ignores it", _VLLM),
    Capability("include_reasoning", "sglang", "accepted_silently", "include_reasoning is vLLM's, and SGLang ignores it", _RECORDED),
    Capability("include_reasoning", "vllm", "accepted_silently", "include_reasoning came with 0.10.1", "S", below="0.10.1"),
)


def capability(engine: EngineName, version: Version, name: str, default: Outcome = "supported") -> Capability:
    """The row for this engine and version; without one, ``default`` with no note."""
    for row in TABLE:
        if row.name == name and row.applies(engine, version):
            return row
    return Capability(name, engine, default, "", "OpenAI API reference")


def skip_reason(engine: EngineName, version: Version, name: str, default: Outcome = "supported") -> str | None:
    """Why a check of ``name`` cannot be judged on this version, or None when it can."""
    row = capability(engine, version, name, default)
    if row.outcome == "harmful":
        return f"{engine} {version} must not be sent this: {row.note} ({row.source})"
    if row.outcome == "accepted_silently" or (row.outcome == "refused" and default == "supported"):
        return f"{engine} {version}: {row.note} ({row.source})"
    return None
