"""What our users see, asked as they ask it."""

from __future__ import annotations

from openai import OpenAI

from pytest_h20.run.endpoint import Endpoint

QUESTION = [{"role": "user", "content": "What is 17 * 23? Reply with the number only."}]


def test_the_answer_has_no_thoughts_in_it(h20_client: OpenAI, h20_endpoint: Endpoint) -> None:
    answer = h20_client.chat.completions.create(model=h20_endpoint.model, messages=QUESTION, temperature=0, max_tokens=2048)
    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert "think>" not in choice.message.content
    assert "391" in choice.message.content


def test_streamed_pieces_are_the_same_answer(h20_client: OpenAI, h20_endpoint: Endpoint) -> None:
    request = {"model": h20_endpoint.model, "messages": QUESTION, "temperature": 0, "max_tokens": 2048}
    whole = h20_client.chat.completions.create(**request).choices[0].message.content
    pieces = [c.choices[0].delta.content or "" for c in h20_client.chat.completions.create(**request, stream=True) if c.choices]
    assert len(pieces) > 1
    assert "".join(pieces).strip() == whole.strip()
