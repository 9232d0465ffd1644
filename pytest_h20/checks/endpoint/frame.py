"""How a check is written: a function of :class:`Api` that finds problems; identity, evidence and errors are added here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_h20.checks.frame import Say, Settled
from pytest_h20.core.errors import H20Error, NoAnswer, TransportError, unforeseen
from pytest_h20.core.verdict import Origin, Verdict
from pytest_h20.endpoint.client import Api
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.endpoint.reply import TextsOnly, UnexpectedAnswer
from pytest_h20.endpoint.wire import Exchange
from pytest_h20.load.http1 import ProtocolError

OPENAI = Origin(kind="protocol", detail="OpenAI API reference")
MAX_EVIDENCE = 400_000
"""Bytes of one check's evidence file at most."""


def voice(check: str, title: str, action: str, ctx: EndpointContext, origin: Origin = OPENAI) -> Say:
    """What makes the verdicts of one check of the API: it looks at answers, and the context's limits replace the built-in ones."""
    return Say(check, title, action=action, limits=ctx.limits, optional=ctx.unmeasured_ok, origin=origin, what="answer")


Body = Callable[[Api, Say], "Verdict | Sequence[Verdict]"]
Check = Callable[[Api], "list[Verdict]"]


@dataclass(frozen=True)
class Listed:
    """A check in the list: id, title, the function that makes it, and the next step of a verdict that has none of its own."""

    id: str
    title: str
    run: Check
    action: str = ""

    @property
    def name(self) -> str:
        """The id without its gate, for test ids."""
        return self.id.split(".", 1)[1]


@dataclass
class CheckList:
    """The checks of one gate, in the order in which they are worth running."""

    gate: str
    checks: list[Listed] = field(default_factory=list)

    def add(self, id: str, title: str, action: str = "", needs: Sequence[str] = (), origin: Origin = OPENAI) -> Callable[[Body], Check]:
        """Register a check. ``needs``: capabilities without which it is skipped; ``reasoning`` = a parser in the profile."""

        step = action or "see the exchange in the evidence file"

        def wrap(body: Body) -> Check:
            @functools.wraps(body)
            def run(api: Api) -> list[Verdict]:
                say = voice(id, title, step, api.ctx, origin)
                for name in needs:
                    reason = _blocked(api, name)
                    if reason:
                        return [say.skip(reason)]
                return with_evidence(api, say, body)

            self.checks.append(Listed(id, title, run, step))
            return run

        if not id.startswith(self.gate + "."):
            raise ValueError(f"{id} does not belong to gate {self.gate}")
        return wrap

    def by_id(self) -> Mapping[str, Check]:
        """Check id → function."""
        return {listed.id: listed.run for listed in self.checks}


def _blocked(api: Api, name: str) -> str | None:
    if name == "reasoning":
        return None if api.ctx.reasoning_parser else "the profile asks for no reasoning parser"
    if name == "thinking_switch":
        return None if api.ctx.thinking_switch else "the inventory names no thinking_switch: the model always thinks"
    if name == "tools":
        return None if api.ctx.tool_parser else "the profile asks for no tool parser"
    return api.why_not(name)


def with_evidence(api: Api, say: Say, body: Body) -> list[Verdict]:
    """Run a check, turn what it raised into a verdict, and attach the transcript of all that was exchanged."""
    with api.recording() as log:
        try:
            out = body(api, say)
            verdicts = [out] if isinstance(out, Verdict) else list(out)
        except Settled as end:
            verdicts = [end.verdict]
        except TransportError as error:
            action = "see the engine's log: a request was not answered"
            verdicts = [say.unknown(str(error), action=action, unanswered=isinstance(error, NoAnswer))]
        except TextsOnly as error:
            verdicts = [say.skip(str(error))]
        except (ProtocolError, UnexpectedAnswer) as error:
            verdicts = [say.fail(str(error))]
        except H20Error:
            raise
        except Exception as error:  # an answer in a form that this check did not foresee ends no run in a traceback
            verdicts = [say.unknown(f"the answer is in no form that this check reads: {unforeseen(error)}", action="see the exchange")]
    path = api.ctx.evidence(f"{say.check}.txt", transcript(log)) if log else ""
    if not path:
        return verdicts
    return [v.model_copy(update={"evidence": (*v.evidence, path)}) for v in verdicts]


def transcript(log: Sequence[Exchange], most: int = MAX_EVIDENCE) -> bytes:
    """All exchanges of a check, as many as fit; how many were left out is said at the end."""
    parts: list[bytes] = []
    size = 0
    for number, exchange in enumerate(log):
        part = f"===== {number + 1} of {len(log)}\n".encode() + exchange.transcript()
        if size + len(part) > most and parts:
            parts.append(f"===== {len(log) - number} more exchanges left out\n".encode())
            break
        parts.append(part[:most])
        size += len(part)
    return b"\n".join(parts)


def differs(name: str, measured: Any, expected: Any) -> list[str]:
    """One problem when two values differ, none otherwise."""
    return [] if measured == expected else [f"{name} is {measured!r:.120}, not {expected!r:.120}"]
