"""Who answers, and as what: model, context, health, version, authentication, dialect, the openai client."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from pytest_h20.checks.endpoint.frame import CheckList, differs
from pytest_h20.checks.endpoint.questions import shipped
from pytest_h20.checks.frame import Say
from pytest_h20.core.errors import H20Error, TransportError, UsageError
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.endpoint.client import CHAT, Api
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.endpoint.reply import REASONING_FIELDS, SeenShape, UnexpectedAnswer, read_error
from pytest_h20.endpoint.split import told_version
from pytest_h20.endpoint.wire import Wire
from pytest_h20.engines.base import Version
from pytest_h20.load.http1 import ProtocolError

CHECKS = CheckList("endpoint")


def known_question() -> str:
    """A question of the graded set: what the checks ask when they need an ordinary answer that ends by itself."""
    return shipped()[0].question


def _served(api: Api) -> list[dict[str, Any]]:
    value = api.document("/v1/models")
    rows = value.get("data") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UnexpectedAnswer(f"/v1/models has no list of models: {json.dumps(value)[:120]}")
    return rows


@CHECKS.add(
    "endpoint.models",
    "/v1/models lists the model",
    action="start the engine with --served-model-name, or put the name it serves into the inventory",
)
def check_models(api: Api, say: Say) -> Verdict:
    """Id, ``object`` and ``owned_by`` of the model; ``owned_by`` names the engine that really answers."""
    rows = _served(api)
    ids = [row.get("id") for row in rows]
    problems = [] if api.ctx.model_id in ids else [f"serves {ids}, not {api.ctx.model_id!r}"]
    problems += differs("object", rows[0].get("object"), "model")
    if api.behind is None:  # SGLang's gateway owns all models: "local"
        problems += differs("owned_by", rows[0].get("owned_by"), api.ctx.shape.owned_by)
    return say.problems(problems, of=len(rows), models=[str(i) for i in ids])


NAME_THEM = "name the servers behind it in the inventory, attach: {url: ..., servers: [http://HOST:PORT, ...]}, or attach to one of them"


def _each(api: Api, say: Say, url: str, check: Callable[[Api, Say], Verdict]) -> Verdict:
    """What ``check`` finds at one server behind a router. One that cannot be asked has shown nothing."""
    parts = urlsplit(url)
    about = say.about(f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
    server = api.at(url)
    try:
        server.document("/v1/models", deadline_s=api.ctx.seconds(0.2))
        return check(server, about)
    except (TransportError, ProtocolError, UnexpectedAnswer) as error:
        return about.unknown(str(error), action="correct attach.servers: the URL of an engine, as this machine reaches it")


@CHECKS.add(
    "endpoint.max_model_len",
    "The context length is the profile's",
    action="set --max-model-len (vLLM) or --context-length (SGLang) to what the profile promises, or correct the profile",
)
def check_max_model_len(api: Api, say: Say) -> Sequence[Verdict]:
    """``max_model_len`` of /v1/models equals the profile's; behind a router, of each server that the inventory names."""
    if api.ctx.servers:
        return [_each(api, say, url, _max_model_len) for url in api.ctx.servers]
    return [_max_model_len(api, say)]


def _max_model_len(api: Api, say: Say) -> Verdict:
    served = next((row.get("max_model_len") for row in _served(api) if row.get("id") == api.ctx.model_id), None)
    if served is None and not api.ctx.shape.models_has_max_model_len:
        return say.skip(f"{api.ctx.who} does not tell max_model_len (SGLang from 0.4.6 on)")
    if served is None and api.behind is not None:
        if api.ctx.max_model_len is None:
            return say.skip("the gateway in front passes no max_model_len on, and the profile promises none")
        return say.unknown("the gateway in front passes no max_model_len on: the profile's was held against nothing", NAME_THEM)
    if api.ctx.max_model_len is None:
        if not isinstance(served, int) or served < 1:
            return say.fail(f"max_model_len is {served!r}, and the profile names none")
        limit = Limit(kind="min", value=1, unit="tokens", origin=Origin(kind="builtin", detail="profile has none"))
        return say.judge(served, limit, of=1)
    limit = Limit(kind="equal", value=api.ctx.max_model_len, unit="tokens", origin=Origin(kind="inventory", detail="max_model_len"))
    return say.judge(served, limit, of=1)


@CHECKS.add("endpoint.health", "/health on the head answers 200", action="see the engine's log; /health alone proves little")
def check_health(api: Api, say: Say) -> Verdict:
    """200 on rank 0, and a token besides: /health alone is constant in vLLM 0.8 and SGLang ≤ 0.4.10 (F69)."""
    problems = differs("status", api.get("/health").status, 200)
    dead = api.dead()
    problems += [f"no token: {dead}"] if dead else []
    return say.problems(problems, of=2, health_means=api.ctx.shape.health)


@CHECKS.add(
    "endpoint.worker_is_no_head",
    "No node but the head serves the model",
    action="two heads: the ranks did not find each other; compare --node-rank and the rendezvous address on all nodes",
)
def check_worker_is_no_head(api: Api, say: Say) -> Sequence[Verdict]:
    """A node of rank ≥ 1 must not list the model. Its /health is recorded and counts for nothing (dummy server, F68)."""
    if not api.ctx.worker_health_urls:
        return [say.skip("there is no node of rank 1 or higher")]
    verdicts = []
    for node, url in api.ctx.worker_health_urls.items():
        wire = Wire(url.rstrip("/"), api.ctx.headers)
        health: int | str = "no port"
        models = 0
        try:
            health = wire.exchange(wire.request("GET", "/health"), api.ctx.seconds(0.1)).status
            models = wire.exchange(wire.request("GET", "/v1/models"), api.ctx.seconds(0.1)).status
        except TransportError as error:
            if health != "no port":
                verdicts.append(say.about(node).unknown(f"/health answered {health}, then: {error}"))
                continue
        problems = [] if models != 200 else ["/v1/models answers 200: this node serves a model of its own"]
        verdicts.append(say.about(node).problems(problems, of=1, health_ignored=health, models_status=models))
    return verdicts


def served_version(api: Api) -> str | None:
    """The version the running server tells, None when it tells none."""
    shape = api.ctx.shape
    for path in dict.fromkeys((shape.version_route, "/server_info", "/get_server_info", "/version")):
        try:
            value = api.document(path)
        except H20Error:
            continue
        if found := told_version(value, shape.version_key):
            return found
    return None


def with_served_version(ctx: EndpointContext) -> EndpointContext:
    """The context with the version the server tells, where the caller does not know it ("" or "0", an attached endpoint).

    Raises UsageError when nobody knows: without a version there is no dialect to hold the answers against.
    """
    if ctx.version not in ("", "0"):
        return ctx
    told = served_version(Api(dataclasses.replace(ctx, version="0")))
    if told is None:
        raise UsageError(
            f"{ctx.base_url} tells no version; name the engine version in the inventory (engines: profiles: version), for "
            "what an answer must look like depends on it"
        )
    return dataclasses.replace(ctx, version=told)


@CHECKS.add(
    "endpoint.version",
    "The server that answers is the version in the image",
    action="another server has this port, or the image's package was replaced: compare `docker inspect` with `pip show` inside",
)
def check_version(api: Api, say: Say) -> Sequence[Verdict]:
    """vLLM ``/version``, SGLang ``/server_info``; the build tag (``+cpu``) is left out. Behind a router each server that the inventory
    names is asked."""
    if api.ctx.servers:
        return [_each(api, say, url, _version) for url in api.ctx.servers]
    return [_version(api, say)]


def _version(api: Api, say: Say) -> Verdict:
    told = served_version(api)
    if told is None and api.behind is not None:
        why = f"the gateway in front passes no version on: the inventory's, {api.ctx.version}, was taken and held against nothing"
        return say.unknown(why, NAME_THEM)
    if told is None:
        return say.unknown(f"{api.ctx.shape.version_route} tells no version", action="see whether a proxy hides it")
    try:
        version = Version.parse(told)
    except UsageError as error:
        return say.fail(str(error))
    if api.behind is not None and api.behind.differ:
        return say.fail(f"the servers behind this router are of several versions: {api.behind.differ}")
    ours = str(api.ctx.parsed_version).split("+")[0]
    limit = Limit(kind="equal", value=ours, origin=Origin(kind="inventory", detail="version read in the image"))
    return say.judge(str(version).split("+")[0], limit, of=1)


@CHECKS.add(
    "endpoint.auth",
    "Without the API key nothing is generated",
    action="start the engine with --api-key, or take the key out of the inventory",
)
def check_auth(api: Api, say: Say) -> Verdict:
    """With a key configured: 401 without it and with a wrong one. /health stays open in SGLang, which is recorded only."""
    if not any(name.lower() == "authorization" for name in api.ctx.headers):
        return say.skip("no API key is configured")
    body = json.dumps({"model": api.ctx.model_id, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()
    none = api.raw("POST", CHAT, body, bare=True)
    wrong = api.raw("POST", CHAT, body, bare=True, headers={"Authorization": "Bearer h20-wrong-key"})
    problems = differs("status without a key", none.status, 401) + differs("status with a wrong key", wrong.status, 401)
    style = read_error(none.status, none.body).style
    return say.problems(problems, of=2, error_style=style, health_open=api.raw("GET", "/health", bare=True).status == 200)


@CHECKS.add(
    "endpoint.openai_client",
    "The openai client works, streaming and not",
    action="users will see this: compare the body in the evidence with the client's types",
)
def check_openai_client(api: Api, say: Say) -> Verdict:
    """What users use: the official client parses answer, stream and error."""
    return api.unless_ended("openai client", lambda: _openai_client(api, say))


def _openai_client(api: Api, say: Say) -> Verdict:
    import openai

    key = next((v.partition(" ")[2] for k, v in api.ctx.headers.items() if k.lower() == "authorization"), "") or "none"
    client = openai.OpenAI(base_url=api.ctx.base_url.rstrip("/") + "/v1", api_key=key, timeout=api.ctx.seconds(), max_retries=0)
    problems: list[str] = []
    texts = 0
    try:
        with client:
            turn: Any = {"role": "user", "content": known_question()}
            answer = client.chat.completions.create(model=api.ctx.model_id, messages=[turn], max_tokens=8, temperature=0)
            problems += differs("choices", len(answer.choices), 1)
            problems += differs("role", answer.choices[0].message.role, "assistant")
            problems += [] if answer.usage and answer.usage.completion_tokens else ["no usage"]
            chunks = list(client.chat.completions.create(model=api.ctx.model_id, messages=[turn], max_tokens=8, temperature=0, stream=True))
            problems += [] if chunks and any(c.choices and c.choices[0].finish_reason for c in chunks) else ["stream has no end"]
            texts = sum(_says(c.choices[0].delta) for c in chunks if c.choices)
            problems += [] if client.models.list().data else ["models.list is empty"]
            try:
                client.chat.completions.create(model=api.ctx.model_id, messages=[], max_tokens=1)
                problems.append("an empty conversation was not refused")
            except openai.BadRequestError:
                pass
    except openai.APITimeoutError as error:
        raise TransportError(f"openai client: {error}") from None
    except Exception as error:  # a broken stream reaches users as an error of whatever is below the client
        problems.append(f"{type(error).__name__}: {error}")
    return say.problems(problems, of=texts, what="text", client=openai.__version__)


def _says(message: Any) -> bool:
    """Whether the client hands out text, in a field that it knows or in one of the engine's own."""
    return any(getattr(message, name, None) for name in ("content", *REASONING_FIELDS))


@CHECKS.add(
    "endpoint.dialect",
    "The API has the shape of its version",
    action="clients written for this version will not find what they look for; compare with docs/checks-endpoint.md",
    origin=Origin(kind="vendor", detail="API shapes read in the releases and recorded from servers"),
)
def check_dialect(api: Api, say: Say) -> Verdict:
    """Reasoning field, error style and ``tool_calls`` of an answer as the dialect table has them; reports what it saw."""
    shape = api.ctx.shape
    seen = SeenShape()
    seen = seen.merged(api.chat(known_question(), max_tokens=8).ok().seen)
    seen = seen.merged(api.chat([], max_tokens=1).seen)
    reworded = api.behind is not None and seen.error_styles == {"nested"}  # by SGLang's gateway
    problems = [] if reworded else differs("error style", sorted(seen.error_styles), [shape.error_style])
    if api.ctx.reasoning_parser:
        problems += differs("reasoning fields", sorted(seen.reasoning_fields), sorted(shape.reasoning_fields))
        wanted = "null" if shape.truncated_content == "null" else "empty"
        problems += differs("content when cut in the reasoning", sorted(seen.empty_content), [wanted])
    problems += differs("tool_calls without any", sorted(seen.tool_calls), [shape.tool_calls_when_empty])
    return say.problems(problems, of=2, seen=seen.to_dict(), seen_by_all_checks=api.seen.to_dict())
