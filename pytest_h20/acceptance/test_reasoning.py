"""Gate ``reasoning``: reasoning is split from the answer. One test per property; docs/checks-endpoint.md lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_h20.checks.endpoint.catalog import REASONING
from pytest_h20.checks.endpoint.frame import Listed
from pytest_h20.checks.endpoint.serving import with_served_version
from pytest_h20.endpoint.client import Api
from pytest_h20.plugin.fixtures import Judge

if TYPE_CHECKING:
    from pytest_h20.run.endpoint import Endpoint

pytestmark = pytest.mark.h20_gate("reasoning")


@pytest.fixture(scope="session")
def api(h20_endpoint: Endpoint) -> Api:
    """The client of the checks."""
    return Api(with_served_version(h20_endpoint.ctx))


@pytest.mark.parametrize("check", REASONING, ids=lambda check: check.name)
def test_property(check: Listed, api: Api, h20_judge: Judge) -> None:
    """One property of the split."""
    h20_judge(*check.run(api))
