"""How a prompt becomes an HTTP request in each dialect. Reading the answer is `wire.py`."""

from __future__ import annotations

import json
from typing import Any

from pytest_h20.core.errors import UsageError
from pytest_h20.load.prompts import Prompt
from pytest_h20.load.target import BaseUrl, Target

PATHS = {"sglang": "/generate", "vllm": "/v1/completions", "chat": "/v1/chat/completions"}
ROUTE_KINDS = {"sglang": "generate", "vllm": "completions", "chat": "chat"}


class RequestEncoder:
    """Encodes prompts for one target; the head is built once."""

    def __init__(self, target: Target, temperature: float, ignore_eos: bool, usage_each: bool, stream: bool = True) -> None:
        self.target, self.kind = target, ROUTE_KINDS[target.dialect]
        self._temperature, self._ignore_eos, self._stream = temperature, ignore_eos, stream
        self._usage_each = usage_each
        address = BaseUrl.parse(target.url)
        prefix = address.path
        if prefix.endswith("/v1") and target.dialect != "sglang":
            prefix = prefix[: -len("/v1")]  # both http://host:port and the OpenAI form http://host:port/v1 are given
        self.address = address
        lines = [
            f"POST {prefix}{PATHS[target.dialect]} HTTP/1.1",
            f"Host: {address.authority}",
            "Content-Type: application/json",
            "Accept: text/event-stream" if stream else "Accept: application/json",
        ]
        lines += [f"{name}: {value}" for name, value in target.headers.items()]
        self._head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode("utf-8")

    def encode(self, prompt: Prompt, special: bool = False) -> bytes:
        """The complete request. `special`: special tokens of the answer are wanted as text. Raises UsageError when the prompt's
        form does not fit the dialect."""
        body = self.body(prompt)
        if special:
            where = body["sampling_params"] if self.kind == "generate" else body
            where.update(skip_special_tokens=False, spaces_between_special_tokens=False)
        ids = body.pop("\0ids", None)
        text = json.dumps(body, separators=(",", ":"))
        if ids is not None:  # a list of some hundred numbers: its repr is JSON, and many times faster made
            name = "input_ids" if self.kind == "generate" else "prompt"
            text = f'{{"{name}":{[*ids]},{text[1:]}'
        data = text.encode()
        return self._head + b"%d\r\n\r\n" % len(data) + data

    def body(self, prompt: Prompt) -> dict[str, Any]:
        if self.kind == "generate":
            body: dict[str, Any] = {
                "sampling_params": {
                    "temperature": self._temperature,
                    "max_new_tokens": prompt.output_len,
                    "ignore_eos": self._ignore_eos,
                },
                "stream": self._stream,
            }
            if prompt.ids is None:
                body["text"] = self._text(prompt)
        else:
            body = {
                "model": self.target.model,
                "max_tokens": prompt.output_len,
                "temperature": self._temperature,
                "ignore_eos": self._ignore_eos,
                "stream": self._stream,
            }
            if self._stream:
                body["stream_options"] = {"include_usage": True}
                if self._usage_each:
                    body["stream_options"]["continuous_usage_stats"] = True
            if self.kind == "chat":
                if prompt.messages is not None:
                    body["messages"] = [{"role": role, "content": content} for role, content in prompt.messages]
                else:
                    body["messages"] = [{"role": "user", "content": self._text(prompt)}]
            elif prompt.ids is None:
                body["prompt"] = self._text(prompt)
        if prompt.ids is not None and self.kind != "chat":
            body["\0ids"] = prompt.ids
        body.update(self.target.extra_body)
        return body

    def _text(self, prompt: Prompt) -> str:
        if prompt.text is not None:
            return prompt.text
        if prompt.messages is not None and len(prompt.messages) == 1:
            return prompt.messages[0][1]
        form = "token ids" if prompt.ids is not None else "messages"
        raise UsageError(f"a prompt of {form} cannot be sent in the dialect {self.target.dialect!r}")


def get_request(address: BaseUrl, path: str, headers: dict[str, str]) -> bytes:
    """A plain GET, for /metrics."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {address.authority}", "Accept: text/plain"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8")
