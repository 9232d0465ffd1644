"""Requirements of our gateway. With ``h20_gate`` they count for a gate: a failure here makes the whole run not accepted."""

from __future__ import annotations

import json

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from pytest_h20.core import verdict
from pytest_h20.core.verdict import Limit, Origin
from pytest_h20.plugin.fixtures import Judge
from pytest_h20.report.run import RunFolder
from pytest_h20.run.endpoint import Endpoint

pytestmark = pytest.mark.h20_gate("endpoint")

GATEWAY = Origin(kind="file", detail="gateway requirements, section 3")


def test_one_model_is_listed(h20_client: OpenAI, h20_endpoint: Endpoint, h20_run: RunFolder, h20_judge: Judge) -> None:
    """A verdict says what was measured, what was wanted and why, and what to do; the report shows all of it."""
    models = [model.id for model in h20_client.models.list()]
    evidence = h20_run.evidence("gateway/models.json", json.dumps({"asked by": "tenant-0badcafe", "models": models}))
    h20_judge(
        verdict.judge(
            "endpoint.one_model",
            "The gateway sees exactly one model",
            len(models),
            Limit(kind="equal", value=1, origin=GATEWAY),
            action="serve without LoRA adapters and aliases",
            evidence=[evidence],
        )
    )


def test_an_unknown_parameter_value_is_a_clean_error(h20_client: OpenAI, h20_endpoint: Endpoint) -> None:
    """Plain asserts do as well: passed is a check that holds, anything else is not green."""
    with pytest.raises((BadRequestError, NotFoundError)) as refused:
        h20_client.chat.completions.create(model=h20_endpoint.model, messages=[{"role": "user", "content": "x"}], max_tokens=-1)
    assert "Traceback" not in str(refused.value)
