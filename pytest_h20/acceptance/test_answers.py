"""Gate ``answers``: the answers are right. The shipped graded set, a user's own (``--h20-accuracy``), a needle, two engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_h20.checks.endpoint.answers import check_accuracy, check_dataset, compare_verdict
from pytest_h20.checks.endpoint.catalog import ANSWERS
from pytest_h20.checks.endpoint.frame import Listed
from pytest_h20.checks.endpoint.questions import Score, load_dataset
from pytest_h20.checks.endpoint.serving import with_served_version
from pytest_h20.core.verdict import Verdict
from pytest_h20.endpoint.client import Api
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.run.drafts import with_and_without
from pytest_h20.run.store import SCORES

if TYPE_CHECKING:
    from pytest_h20.run.endpoint import Endpoint

pytestmark = pytest.mark.h20_gate("answers")

Graded = tuple[Sequence[Verdict], Score]


@pytest.fixture(scope="session")
def api(h20_endpoint: Endpoint) -> Api:
    """The client of the checks."""
    return Api(with_served_version(h20_endpoint.ctx))


def _graded(h20_endpoint: Endpoint, api: Api, name: str, path: str | None) -> Graded:
    """Asked once per engine and run, whichever worker comes first."""

    def ask() -> Graded:
        return check_accuracy(api) if path is None else check_dataset(api, path, load_dataset(path))

    return h20_endpoint.session.shared.once(SCORES(h20_endpoint.label, name), ask)


def _user_file(h20_endpoint: Endpoint) -> str:
    path = h20_endpoint.session.settings.accuracy
    if not path:
        pytest.skip("no data set of the user's: --h20-accuracy=FILE.jsonl grades one")
    return str(path)


def test_accuracy(h20_endpoint: Endpoint, api: Api, h20_judge: Judge) -> None:
    """The shipped questions; the gate is on the lower end of the Wilson interval."""
    h20_judge(*_graded(h20_endpoint, api, "shipped", None)[0])


def test_dataset(h20_endpoint: Endpoint, api: Api, h20_judge: Judge) -> None:
    """The user's questions, graded the same way."""
    h20_judge(*_graded(h20_endpoint, api, "dataset", _user_file(h20_endpoint))[0])


@pytest.mark.parametrize("check", ANSWERS, ids=lambda check: check.name)
def test_property(check: Listed, api: Api, h20_judge: Judge) -> None:
    """Other properties of the answers."""
    h20_judge(*check.run(api))


def test_compare(h20_endpoint: Endpoint, api: Api, h20_judge: Judge) -> None:
    """With --engine given twice: the second engine against the first, on the same questions; two profiles of one engine, of which one
    drafts, by their texts as well."""
    verdicts = []
    for name, path in (("shipped", None), ("dataset", h20_endpoint.session.settings.accuracy)):
        if name == "dataset" and not path:
            continue
        mine = _graded(h20_endpoint, api, name, path)[1]
        for other in h20_endpoint.session.labels:
            known = h20_endpoint.session.shared.value(SCORES(other, name)) if other != h20_endpoint.label else None
            if known is not None and known[1].n and mine.n:
                verdicts.append(compare_verdict(api, other, h20_endpoint.label, known[1], mine, f"{name} questions"))
                verdicts += with_and_without(h20_endpoint.session, (other, known[1]), (h20_endpoint.label, mine), name)
    if not verdicts:
        pytest.skip("only one engine has been asked so far: --engine given twice compares two")
    h20_judge(*verdicts)
