"""What our users see, asked as they ask it."""

from __future__ import annotations

from openai import OpenAI

from pytest_h20.serving import Endpoint

QUESTION = [{"role": "user", "content": "What is 17 * 23? Reply with the number only."}]


def test_the_answer_has_no_thoughts_in_it(client: OpenAI, endpoint: Endpoint) -> None:
    answer = client.chat.completions.create(model=endpoint.model, messages=QUESTION, temperature=0, max_tokens=2048)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert "think>" not in choice.message.content
    assert "391" in choice.message.content


def test_streamed_pieces_are_the_same_answer(client: OpenAI, endpoint: Endpoint) -> None:
    request = {"model": endpoint.model, "messages": QUESTION, "temperature": 0, "max_tokens": 2048}
    whole = client.chat.completions.create(**request).choices[0].message.content
    pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**request, stream=True) if c.choices]
    assert len(pieces) > 1
    assert "".join(pieces).strip() == whole.strip()
