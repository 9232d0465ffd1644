"""The serving cluster as tests use it: the endpoint, its NCCL job, the request whose bytes are counted. No pytest in here."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pytest_h20.checks.rdma import kv, traffic
from pytest_h20.checks.rdma.proof import NodeLog, job_of
from pytest_h20.cluster import regular
from pytest_h20.cluster.bringup import reachable_url
from pytest_h20.cluster.http import ask
from pytest_h20.cluster.launch import LaunchTarget
from pytest_h20.cluster.shared import key
from pytest_h20.cluster.state import ClusterState
from pytest_h20.core.errors import MeasurementError
from pytest_h20.core.verdict import Verdict
from pytest_h20.diagnosis.kv_transfer import read_kv
from pytest_h20.endpoint.context import EndpointContext
from pytest_h20.nccl import Job, parse_log
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import unrecorded
from pytest_h20.probes.counters import COUNTERS, CounterSnapshot
from pytest_h20.probes.gather import ask as ask_probes
from pytest_h20.probes.log_owners import LOG_OWNERS, Claim, LogOwners, log_owners
from pytest_h20.probes.model_shape import ModelShape, shape_of
from pytest_h20.probes.script import Missing, build, split
from pytest_h20.run.bringup import attach_headers, attach_url, servers_behind
from pytest_h20.run.facts import published_facts
from pytest_h20.run.inputs import KeptLogs, keep
from pytest_h20.run.settings import Session
from pytest_h20.run.store import COUNTED, DIED, NCCL_JOB

if TYPE_CHECKING:
    import openai

COUNTED_INPUT, COUNTED_OUTPUT = 256, 256
"""Tokens of the request whose bytes are counted: with DeepSeek-R1 at TP16 about 1.7 GB per node, far above background traffic."""
COMPRESSED_PATIENCE = 0.5
"""Where time runs faster, waiting as long as for a real engine would only be waiting."""


@dataclass(frozen=True)
class Endpoint:
    """The API of a cluster that is up, as this process reaches it."""

    session: Session
    label: str
    target: LaunchTarget
    cluster: ClusterState
    url: str
    headers: Mapping[str, str]

    @property
    def model(self) -> str:
        """The model id to put into requests."""
        return self.cluster.model

    @property
    def version(self) -> str:
        """The engine's version as the image (or the attached server, or the inventory for it) tells it."""
        return self.cluster.versions.engine

    @property
    def ctx(self) -> EndpointContext:
        """What the endpoint's checks must know."""
        profile = self.target.profile
        return EndpointContext(
            base_url=self.url,
            engine="sglang" if self.target.engine == "sglang" else "vllm",
            version=self.version or "0",
            model_id=self.model,
            max_model_len=profile.max_model_len,
            headers=dict(self.headers),
            worker_health_urls=self._worker_urls(),
            reasoning_parser=profile.reasoning_parser is not None,
            tool_parser=profile.tool_parser is not None,
            parser_name=profile.reasoning_parser or "",
            thinking_switch=self.session.inventory.model.thinking_switch,
            deadline_s=self.session.inventory.endpoint.deadline,
            answer_tokens=self.session.inventory.endpoint.answer_tokens,
            time_scale=1.0 if self.session.clock.scale == 1.0 else COMPRESSED_PATIENCE,
            evidence=lambda name, data: self.session.folder.evidence(f"endpoint/{key(self.label)}/{name}", data),
            servers=servers_behind(self.session) if self.cluster.attached else (),
            unmeasured_ok=self.session.inventory.expect.unmeasured_ok,
            ended_file=self.ended_file,
        )

    @property
    def ended_file(self) -> str:
        """It appears once any process of this run has seen that the engine ended: whoever waits for an answer waits no longer."""
        return str(self.session.shared.path(DIED(self.label)))

    def _worker_urls(self) -> dict[str, str]:
        urls = {}
        for name, url in self.cluster.worker_health_urls.items():
            spec = next(n for n in self.target.nodes if n.name == name)
            urls[name] = reachable_url(url, spec.engine_ip, self.target.profile.http_port, self.session.nodes[name])
        return urls

    def openai(self) -> openai.OpenAI:
        """An OpenAI client for this endpoint."""
        import openai

        key_text = self.headers.get("Authorization", "Bearer none").removeprefix("Bearer ")
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key_text, max_retries=0, timeout=self.ctx.seconds())

    def one_request(self, input_len: int, output_len: int, timeout: float) -> int:
        """One completion of exactly this many tokens in and out. Returns the tokens counted by the server."""
        vocabulary = vocabulary_of(self.target)
        import random

        # New ones in every run: a prompt that an engine has in its prefix cache moves no bytes.
        ids = random.Random(f"{self.session.seed} counted {input_len}").choices(range(vocabulary.low, vocabulary.high), k=input_len)
        ids = [i for i in ids if i not in vocabulary.special] or [vocabulary.low + 1]
        body = {
            "model": self.model,
            "prompt": (ids * input_len)[:input_len],
            "max_tokens": output_len,
            "temperature": 0,
            "ignore_eos": True,
        }
        answer = ask(self.url, "/v1/completions", body=body, headers=dict(self.headers), timeout=timeout, ended_file=self.ended_file)
        data = answer.json()
        if answer.status != 200 or not isinstance(data, dict):
            raise MeasurementError(f"the counted request was answered with {answer.status}: {answer.body[:200]!r}")
        usage = data.get("usage") or {}
        return int(usage.get("prompt_tokens") or 0) + int(usage.get("completion_tokens") or 0)

    def counted_request(self, job: Job) -> traffic.Traffic:
        """Rail counters of all nodes around one request of fixed size; made once per run, alone on the endpoint."""
        return self.session.shared.once(COUNTED(self.label), lambda: self._counted_request(job))

    def _counted_request(self, job: Job) -> traffic.Traffic:
        nodes = [n.name for n in self.target.nodes]
        rails = max(len(n.rails) for n in self.target.nodes)
        timeout = max(self.ctx.seconds(4), COUNTED_OUTPUT * 1.0)
        with self.session.shared.exclusive("traffic"):
            self.one_request(16, 8, timeout)  # lazy connections are made at the first collective
            before = self._snapshots(nodes, "before")
            tokens = self.one_request(COUNTED_INPUT, COUNTED_OUTPUT, timeout)
            after = self._snapshots(nodes, "after")
        expected = traffic.plan(tokens, rails, self._shape(), self.target.layout)
        request = f"one request of {COUNTED_INPUT} + {COUNTED_OUTPUT} tokens ({tokens} counted by the server)"
        moved = traffic.Traffic(before, after, tokens, expected, request)
        keep(self.session.folder, "traffic", self.label, moved)
        for record in traffic.rails_of(moved, job, self.target.nodes, self.label):
            self.session.folder.add(record)
        return moved

    def _shape(self) -> ModelShape | Missing:
        """The shape of the model that is served, from its config.json inside the head's container."""
        facts = published_facts(self.session, self.label)
        folder = None if facts is None else facts.probes.nodes[self.target.head.name].model_folder
        if folder is None or isinstance(folder, Missing):
            return folder or Missing("config.json was not read: the nodes were not probed in this run")
        return shape_of(folder.config)

    def _snapshots(self, nodes: Sequence[str], when: str) -> dict[str, CounterSnapshot | Missing]:
        def one(name: str) -> CounterSnapshot | Missing:
            text = self.session.nodes[name].run(build([COUNTERS]), timeout=60.0).stdout
            self.session.folder.evidence(f"counters/{key(self.label)}/{name}-{when}.txt", text)
            return COUNTERS.read(split(text))

        with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
            return dict(zip(nodes, pool.map(one, nodes), strict=True))


def vocabulary_of(target: LaunchTarget):  # type: ignore[no-untyped-def]
    """The ids random prompts may be made of."""
    from pytest_h20.load import Vocabulary

    model = target.inventory.model
    if model.special_ids_from is not None:
        return Vocabulary(3, model.special_ids_from)
    if model.kind == "deepseek-r1":
        return Vocabulary.deepseek_r1()
    return Vocabulary.of_size(model.vocab_size)


def endpoint_of(session: Session, label: str, cluster: ClusterState) -> Endpoint:
    """The endpoint of a cluster: directly, or through a tunnel where this process cannot reach it."""
    target = session.target(label)
    headers = attach_headers(session) if cluster.attached else {}
    if cluster.attached:
        url = attach_url(session)
    else:
        url = reachable_url(cluster.url, target.head.engine_ip, target.profile.http_port, session.nodes[target.head.name])
    return Endpoint(session, label, target, cluster, url, headers)


def nccl_job(session: Session, label: str, endpoint: Endpoint) -> Job:
    """The job as NCCL's logs of all serving processes tell it. A request is served first: connections are made lazily.

    The logs are read once per run; every worker judges the same text.
    """
    return session.shared.once(NCCL_JOB(label), lambda: _nccl_job(session, label, endpoint))


def _nccl_job(session: Session, label: str, endpoint: Endpoint) -> Job:
    target, cluster = endpoint.target, endpoint.cluster
    endpoint.one_request(16, 8, max(endpoint.ctx.seconds(2), 60.0))
    logs = []
    for node in target.nodes:
        for path, data in nccl_files(session, cluster, node.name):
            source = session.folder.evidence(f"nccl/{key(label)}/{node.name}/{path.rsplit('/', 1)[-1]}", data)
            logs.append(NodeLog(node.name, path, source, parse_log(data, source=source)))
    owners = None
    if cluster.attached:
        owners = {n.name: owners_of(session, label, n.name, [log.claim for log in logs if log.node == n.name]) for n in target.nodes}
    kept = KeptLogs(tuple((log.node, log.path, log.source) for log in logs), owners, trusted=not patterns(session))
    keep(session.folder, "nccl", label, kept)
    return job_of(target, logs, owners, kept.trusted)


def owners_of(session: Session, label: str, node: str, claims: Sequence[Claim]) -> LogOwners | Missing:
    """What a node tells of the processes that these logs name."""
    if not claims:
        return Missing("no log was found")
    facts, _ = ask_probes(session.nodes[node], [log_owners(claims)], session.folder.evidence, f"nccl-owners/{key(label)}/{node}")
    return cast("LogOwners | Missing", facts[LOG_OWNERS.name])


def patterns(session: Session) -> Mapping[str, str]:
    """Where the inventory says that the NCCL logs of an attached engine lie: a glob by node."""
    return session.inventory.attach.nccl_logs if session.inventory.attach else {}


def nccl_files(session: Session, cluster: ClusterState, node: str) -> list[tuple[str, bytes]]:
    """NCCL's files of one node, path and content: from where the inventory says (``attach.nccl_logs``), else from the folder of the
    run that started the engine, this one or one that was kept."""
    pattern = patterns(session).get(node, "")
    if not pattern and node in cluster.node_dirs:
        folder = cluster.node_dirs[node]
        return [(f"{folder}/{name}", data) for name, data in own_nccl_files(unrecorded(session.nodes[node]), folder)]
    if not pattern:
        return []
    return files_of(session, node, pattern, "nccl_logs")


def files_of(session: Session, node: str, pattern: str, field: str) -> list[tuple[str, bytes]]:
    """The files of a node that a glob of the inventory (``attach.FIELD``) names, path and content."""
    listing = session.nodes[node].run(f"ls -1d -- {glob_word(pattern)} 2>/dev/null || true", timeout=30.0).stdout.splitlines()
    try:
        return [(path, regular.read(session.nodes[node], path, 0, MOST_OF_A_LOG)) for path in listing]
    except FileNotFoundError as error:
        raise MeasurementError(
            f"{node}: attach.{field}: {error.filename} is a link, a pipe or something else that is no regular file, and anybody may have "
            "put it there: name the files themselves"
        ) from None


def kv_transfer(session: Session, label: str) -> Verdict | None:
    """What carries the KV cache of a prefill/decode split, by the logs that ``attach.kv_logs`` names; None: it names none.

    Both sides together: what one opened and the other did not is no proof.
    """
    attach = session.inventory.attach
    if attach is None or not attach.kv_logs:
        return None
    logs, kept = [], []
    for node, pattern in attach.kv_logs.items():
        for path, data in files_of(session, node, pattern, "kv_logs"):
            kept.append(session.folder.evidence(f"kv/{key(label)}/{node}/{path.rsplit('/', 1)[-1]}", data))
            logs.append((f"{node}:{path}", data.decode("utf-8", "replace")))
    silent = [node for node in attach.kv_logs if not any(source.startswith(f"{node}:") for source, _ in logs)]
    found = read_kv(logs)
    if silent and found.verdict == "rdma_proven":
        found.verdict, found.reason = "undetermined", f"no log was found on {', '.join(silent)}: one side alone proves nothing"
        found.advice = "correct attach.kv_logs of that node"
    return kv.judged(found, len(logs), "cluster", tuple(kept))


MOST_OF_A_LOG = 64 << 20
"""Bytes of one NCCL log that are read: with INFO of 16 ranks it has some hundred KiB."""


def own_nccl_files(node: Node, folder: str) -> list[tuple[str, bytes]]:
    """NCCL's files in the folder of a run of ours. Containers write there: links and pipes are left alone, and a file is bounded."""
    found = []
    for name in regular.names(node, folder, "nccl.*"):
        with contextlib.suppress(FileNotFoundError):
            found.append((name, regular.read(node, f"{folder}/{name}", 0, MOST_OF_A_LOG)))
    return found


def glob_word(pattern: str) -> str:
    """A glob as one word for a shell: only ``*``, ``?`` and ``[...]`` mean something in it."""
    return "".join(part if part in ("*", "?", "[", "]") else shlex.quote(part) for part in re.split(r"([*?\[\]])", pattern) if part)
