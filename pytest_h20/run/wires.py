"""The wires of one engine's nodes, loaded before the engine starts: what one test measured the next one may lean on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pytest_h20.checks.fabric.measure import RailBandwidth, all_reduce, pairs_of, witnesses, write_bandwidth
from pytest_h20.checks.fabric.rails import judge_all_reduce, judge_write_bandwidth
from pytest_h20.checks.fabric.rounds import Wired, floor_of, wired
from pytest_h20.checks.fabric.together import judge_wired
from pytest_h20.core.verdict import Status, Verdict
from pytest_h20.nodes import Node
from pytest_h20.probes.facts import Facts, RailView
from pytest_h20.probes.perf import WriteBandwidth
from pytest_h20.probes.script import Missing
from pytest_h20.report.model import RailPair
from pytest_h20.run.facts import gathered
from pytest_h20.run.settings import Session
from pytest_h20.run.store import SINGLE, WIRED


@dataclass(frozen=True)
class Wires:
    """What loads the rails, and judges it. Every measurement is for a test that is alone on the nodes."""

    session: Session
    label: str

    @property
    def facts(self) -> Facts:
        """What the probes found."""
        return gathered(self.session, self.label).probes

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes of this engine."""
        return {n.name: self.session.nodes[n.name] for n in self.session.target(self.label).nodes}

    def _record(self, name: str, text: str) -> str:
        return self.session.folder.evidence(name, text)

    def single(self, node: str, hca: str) -> list[Verdict]:
        """``ib_write_bw`` of one rail to its peer with host memory, nothing beside it. It ends with the first run that holds the limit."""
        rail = self.facts.of(node).rail(hca)
        found: RailBandwidth | Missing = Missing("expect.ib_write_bw is false")
        if rail.view.expect.ib_write_bw is not False:
            found = write_bandwidth(self.nodes, rail, enough=floor_of(rail), record=self._record)
        if isinstance(found, RailBandwidth):
            self.session.shared.publish(SINGLE(self.label, _part(rail)), found)
        told = judge_write_bandwidth(rail, found)
        if told[0].status is Status.FAIL and isinstance(found, RailBandwidth):
            told = judge_write_bandwidth(rail, found, witnesses(self.nodes, rail, self._record))
        return told

    @property
    def singles(self) -> dict[str, float]:
        """Gbit/s of each rail that was measured alone, by subject."""
        found = {}
        for view in self.facts.views:
            for rail in view.rails:
                told = self.session.shared.value(SINGLE(self.label, _part(rail)))
                if told is not None and isinstance(told.best, WriteBandwidth):
                    found[rail.subject] = told.best.average_gbps
        return found

    def at_once(self) -> list[Verdict]:
        """All rails at once, with GPU memory where that is possible."""
        found: Wired | Missing = Missing("expect.ib_write_bw is false")
        if all(view.expect.ib_write_bw is not False for view in self.facts.views):
            found = wired(self.nodes, self.facts, record=self._record)
        if isinstance(found, Wired):
            self.session.shared.publish(WIRED(self.label), found)
            for row in self._rows(found):
                self.session.folder.add(row)
        return judge_wired(self.facts, found, self.singles)

    def _rows(self, found: Wired) -> list[RailPair]:
        """For the report: each GPU with its NIC."""
        lags = {(lag.node, lag.hca): lag.typical_us for lag in found.lags if isinstance(lag.typical_us, float)}
        moved = {(f.node, f.hca, f.verb): f.best for f in found.flows if isinstance(f.best, float)}
        return [
            RailPair(
                engine=self.label,
                node=f.node,
                hca=f.hca,
                gpu=f.gpu,
                peer_node=f.peer,
                peer_hca=f.peer_hca,
                peer_gpu=f.peer_gpu,
                write_gbps=moved.get((f.node, f.hca, "write")),
                read_gbps=moved.get((f.node, f.hca, "read")),
                line_gbps=self.facts.of(f.node).rail(f.hca).rate_gbps,
                latency_us=lags.get((f.node, f.hca)),
            )
            for f in found.flows
            if f.verb == "write"
        ]

    def all_reduce(self) -> list[Verdict]:
        """An all-reduce over all GPUs; where it is slow, what was measured of the wires says why, and of more than two nodes which one."""
        wanted = self.facts.inventory.expect.all_reduce is not False
        found = all_reduce(self.nodes, self.facts, record=self._record) if wanted else Missing("expect.all_reduce is false")
        two_at_a_time = partial(pairs_of, self.nodes, self.facts, self._record)
        return judge_all_reduce(self.facts, found, two_at_a_time, self.session.shared.value(WIRED(self.label)), self.singles)


def _part(rail: RailView) -> str:
    """A rail as a part of a file name."""
    return f"{rail.view.name}-{rail.index}"
