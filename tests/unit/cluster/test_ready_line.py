"""What is said of a ready line that came, and of one that never did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_h20.cluster.bringup import BringUp
from pytest_h20.core.errors import BringUpError
from pytest_h20.diagnosis import FatalWatch
from pytest_h20.engines import dialect_for
from pytest_h20.engines.base import Stage
from tests.unit.engines.profiles import nodes

DIED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
READY = ["INFO Starting vLLM server 0 on http://0.0.0.0:8000", "INFO:     Application startup complete."]


class Watched(BringUp):
    """A bring-up whose failure says when it was told."""

    def _failure(self, what: str, check: str = "bringup.ready") -> BringUpError:
        return BringUpError(f"after {cast(Any, self.clock).slept:g} s: {what}", check)

    def _check_alive(self) -> None:
        return

    def _note(self, role: str, stage: Stage) -> None:
        return


class Clock:
    slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


def waiting(lines: list[str]) -> Watched:
    dialect = dialect_for("vllm", "0.24.0", "native")
    preflight = SimpleNamespace(plan=SimpleNamespace(ready=cast(Any, dialect).ready(nodes())), dialect=dialect)
    bring = Watched(cast(Any, None), {}, "run", cast(Any, None), cast(Any, preflight), clock=cast(Any, Clock()))
    bring._followers = {"rank0": cast(Any, SimpleNamespace(poll=lambda: lines))}
    bring._watches = {"rank0": FatalWatch()}
    bring._stages = {"rank0": None}
    return bring


def test_where_no_ready_line_came_none_is_called_worthless_and_the_other_rank_has_time_to_say_why() -> None:
    with pytest.raises(BringUpError) as caught:
        waiting([DIED])._look()
    assert "worthless" not in str(caught.value)
    assert str(caught.value).startswith("after 2 s: no ready line came from rank0: RuntimeError: Engine core initialization failed")


def test_a_ready_line_with_its_port_taken_is_worthless() -> None:
    bring = waiting(READY)
    bring._look()
    assert bring._seen_ready == 2
    bring._followers = {"rank0": cast(Any, SimpleNamespace(poll=lambda: ["ERROR: [Errno 98] address already in use"]))}
    with pytest.raises(BringUpError, match="the ready line is worthless: ERROR"):
        bring._look()


def test_a_healthy_start_goes_on() -> None:
    bring = waiting(READY)
    bring._look()
    assert cast(Any, bring.clock).slept == 0
