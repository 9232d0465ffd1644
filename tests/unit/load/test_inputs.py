"""Cells, arrivals, targets, prompts: what goes in."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.core.errors import UsageError
from pytest_h20.load import Arrivals, Cell, LoadPlan, Prompt, PromptRecipe, Slo, Target, Vocabulary, cli, matrix, requests_for
from pytest_h20.load.dialects import RequestEncoder
from pytest_h20.load.prompts import (
    WORDS,
    PromptSource,
    calibration_texts,
    load_jsonl,
    template_tokens,
)
from pytest_h20.load.selfcheck_types import SelfCheck
from pytest_h20.load.share import ShareJob
from pytest_h20.load.target import BaseUrl

R1 = Vocabulary.deepseek_r1()


# ---- cells -------------------------------------------------------------------------------------------------------
def test_the_default_matrix_is_the_write_ups_26_rows_cheap_first() -> None:
    cells = matrix()
    assert len(cells) == len(set(cells)) == 26
    assert cells[0].id == "in128-out128-c1"
    assert cells[-1].id == "in256-out256-c1024"
    assert [cell.cost for cell in cells] == sorted(cell.cost for cell in cells)
    assert {cell.concurrency for cell in cells} >= {100, 200}


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_cell_ids_are_read_back(a: int, b: int, c: int) -> None:
    assert Cell.parse(Cell(a, b, c).id) == Cell(a, b, c)


@pytest.mark.parametrize("text", ["", "in0-out1-c1", "in1-out1", "in1-out1-c1x", "in-1-out1-c1"])
def test_wrong_cells_are_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="cell"):
        Cell.parse(text)


def test_requests_per_cell() -> None:
    assert [requests_for(Cell(128, 128, c)) for c in (1, 16, 64, 128, 256, 1024)] == [4, 64, 192, 384, 512, 2048]
    assert requests_for(Cell(128, 128, 64), "blog") == 64
    with pytest.raises(UsageError, match="recipe"):
        requests_for(Cell(1, 1, 1), "fast")


# ---- arrivals ----------------------------------------------------------------------------------------------------
def test_poisson_keeps_its_rate_and_its_seed() -> None:
    plan = Arrivals("poisson", rate=50)
    times = list(itertools.islice(plan.offsets(7), 4000))
    assert times == list(itertools.islice(plan.offsets(7), 4000))
    assert times != list(itertools.islice(plan.offsets(8), 4000))
    assert 4000 / times[-1] == pytest.approx(50, rel=0.08)  # 5 standard deviations
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert sum(gap < 0.02 for gap in gaps) / len(gaps) == pytest.approx(1 - 2.718281828**-1, abs=0.04)


def test_constant_burst_ramp_and_trace() -> None:
    assert list(itertools.islice(Arrivals("constant", rate=4).offsets(0), 3)) == [0, 0.25, 0.5]
    assert list(itertools.islice(Arrivals("burst", rate=4, burst=2).offsets(0), 5)) == [0, 0, 0.5, 0.5, 1.0]
    ramp = Arrivals("constant", rate=1, rate_end=3, ramp_s=2)
    assert [ramp.rate_at(t) for t in (0, 1, 2, 9)] == [1, 2, 3, 3]
    assert Arrivals("poisson", rate=8).share(0, 4, 0).rate == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "sometimes"},
        {"kind": "poisson"},
        {"kind": "constant", "rate": -1},
        {"ramp_s": -1},
        {"kind": "burst", "rate": 1, "burst": 0},
        {"kind": "constant", "rate": 1, "rate_end": 0},
    ],
)
def test_wrong_arrivals_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="arrivals"):
        Arrivals(**wrong)


# ---- target ------------------------------------------------------------------------------------------------------
def test_addresses() -> None:
    assert BaseUrl.parse("http://[::1]:8000/prefix/") == BaseUrl(False, "::1", 8000, "/prefix")
    assert BaseUrl.parse("http://[::1]:8000").authority == "[::1]:8000"
    assert BaseUrl.parse("https://host") == BaseUrl(True, "host", 443)
    for url in ("host:8000", "ftp://x", "http://", "http://a:b", "http://user:secret@host", "http://a b"):
        with pytest.raises(UsageError) as caught:
            BaseUrl.parse(url)
        assert "secret" not in str(caught.value)


def test_vocabularies_leave_special_ids_out() -> None:
    assert (R1.low, R1.high) == (3, 128000)
    assert Vocabulary.for_model("/mnt/models/DeepSeek-R1") == R1
    assert Vocabulary.for_model("tiny", 2048) == Vocabulary(256, 1984)
    tokenizer = {
        "model": {"vocab": {"<s>": 0, "a": 1, "b": 2, "c": 3, "d": 5}},
        "added_tokens": [{"id": 0, "special": True}, {"id": 3}, {"id": 6}],
    }
    read = Vocabulary.from_tokenizer_json(json.dumps(tokenizer))
    assert (read.low, read.high, read.special) == (1, 6, frozenset({3, 4}))
    for model in ("llama", "DeepSeek-R1-Distill-Qwen-7B"):
        with pytest.raises(UsageError, match="vocab"):
            Vocabulary.for_model(model)
    for text in ("", "{}", "[]", '{"model": {"vocab": {}}}'):
        with pytest.raises(UsageError, match=r"tokenizer\.json"):
            Vocabulary.from_tokenizer_json(text)
    with pytest.raises(UsageError, match="at least 64"):
        Vocabulary.of_size(10)


def test_headers_cannot_smuggle() -> None:
    with pytest.raises(UsageError, match="line breaks"):
        Target("http://h", "chat", headers={"A": "b\r\nC: d"})
    with pytest.raises(UsageError, match="dialect"):
        Target("http://h", "openai")


# ---- prompts -----------------------------------------------------------------------------------------------------
def source(cell: Cell, dialect: str = "vllm", seed: int = 1, **more: Any) -> PromptSource:
    return PromptSource(more.pop("recipe", PromptRecipe()), cell, dialect, R1, seed, **more)


@given(st.integers(1, 300), st.integers(0, 2**31))
def test_random_ids_are_exact_and_in_range(length: int, seed: int) -> None:
    prompt = source(Cell(length, 5, 1), seed=seed).prompt(seed % 1000)
    assert prompt.ids is not None
    assert len(prompt.ids) == prompt.input_len == length
    assert all(R1.low <= i < R1.high for i in prompt.ids)


def test_no_two_prompts_begin_alike_and_the_seed_decides() -> None:
    made = source(Cell(4, 4, 1))
    firsts = [prompt.ids[0] for i in range(-5, 5000) if (prompt := made.prompt(i)).ids]
    assert len(set(firsts)) == len(firsts)
    assert made.prompt(3) == source(Cell(4, 4, 1)).prompt(3)
    assert made.prompt(3) != source(Cell(4, 4, 1), seed=2).prompt(3)


def test_cells_with_one_seed_share_no_prompt() -> None:
    cells = [Cell(16, 16, 1), Cell(16, 16, 4), Cell(16, 32, 4), Cell(17, 16, 1)]
    heads = [prompt.ids[:8] for cell in cells for i in range(200) if (prompt := source(cell).prompt(i)).ids]
    assert len(set(heads)) == len(heads)


def test_special_ids_are_never_drawn() -> None:
    small = Vocabulary(0, 50, frozenset(range(0, 50, 2)))
    made = PromptSource(PromptRecipe(), Cell(200, 1, 1), "sglang", small, 0)
    assert all(i % 2 for number in range(20) for i in made.prompt(number).ids or ())


def test_chat_prompts_have_as_many_words_as_the_template_leaves() -> None:
    made = source(Cell(20, 4, 1), "chat", template_tokens=5)
    texts = [made.prompt(i).messages for i in range(2000)]
    assert all(messages and len(messages[0][1].split()) == 15 for messages in texts)
    assert len({messages[0][1] for messages in texts if messages}) == 2000
    with pytest.raises(UsageError, match="template alone takes 5"):
        source(Cell(5, 4, 1), "chat", template_tokens=5)


def test_calibration_tells_template_and_whether_words_are_tokens() -> None:
    one, everything = calibration_texts()
    assert len(set(WORDS)) == len(WORDS) == len(everything.split())
    assert one == WORDS[0]
    assert template_tokens(6, 5 + len(WORDS)) == (5, True)
    assert template_tokens(6, 9 + len(WORDS)) == (5, False)


def test_conversations_grow_by_what_was_said() -> None:
    ids = source(Cell(8, 4, 1), recipe=PromptRecipe("multi-turn", turns=3))
    first = ids.prompt(0)
    second = ids.followup(first, 0, "ignored")
    assert first.ids
    assert second is not None
    assert second.ids is not None
    assert second.ids[:8] == first.ids
    assert second.input_len == len(second.ids) == 8 + 4 + 8
    third = ids.followup(second, 0, "")
    assert third is not None
    assert ids.followup(third, 0, "") is None
    chat = source(Cell(8, 4, 1), "chat", recipe=PromptRecipe("multi-turn", turns=2))
    following = chat.followup(chat.prompt(1), 1, "my answer")
    assert following is not None
    assert following.messages is not None
    assert [role for role, _ in following.messages] == ["user", "assistant", "user"]
    assert following.messages[1][1] == "my answer"


def test_jsonl_of_real_prompts() -> None:
    text = '{"prompt": "a b", "output_len": 3}\n\n{"messages": [{"role": "user", "content": "x"}]}\n{"input_ids": [5, 6]}\n'
    recipe = load_jsonl(text, "p.jsonl", 9)
    assert [p.output_len for p in recipe.prompts] == [3, 9, 9]
    assert recipe.prompts[2] == Prompt(2, 9, ids=(5, 6))
    for line, word in (
        ("{", "line 1"),
        ("[]", "object"),
        ('{"prompt": ""}', "keys: prompt"),
        ("", "holds no prompt"),
        ('{"prompt": "a", "output_len": 0}', "output_len"),
        ('{"messages": [1]}', "role and content"),
        ('{"input_ids": [1, -2]}', "needed"),
    ):
        with pytest.raises(UsageError, match=word):
            load_jsonl(line, "p.jsonl", 9)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["prompt", "text", "messages", "input_ids", "role", "content", "max_tokens"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_line_is_a_prompt_or_refused_in_words(row: Any) -> None:
    with contextlib.suppress(UsageError):
        assert load_jsonl(json.dumps(row), "p.jsonl", 4).prompts[0].output_len >= 1


# ---- requests ----------------------------------------------------------------------------------------------------
def body_of(target: Target, prompt: Prompt, **more: Any) -> tuple[bytes, dict[str, Any]]:
    raw = RequestEncoder(target, 0.0, True, more.get("each", False)).encode(prompt)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    document: dict[str, Any] = json.loads(body)
    return head, document


def test_each_dialect_asks_for_exact_lengths_and_usage() -> None:
    prompt = Prompt(2, 9, ids=(4, 5))
    head, body = body_of(Target("http://h:1", "sglang", headers={"Authorization": "Bearer k"}), prompt)
    assert head.startswith(b"POST /generate HTTP/1.1\r\nHost: h:1\r\n")
    assert b"Authorization: Bearer k" in head
    assert body == {"input_ids": [4, 5], "stream": True, "sampling_params": {"temperature": 0.0, "max_new_tokens": 9, "ignore_eos": True}}
    head, body = body_of(Target("http://h:1/v1", "vllm", "m", extra_body={"top_p": 1}), prompt, each=True)
    assert head.startswith(b"POST /v1/completions ")
    assert body["prompt"] == [4, 5]
    assert (body["max_tokens"], body["ignore_eos"], body["model"], body["top_p"]) == (9, True, "m", 1)
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    head, body = body_of(Target("http://h:1/x", "chat", "m"), Prompt(0, 9, text="hi"))
    assert head.startswith(b"POST /x/v1/chat/completions ")
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    with pytest.raises(UsageError, match="cannot be sent"):
        body_of(Target("http://h:1", "chat"), prompt)


def test_jobs_survive_json() -> None:
    recipe = PromptRecipe("jsonl", (Prompt(2, 3, ids=(1, 2)), Prompt(0, 4, messages=(("user", "x"),))), source="f")
    plan = LoadPlan(
        requests=3,
        arrivals=Arrivals("burst", rate=2.0, burst=3),
        prompts=recipe,
        slo=Slo(ttft_ms=5),
        selfcheck=SelfCheck(4, 0.1, None, 0.2, 1.0, 2.0),
        time_scale=20,
    )
    target = Target("http://h", "vllm", "m", {"A": "b"}, Vocabulary(1, 50, frozenset({3})))
    job = ShareJob(target, Cell(1, 2, 7), plan, 1, 3, 4)
    assert ShareJob.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert [ShareJob(target, Cell(1, 1, 7), LoadPlan(), i, 3).concurrency for i in range(3)] == [3, 2, 2]
    for wrong in ({}, {"target": 1}, {**job.to_json(), "cell": {"input_len": 1}}):
        with pytest.raises(UsageError):
            ShareJob.from_json(wrong)


@pytest.mark.parametrize(
    "wrong", [{"recipe": "x"}, {"requests": 0}, {"time_scale": 0}, {"warmup": -1}, {"duration_s": -2}, {"processes": -1}]
)
def test_wrong_plans_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="load plan"):
        LoadPlan(**wrong)


def test_where_nothing_answers_the_reason_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    argv = "--url http://127.0.0.1:1 --dialect chat --model m --requests 2 --input 64 --no-selfcheck --quiet"
    assert cli.main(argv.split()) == 1
    said = capsys.readouterr().out.splitlines()
    assert "no request was answered" in said[-1]
    assert len(said) == 2
