"""What is measured: a server, how it is spoken to, and which token ids it may be sent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pytest_h20.core.errors import UsageError

DIALECTS = ("sglang", "vllm", "chat")


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that random prompts are made of: `low <= id < high`, without `special`.

    An id outside the model's vocabulary is not harmless: one of them ends a whole SGLang server with a CUDA
    device-side assert (recorded on 0.5.16), vLLM answers 400. So there is no default size.
    """

    low: int
    high: int
    special: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise UsageError(f"vocabulary: ids from {self.low} to below {self.high}: there is none in between")
        if self.high - self.low - len(self.special) < 2:
            raise UsageError("vocabulary: fewer than two ids are left without the special ones")

    @property
    def size(self) -> int:
        """Ids in the range, special ones included."""
        return self.high - self.low

    @classmethod
    def deepseek_r1(cls) -> Vocabulary:
        """DeepSeek-V3/R1: ids 0, 1, 2 are begin, end and padding, 128000 and above are added special tokens.

        Source: the model's tokenizer.json (BPE of 128,000 entries, added tokens from 128000); config.json pads
        `vocab_size` to 129,280, and the ids above the last added token have no token at all.
        """
        return cls(3, 128000)

    @classmethod
    def of_size(cls, size: int) -> Vocabulary:
        """Only the size is known: leave out the ends, where tokenizers keep special and byte tokens.

        The lowest eighth (at most 1,000 ids) and the highest 1/32 are left out.
        """
        if size < 64:
            raise UsageError(f"vocabulary size {size}: at least 64 is needed; take it from the model's config.json")
        return cls(min(1000, size // 8), size - size // 32)

    @classmethod
    def from_tokenizer_json(cls, text: str) -> Vocabulary:
        """From a Hugging Face `tokenizer.json`: all ids of the base vocabulary without the added (special) tokens.

        Raises UsageError when the text has no `model.vocab`.
        """
        try:
            document = json.loads(text)
            vocab = document["model"]["vocab"]
            ids = list(vocab.values()) if isinstance(vocab, dict) else list(range(len(vocab)))
            special = {int(token["id"]) for token in document.get("added_tokens") or []}
            high = max(int(i) for i in ids) + 1
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"tokenizer.json: no usable model.vocab ({type(error).__name__}: {error})") from None
        low = 0
        while low in special:
            low += 1
        present = set(ids)
        if len(present) != high:  # holes: ids that no token has
            special |= set(range(high)) - present
        return cls(low, high, frozenset(i for i in special if low <= i < high))

    @classmethod
    def for_model(cls, model: str, size: int | None = None) -> Vocabulary:
        """By its size when that is given, else a guess by the model's name. Raises UsageError when neither is enough."""
        if size is not None:
            return cls.of_size(size)
        name = model.lower()
        if "deepseek" in name and any(part in name for part in ("r1", "v3")) and "distill" not in name:
            return cls.deepseek_r1()
        raise UsageError(
            f"model {model!r}: the size of its vocabulary is not known, and an id outside of it can end the server. "
            "Give vocab_size (config.json) or a tokenizer.json"
        )


@dataclass(frozen=True)
class Target:
    """A server under load.

    url           http(s)://host:port, optionally with a path prefix; an IPv6 host in brackets
    dialect       sglang: POST /generate with `input_ids`; vllm: POST /v1/completions with token ids (SGLang serves
                  that route too); chat: POST /v1/chat/completions with text
    model         the `model` field of requests
    headers       sent with every request (authorization); never written to results
    vocabulary    ids for random prompts; None = by `vocab_size`, else guessed by the model's name when they are needed
    vocab_size    the model's vocabulary size, used when `vocabulary` is None
    metrics_url   where /metrics is; None = at the root of `url`; "" = do not ask
    verify_tls    False accepts any certificate; `ca_file` is a PEM bundle to trust
    extra_body    fields added to every request body
    ended_file    a file that appears once the server is known to have ended: what is in flight then is given up; "" = none
    """

    url: str
    dialect: str
    model: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    vocab_size: int | None = None
    metrics_url: str | None = None
    verify_tls: bool = True
    ca_file: str | None = None
    extra_body: dict[str, object] = field(default_factory=dict)
    ended_file: str = ""

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise UsageError(f"dialect {self.dialect!r}: one of {', '.join(DIALECTS)} is needed")
        BaseUrl.parse(self.url)
        if self.metrics_url:
            BaseUrl.parse(self.metrics_url)
        for name, value in self.headers.items():
            if any(c in name + value for c in "\r\n") or not name:
                raise UsageError(f"header {name!r}: line breaks and empty names are not accepted")

    def ids(self) -> Vocabulary:
        """The ids random prompts are made of. Raises UsageError when the vocabulary is not known."""
        return self.vocabulary or Vocabulary.for_model(self.model, self.vocab_size)

    def metrics_address(self) -> BaseUrl | None:
        if self.metrics_url == "":
            return None
        if self.metrics_url:
            return BaseUrl.parse(self.metrics_url)
        own = BaseUrl.parse(self.url)
        return BaseUrl(own.tls, own.host, own.port, "/metrics")


@dataclass(frozen=True)
class BaseUrl:
    """A parsed http(s) URL. `path` is the prefix without a trailing slash."""

    tls: bool
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> BaseUrl:
        """Raises UsageError for what is not http(s)://host[:port][/prefix]."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"url {url!r}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"url {url!r}: http://host:port or https://host:port is needed")
        if parts.username is not None:
            raise UsageError("url: a user in the url is not accepted; give an Authorization header")
        if any(c in url for c in " \r\n"):
            raise UsageError(f"url {url!r}: blanks are not accepted")
        tls = parts.scheme == "https"
        return cls(tls, parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """host:port as in a Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
