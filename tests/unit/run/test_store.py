"""The table of what processes tell each other."""

from __future__ import annotations

from collections import Counter

from pytest_h20.cluster.shared import EngineTopic, Topic
from pytest_h20.run import store

TOPICS = [value for value in vars(store).values() if isinstance(value, (Topic, EngineTopic))]


def test_no_two_things_share_a_file() -> None:
    """With an engine's name behind it, and with a part between."""
    assert len(TOPICS) >= 14
    assert [name for name, times in Counter(s.name for s in TOPICS).items() if times > 1] == []
    names = {s.name for s in TOPICS}
    assert [n for n in names for other in names if n != other and n.startswith(f"{other}-")] == []
