"""An attached engine needs no container daemon (seen with SGLang started by hand on a machine without Docker)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pytest_h20.core.errors import TransportError
from pytest_h20.nodes import Node
from pytest_h20.run.kept import kept


class NoDaemon:
    def find(self, labels: Any) -> Any:
        raise TransportError("gpu: the container daemon cannot be reached")


def test_without_a_daemon_nothing_is_kept_and_nothing_is_proved() -> None:
    said = '@run r.run 1\n{"container": "h20-r-server"}\n'
    run = lambda command, timeout: SimpleNamespace(ok=True, stdout=said)  # noqa: E731
    found = kept({"gpu": cast("Node", SimpleNamespace(containers=NoDaemon(), run=run))}, "gpu", 30000, "/base")
    assert found.roles == ()
    assert found.proof == "", "a proof would pass the check that the server is ours"
    assert "cannot be reached" in found.unseen
