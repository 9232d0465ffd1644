"""What is known before the engine starts."""

from __future__ import annotations

import pytest

from pytest_h20.config.inventory import Profile
from pytest_h20.run.facts import given


@pytest.mark.parametrize(
    ("told", "gpus"),
    [("all", 8), ("2", 2), (2, 2), ("16", 8), ("device=0,3", 2), ('"device=0,3",capabilities=utility', 2), (None, 0), ("none of these", 8)],
)
def test_the_gpus_that_a_container_gets(told: object, gpus: int) -> None:
    profile = Profile.model_validate({"image": "vllm:0.24.0", "tensor_parallel": 2, "container": {"gpus": told}})
    assert given(profile, 8) == gpus


def test_without_a_profile_all_of_a_node_are_taken() -> None:
    assert given(None, 8) == 8
