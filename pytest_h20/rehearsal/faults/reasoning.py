"""Faults of the split between reasoning and answer."""

# ruff: noqa: E501 - the table reads better with its texts on one line
from __future__ import annotations

from pytest_h20.rehearsal.faults.model import Fault, http, ids

_NEW = "sglang-0.5.16"
_VLLM = "vllm-0.32"


def _knob(name: str, knob: str, sentence: str, source: str, red: str, phrase: str, scenario: str = "quick") -> Fault:
    engine = "vllm" if scenario.startswith("vllm") else "sglang"
    return Fault(name, "reasoning", sentence, source, http(knob), ids("reasoning", red), phrase, engine=engine, scenario=scenario)


FAULTS = (
    _knob("not-split", "not_split", "Reasoning and answer are one text.", "F63: no parser, or an old one with the new template", "cut cut_anywhere lossless no_tags order split split_stream user_tags with_schema", "no reasoning in any field"),
    _knob("tag-in-content", "tag_leaks", "</think> is left in the answer.", "F63, vllm#12999", "cut_anywhere lossless no_tags with_schema", "</think> in the content"),
    _knob("think-in-content", "think_in_content", "The answer begins with <think>.", "issue 3", "cut_anywhere no_tags", "<think> in the content"),
    _knob("reasoning-null", "reasoning_null", "The reasoning field is always null.", "F63", "cut cut_anywhere lossless order split split_stream user_tags with_schema", "no reasoning in any field"),
    _knob("fields-swapped", "fields_swapped", "The answer is in the reasoning field and the other way round.", "issue 3", "cut cut_anywhere lossless order separate_false user_tags with_schema", "after 47 chunks with content"),
    _knob("never-closed", "never_closed", "The model never closes its reasoning.", "issue 3; F65", "lossless no_tags order separate_false split split_stream", "no content"),
    _knob("reasoning-leaks-into-next", "leaks_into_next", "An answer begins with the end of the one before.", "issue 3", "cut_anywhere separate_false with_schema", "51 = 391"),
    _knob("late-reasoning", "late_reasoning", "Reasoning comes back after the answer has begun.", "a parser without state", "cut_anywhere lossless order", "brings reasoning 'late' after"),
    _knob("eats-content", "eats_content", "A character of the answer gets lost in the split.", "a parser that strips too much", "lossless", "content is '39', not '391'"),
    _knob("cut-is-content", "cut_is_content", "Reasoning that was cut shows up as the answer.", "F65", "cut cut_anywhere", "beside unfinished reasoning"),
    _knob("user-tags-end-reasoning", "user_tags_end_reasoning", "A tag in the user's text ends the reasoning.", "prompt injection", "user_tags", "What does </think> mean?"),
    _knob("history-keeps-reasoning", "history_keeps_reasoning", "Earlier reasoning is fed back to the model.", "the chat template of DeepSeek-R1 cuts it off", "not_fed_back", "prompt tokens with the reasoning"),
    _knob("history-field-fed-back", "history_field_fed_back", "The reasoning field of earlier turns is fed back.", "issue 3", "not_fed_back", "prompt tokens with the reasoning"),
    _knob("separate-ignored", "separate_ignored", "separate_reasoning: false is ignored.", "SGLang's own field", "lossless separate_false", "no </think> in content"),
    _knob("parser-last-tag", "parser_last_tag", "The parser splits at the last tag instead of the first.", "a regular expression that is greedy", "parser_table", "reasoning is '', not"),
    _knob("completions-split", "completions_split", "Plain completions are split, too.", "a parser on the wrong route", "completions_unsplit", "reasoning_content in a completion"),
    _knob("schema-ignored-in-reasoning", "schema_ignored", "With a schema, reasoning or answer breaks it.", "vllm: reasoning and guided decoding", "with_schema", "is none of"),
    _knob("stream-loses-reasoning", "stream_drops_text", "A streamed answer lacks a token of its reasoning.", "a parser that drops a chunk", "stream_equals_message", "but streamed"),
    _knob("include-ignored", "include_ignored", "include_reasoning: false is ignored.", "vLLM's own field", "include_false", "plain: reasoning", _VLLM),
    _knob("newlines-are-content", "newlines_are_content", "Newlines of the reasoning are sent as the answer.", "a parser that strips pieces", "cut cut_anywhere lossless newline_only order", "beside unfinished reasoning", _VLLM),
    _knob("later-tags-swallowed", "later_tags_swallowed", "A tag inside the answer disappears.", "a parser that removes every tag", "tag_in_content", "content is '', not", _VLLM),
    _knob("logit-bias-ignored", "logit_bias_ignored", "logit_bias is ignored.", "empty reasoning cannot be forced", "empty newline_only tag_in_content", "did not force </think>", _VLLM),
    _knob("reasoning-uncounted", "reasoning_uncounted", "Reasoning tokens are not counted.", "billing", "token_count", "reasoning tokens is 0", _NEW),
)  # fmt: skip
