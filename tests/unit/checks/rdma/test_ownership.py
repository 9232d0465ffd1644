"""Whether a log is one of the processes that run, on facts alone."""

from __future__ import annotations

from dataclasses import replace

from pytest_h20.checks.rdma.ownership import why_not
from pytest_h20.probes.log_owners import Claim, LogFile, LogOwner, LogOwners
from pytest_h20.probes.script import Missing

WEEKS = 21 * 86400
LOG = "/logs/nccl.node01.346"
CLAIM = Claim(LOG, {346: ("0x55d0c000000",)})
NOW = 1_764_256_000
FILE = LogFile(LOG, "8:12", NOW - 50)
RANK = LogOwner((41234, 346), NOW - 100, True, frozenset({"8:12"}), frozenset({"55d0c000000"}))


def told(*owners: LogOwner, file: LogFile | None = FILE) -> LogOwners:
    return LogOwners({LOG: file} if file is not None else {}, owners, True)


def test_the_process_that_has_the_file_open_wrote_it() -> None:
    assert why_not(CLAIM, told(replace(RANK, mapped=frozenset()))) == ""


def test_a_log_from_standard_output_belongs_by_time_and_memory() -> None:
    assert why_not(CLAIM, told(replace(RANK, open=frozenset()))) == ""


def test_a_process_that_ended() -> None:
    assert why_not(CLAIM, told()) == "its process 346 does not run any more"
    assert why_not(CLAIM, told(replace(RANK, pids=(346, 7)))).startswith("its process 346 does not run"), "346 on the node, 7 to itself"


def test_the_same_number_in_a_container_that_was_started_again() -> None:
    """Containers give the same ids again: three weeks later process 346 is another one."""
    again = replace(RANK, open=frozenset())
    old = replace(FILE, written=NOW - WEEKS)
    assert "after the log was written last (2025-11-06" in why_not(CLAIM, told(again, file=old))


def test_the_number_alone_proves_nothing() -> None:
    """An sshd of the node with that number; or an old log that was copied today."""
    other = replace(RANK, pids=(346,), open=frozenset(), mapped=frozenset())
    assert "neither has the file open nor the communicators" in why_not(CLAIM, told(other))
    assert why_not(CLAIM, told(other, RANK)) == "", "the rank beside it"


def test_what_may_not_be_looked_at_is_not_taken_for_seen() -> None:
    hidden = replace(RANK, seen=False, open=frozenset(), mapped=frozenset())
    assert "log in as root" in why_not(CLAIM, told(hidden))
    assert why_not(CLAIM, told(hidden), trusted=True) == ""
    assert why_not(CLAIM, told(), trusted=True) != ""
    assert "could not be asked: no" in why_not(CLAIM, Missing("no"), trusted=True)


def test_every_process_of_a_log_must_run() -> None:
    both = Claim(LOG, {346: (), 347: ()})
    assert why_not(both, told(RANK)) == "its process 347 does not run any more"
