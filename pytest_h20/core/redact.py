"""Secrets never reach a log, a report or the evidence: text in, the same text without them out.

Pure and stdlib only. ``Redactor.text`` works on any text (logs, shell commands, env dumps, JSON, YAML, argv in list notation,
HTTP headers); ``Redactor.data`` works on JSON-like values and knows key names; ``Redactor.bytes`` on file contents.

What counts as a secret: PEM private keys; ``Authorization`` and cookie headers; tokens with a well-known shape (Hugging Face,
OpenAI-like ``sk-``, GitHub, GitLab, Slack, AWS, Google, NVIDIA, npm, PyPI, Docker, JWT); the value of every name that says so
(``HF_TOKEN=``, ``--api-key X``, ``"password": "..."``); passwords in URLs; literal secrets and patterns that the caller adds.

What stays, because checks are judged on it: GIDs, GUIDs, UUIDs, image and file digests, host-key fingerprints, token *counts*
(``completion_tokens``, ``--max-num-batched-tokens``), special tokens (``eos_token``), tokenizer paths.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from re import Pattern
from typing import Any
from urllib.parse import quote

from pytest_h20.core.errors import UsageError

MASK = "[redacted]"
"""What stands in a secret's place. Redacting twice changes nothing."""

_SHORTEST_LITERAL = 4  # a shorter "secret" would blank out ordinary text everywhere

_SECRET_WORDS = frozenset(
    re.findall(
        r"\w+",
        "password passwords passwd passphrase passcode secret secrets token credential credentials apikey apikeys "
        "cookie authorization accesskey secretkey privatekey authtoken accesstoken identitytoken registrytoken sshpass",
    )
)
_SECRET_KEYS = frozenset(re.findall(r"\w+", "api access secret private signing encryption auth account session master shared ssh"))
"""``<word>_key`` is a secret for these words; ``key``, ``sort_key``, ``host_key`` alone are not."""
_COUNTED_TOKENS = frozenset(
    re.findall(
        r"\w+",
        "per output input first next last eos bos pad unk sep cls mask stop special image video audio tool think thinking "
        "start end begin each every between new extra draft bad any total prompt completion reasoning max min num s "
        "inter time ms a the this one single decoded sampled generated top",
    )
)
"""``<word>_token`` is vocabulary or a unit of measure for these words, not a secret."""
_NOT_SECRET_VALUES = re.compile(r"(?:null|none|true|false|yes|no|nil|undefined|required|missing|not|<[^>]*>|\$\{?\w+\}?|-|)", re.I)
_NUMBER = re.compile(r"[-+]?\d{1,12}(?:\.\d*)?(?:e[-+]?\d+)?(?:ms|s|us|%)?", re.I)

_KEY_KIND = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_PEM = re.compile(rf"-----BEGIN {_KEY_KIND}.*?(?:-----END {_KEY_KIND}|\Z)", re.S)
_PEM_END = re.compile("-----END " + _KEY_KIND)

_SHAPES = re.compile(
    r"""(?<![A-Za-z0-9_])(?:
      hf_[A-Za-z0-9]{16,} | api_org_[A-Za-z0-9]{16,}
    | sk-[A-Za-z0-9_-]{16,}
    | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
    | glpat-[A-Za-z0-9_-]{16,}
    | xox[abeoprs]-[A-Za-z0-9-]{10,}
    | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])
    | AIza[A-Za-z0-9_-]{30,}
    | nvapi-[A-Za-z0-9_-]{16,}
    | npm_[A-Za-z0-9]{30,}
    | pypi-[A-Za-z0-9_-]{40,}
    | dckr_pat_[A-Za-z0-9_-]{16,}
    | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*
    )""",
    re.X,
)

_HEADER = re.compile(
    r"""(?P<head>\b(?:proxy-)?authorization\\*["']?\s*[:=,]\s*\\*["']?\s*)(?P<scheme>(?:bearer|basic|token|digest|negotiate|apikey)\s+)?
        (?P<value>(?!\[redacted\])[^\s"'\\,;\]})]+(?:[^\n"'\\,;\]})]*[^\s"'\\,;\]})])?)""",
    re.I | re.X,
)
_COOKIE = re.compile(r"""(?P<head>\b(?:set-)?cookie\\*["']?\s*:\s*\\*["']?)(?P<value>(?!\[redacted\])[^\s"'\\][^\n"'\\]*)""", re.I)
_BEARER = re.compile(
    r"""(?P<head>\b(?:bearer|basic)\s+)(?P<value>(?=[A-Za-z._~+/=-]*\d|[A-Za-z0-9._~+/=-]{20})[A-Za-z0-9._~+/=-]{6,})""", re.I
)
_URL = re.compile(
    r"""(?P<head>\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@"'<>]{0,200}:)(?!\d{1,5}(?:[/?\#,;]|\]|$))(?P<value>(?!\[redacted\]@)[^\s"'<>]{1,300})(?=@[\w.\[-])""",
    re.I | re.X,
)
_URL_USER = re.compile(r"""(?P<head>\b[a-z][a-z0-9+.-]{0,20}://)(?P<value>(?=[^\s/@]*\d)[A-Za-z0-9_-]{20,})(?=@[\w.\[-])""", re.I)
_USER_OPTION = re.compile(
    r"""(?P<head>(?:\s|^|["'])
        (?:-u|--user|--proxy-user)(?:["']?[\s,=]\s*)["']?(?!\d+:\d+\b)[^\s:"'=/]+:)(?P<value>(?!\[redacted\])[^\s"'/]+)""",
    re.X,
)
_SSHPASS = re.compile(r"""(?P<head>\bsshpass\s+-p\s*["']?|\bdocker\s+login\b[^\n]*?\s-p\s*["']?)(?P<value>(?!\[redacted\])[^\s"']+)""")

_NETRC = re.compile(r"(?P<head>\blogin\s+\S+\s+password\s+)(?P<value>(?!\[redacted\])\S+)")
_DOCKER_AUTH = re.compile(r"""(?P<head>"auth\\*"\s*:\s*\\*")(?P<value>[A-Za-z0-9+/]{8,}={0,2})(?=\\*")""")
"""What ``docker login`` leaves in config.json: user and password in base64."""

_NAME = r"(?P<name>[A-Za-z_][A-Za-z0-9_.-]{0,80})"
_HEAD = re.compile(
    rf"""(?<![\w/.])-{{0,2}}{_NAME}(?:\\*["']?[ \t]*(?:=>|:=|=|:)[ \t]*|\\*["']?[ \t]*,[ \t]*(?=\\*["']))
       | (?<![\w/.-])--(?P<flag>[A-Za-z_][A-Za-z0-9_.-]{{0,80}})\\*["']?(?:[ \t]*,)?[ \t]+(?!-)""",
    re.X,
)
"""A name and what stands between it and its value: ``name=``, ``"name": ``, ``('name', 'value')``, ``--name value``."""
_OPENING = re.compile(r"""\\*["']""")
_LIST = re.compile(r"\[(?:\[redacted\]|[^\[\]{}]){0,4000}\]")
_LOGPROB = re.compile(r"""\s*,\s*\\*["'](?:logprob|bytes|token_id|score)""")
"""What follows a ``"token"`` that is a piece of the model's answer (OpenAI's logprobs), not a credential."""
_BARE = re.compile(r"""[^\s"'\\]?(?:\\[^\n"]|[^\s"'\\])*""")
_ENV_LINE = re.compile(r"(?P<head>^(?:export[ \t]+|declare -x[ \t]+|set[ \t]+)?(?P<name>[A-Z][A-Z0-9_]*)=)(?P<value>[^\s].*)$", re.M)
_PROSE = re.compile(r"""(?P<head>\bpass(?:word|phrase)[ \t]+(?:is|was)[ \t]+)(?P<value>[^\s]+)""", re.I)


@lru_cache(maxsize=20_000)
def secret_name(name: str) -> bool:
    """True when a setting of this name (env variable, option, JSON key, header) holds a secret.

    >>> [secret_name(n) for n in ("HF_TOKEN", "--api-key", "eos_token", "max_tokens", "X-Api-Key", "key_file")]
    [True, True, False, False, True, False]
    """
    words = [w for w in re.split(r"[^A-Za-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) if w]
    words = [w.lower() for w in words]
    if not words:
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "token":
        return before not in _COUNTED_TOKENS
    if last in _SECRET_WORDS:
        return True
    if (before, last) == ("key", "data"):  # kubeconfig's client-key-data
        return True
    if last in ("key", "keys"):
        return before in _SECRET_KEYS
    if last in ("pwd", "pass"):
        return bool(before)  # PWD and "pass" alone are a folder and a verdict
    return False


def _harmless(name: str, value: str) -> bool:
    bare = value.strip().lstrip("[").strip("\\").strip("\"'").strip("\\").strip()
    if bare.startswith((MASK, MASK[1:])) or _NOT_SECRET_VALUES.fullmatch(bare):
        return True
    # `token: 128, rank 3` is a count; `X_TOKEN=12345678` in an environment is not
    return name.lower().endswith("token") and not name.isupper() and bool(_NUMBER.fullmatch(bare.rstrip(",;)]}")))


def _value_end(text: str, start: int) -> tuple[int, str]:
    """Where the value that begins at ``start`` ends, and what to put there: in its quotes, so that JSON stays JSON."""
    opening = _OPENING.match(text, start)
    if opening:
        mark = opening.group(0)
        closing = re.compile(r"(?<!\\)(?:\\\\)*" + re.escape(mark)).search(text, opening.end())
        line_end = text.find("\n", start)
        line_end = len(text) if line_end < 0 else line_end
        if closing and closing.end() <= line_end:
            return closing.end(), mark + MASK + mark
        return line_end, mark + MASK
    listed = _LIST.match(text, start)
    if listed:
        return listed.end(), f'["{MASK}"]'
    bare = _BARE.match(text, start)
    value = bare.group(0) if bare else ""
    stripped = value.rstrip(",;)]}")  # the punctuation of the text around it
    return start + len(stripped), MASK


def _pairs(text: str) -> str:
    """Every ``name = value`` whose name says "secret". Of a harmless one the value is searched on: it may hold another."""
    parts: list[str] = []
    done = 0
    position = 0
    while head := _HEAD.search(text, position):
        position = head.end()
        name = head.group("name") or head.group("flag")
        if not secret_name(name):
            continue
        end, masked = _value_end(text, head.end())
        logprobs = name.lower() == "token" and _LOGPROB.match(text, end)
        if end == head.end() or logprobs or _harmless(name, text[head.end() : end]):
            continue
        parts += [text[done : head.end()], masked]
        done = position = end
    return "".join([*parts, text[done:]])


def _spoken(match: re.Match[str]) -> str:
    """``password: correct horse battery``: behind a password's colon everything up to the end of the phrase goes."""
    name, value = match.group("name"), match.group("value")
    if not secret_name(name) or _harmless(name, value):
        return match.group(0)
    return match.group("head") + MASK


_PHRASE = re.compile(
    r"""(?P<head>(?<![\w/.])-{0,2}(?P<name>[A-Za-z0-9_.-]{0,60}pass(?:word|phrase|wd))[ \t]*:[ \t]+)
         (?P<value>[^\s"'\\\[{][^\n"'\\,;}]*)""",
    re.X | re.I,
)


def _env_line(match: re.Match[str]) -> str:
    name, value = match.group("name"), match.group("value")
    if not secret_name(name) or _harmless(name, value):
        return match.group(0)
    if value[0] in "\"'":
        closing = value.find(value[0], 1)
        rest = value[closing + 1 :] if closing > 0 else ""
        return match.group("head") + MASK + rest
    parts = re.split(r"(?=\s)", value, maxsplit=1)
    return match.group("head") + MASK + (parts[1] if len(parts) > 1 else "")


def _headed(match: re.Match[str]) -> str:
    return match.group("head") + MASK


def _authorization(match: re.Match[str]) -> str:
    return match.group("head") + (match.group("scheme") or "") + MASK


def _known_secrets(text: str) -> str:
    """The text without what looks like a secret whoever uses it.

    A pattern is only run where its literal part is somewhere in the text: a run's evidence has megabytes without any.
    ``_folded`` takes for one letter all that a pattern which ignores case takes for it, a long s or a dotless i among them.
    """
    folded = _folded(text)
    if "-----" in text:
        text = _pem_tails(_PEM.sub(MASK, text))
    if "authorization" in folded:
        text = _HEADER.sub(_authorization, text)
    if "cookie" in folded:
        text = _COOKIE.sub(_headed, text)
    if "://" in text:
        text = _URL_USER.sub(_headed, _URL.sub(_headed, text))
    text = _SHAPES.sub(MASK, text)
    if "bearer" in folded or "basic" in folded:
        text = _BEARER.sub(_headed, text)
    if "-u" in text or "user" in text:
        text = _USER_OPTION.sub(_headed, text)
    if "sshpass" in text or "docker" in text:
        text = _SSHPASS.sub(_headed, text)
    if "login" in text:
        text = _NETRC.sub(_headed, text)
    if '"auth' in text:
        text = _DOCKER_AUTH.sub(_headed, text)
    text = _ENV_LINE.sub(_env_line, text)
    spoken = "passw" in folded or "passp" in folded
    if spoken:
        text = _PHRASE.sub(_spoken, text)
    if "?" in text or "&" in text:
        text = _query(text)
    text = _pairs(text)
    return _PROSE.sub(_prose, text) if spoken else text


def _folded(text: str) -> str:
    return text.casefold().replace("\u0131", "i").replace("i\u0307", "i")


_SHORT = 300
_short_text = lru_cache(maxsize=20_000)(_known_secrets)
"""The short texts of a run are few and come again and again: titles, units, names of tests and files."""


class Redactor:
    """Takes secrets out of text and data.

    ``patterns``: further regular expressions; the group named ``secret`` is replaced, or the whole match if there is none.
    ``secrets``: literal values that are known to be secret (an API key read from the environment); they go in their plain,
    URL-quoted, JSON-escaped and base64 forms. Those shorter than four characters are left alone: ordinary text is full of them.
    Raises ``UsageError`` for a pattern that does not compile or that matches the empty text.
    """

    def __init__(self, patterns: Iterable[str | Pattern[str]] = (), secrets: Iterable[str] = ()) -> None:
        self._patterns: list[Pattern[str]] = [_compiled(p) for p in patterns]
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST_LITERAL:
                encoded = secret.encode()
                forms |= {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(encoded).decode()}
        self._literals = re.compile("|".join(re.escape(f) for f in sorted(forms, key=len, reverse=True))) if forms else None

    def text(self, text: str) -> str:
        """The text without its secrets."""
        if self._literals is not None:
            text = self._literals.sub(MASK, text)
        for pattern in self._patterns:
            text = pattern.sub(_user_match, text)
        return _short_text(text) if len(text) <= _SHORT else _known_secrets(text)

    def bytes(self, data: bytes) -> bytes:
        """As ``text`` for file contents; bytes that are not UTF-8 come through unchanged."""
        return self.text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def argv(self, argv: Sequence[str]) -> list[str]:
        """A command line, argument by argument: the one after ``--api-key`` goes too, whatever it looks like."""
        result: list[str] = []
        for index, argument in enumerate(argv):
            flag = argv[index - 1] if index else ""
            after_flag = flag.startswith("-") and "=" not in flag and secret_name(flag)
            result.append(MASK if after_flag and not argument.startswith("--") else self.text(argument))
        return result

    def env(self, env: Mapping[str, str]) -> dict[str, str]:
        """An environment: the value of every name that says "secret" goes, and secrets inside the others."""
        return {name: MASK if secret_name(name) and value else self.text(value) for name, value in env.items()}

    def data(self, value: Any) -> Any:
        """JSON-like data: strings redacted, values under secret names replaced, everything else as it is."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            answer = "logprob" in value  # its "token" is a piece of the model's answer
            return {k: self.data(v) if answer and k == "token" else self._member(str(k), v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            if all(isinstance(item, str) for item in value):
                return self.argv(value)
            return [self.data(item) for item in value]
        return value

    def _member(self, name: str, value: Any) -> Any:
        if name == "auth" and isinstance(value, str):
            return MASK if _DOCKER_AUTH.search(f'"auth":"{value}"') else self.text(value)
        if not secret_name(name) or value is None or (isinstance(value, (bool, int, float)) and "token" in name.lower()):
            return self.data(value)
        if isinstance(value, str):
            return self.text(value) if _harmless(name, value) else MASK
        if isinstance(value, (list, tuple)):
            return [self._member(name, item) for item in value]
        return MASK if not isinstance(value, Mapping) else self.data(value)


def _compiled(pattern: str | Pattern[str]) -> Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"redaction pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.search(""):
        raise UsageError(f"redaction pattern {compiled.pattern!r} matches the empty text: it would blank out everything")
    return compiled


def _user_match(match: re.Match[str]) -> str:
    if "secret" not in match.re.groupindex or match.group("secret") is None:
        return MASK
    whole, start = match.group(0), match.start()
    return whole[: match.start("secret") - start] + MASK + whole[match.end("secret") - start :]


_SIGNED = re.compile(r"(?:^|-)sig(?:nature)?$", re.I)
"""The parameter that makes a link to a cloud's store a key to it: Azure's ``sig``, ``X-Amz-Signature``."""
_QUERY = re.compile(r"""(?P<head>[?&](?P<name>[A-Za-z_][\w.-]*)=)(?P<value>[^\s&"'<>#]+)""")


def _query(text: str) -> str:
    return _QUERY.sub(_asked, text)


def _asked(match: re.Match[str]) -> str:
    secret = secret_name(match.group("name")) or _SIGNED.search(match.group("name"))
    return match.group("head") + MASK if secret else match.group(0)


def _pem_tails(text: str) -> str:
    """Private keys of which a log tail shows only the end: everything back to the first line that is no key material."""
    parts: list[str] = []
    done = 0
    for end in _PEM_END.finditer(text):
        lines = text[done : end.start()].splitlines(keepends=True)
        while lines and re.fullmatch(r"[A-Za-z0-9+/=]*\s*|.*\\n[A-Za-z0-9+/=\\]*", lines[-1]):
            lines.pop()
        parts += ["".join(lines), MASK]
        done = end.end()
    return "".join([*parts, text[done:]])


def _prose(match: re.Match[str]) -> str:
    return match.group(0) if _harmless("password", match.group("value")) else match.group("head") + MASK


def known_secrets(value: Any, shortest: int = 8, name: str = "") -> Iterator[str]:
    """The secrets that settings name: what stands under a name that says so, and the passwords of URLs.

    A program that got one of these may print it bare, where no shape or name gives it away.
    """
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from known_secrets(member, shortest, str(key))
    elif isinstance(value, (list, tuple)):
        for index, member in enumerate(value):
            flag = value[index - 1] if index else name
            yield from known_secrets(member, shortest, flag if isinstance(flag, str) and flag.startswith("--") else name)
    elif isinstance(value, str):
        if secret_name(name) and len(value) >= shortest and not _harmless(name, value):
            yield value
        for found in _URL.finditer(value) if "://" in value else ():
            if len(found.group("value")) >= shortest:
                yield found.group("value")


DEFAULT = Redactor()


def redact(text: str) -> str:
    """The text without its secrets, by the built-in rules alone.

    >>> redact("curl -H 'Authorization: Bearer abc' http://me:pw1@host/v1?api_key=xyz")
    "curl -H 'Authorization: Bearer [redacted]' http://me:[redacted]@host/v1?api_key=[redacted]"
    """
    return DEFAULT.text(text)
