"""Gate ``endpoint``: the API answers correctly, whatever is sent. One test per property; docs/checks-endpoint.md lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_h20.checks.endpoint.catalog import ALONE, ENDPOINT
from pytest_h20.checks.endpoint.frame import Listed
from pytest_h20.checks.endpoint.serving import with_served_version
from pytest_h20.endpoint.client import Api
from pytest_h20.plugin.fixtures import Judge

if TYPE_CHECKING:
    from pytest_h20.run.endpoint import Endpoint

pytestmark = pytest.mark.h20_gate("endpoint")

SHARED = [check for check in ENDPOINT if check.id not in ALONE]
LONELY = [check for check in ENDPOINT if check.id in ALONE]


@pytest.fixture(scope="session")
def api(h20_endpoint: Endpoint) -> Api:
    """The client of the checks; one per process, so that it can report every shape it saw."""
    return Api(with_served_version(h20_endpoint.ctx))


@pytest.mark.parametrize("check", LONELY, ids=lambda check: check.name)
def test_alone(check: Listed, api: Api, h20_judge: Judge, h20_alone: None) -> None:
    """Properties that other clients would disturb."""
    h20_judge(*check.run(api))


@pytest.mark.parametrize("check", SHARED, ids=lambda check: check.name)
def test_property(check: Listed, api: Api, h20_judge: Judge) -> None:
    """One property of the API."""
    h20_judge(*check.run(api))
