"""One run: what was asked for, resolved and checked, before any machine is touched. No pytest in here."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pytest_h20.cluster.clock import Clock
from pytest_h20.cluster.drills import drill_named
from pytest_h20.cluster.launch import LaunchTarget, started_by
from pytest_h20.cluster.ledger import Ledger, LedgerNode, Owner
from pytest_h20.cluster.shared import Shared
from pytest_h20.config.inventory import Attach, Inventory, load_inventory, parse_inventory, with_limits
from pytest_h20.core.errors import UsageError, instead
from pytest_h20.core.setting import BY_DEST, OPTIONS, Setting
from pytest_h20.core.verdict import ALWAYS, ON_REQUEST, GateName
from pytest_h20.load.plan import Slo
from pytest_h20.nodes import Node
from pytest_h20.nodes.recording import RecordingNode
from pytest_h20.report.model import Mode, NodeBrief
from pytest_h20.report.run import RunFolder
from pytest_h20.run import slurm
from pytest_h20.run.attached_server import Served, refuse_no_url
from pytest_h20.run.conditions import conditions, obstacles
from pytest_h20.run.nodes import connect_all, refuse_unusable_settings

if TYPE_CHECKING:
    from pytest_h20.config.limits import LimitFile
    from pytest_h20.rehearsal import Rehearsal

ATTACH_GATES = (GateName.ENDPOINT, GateName.REASONING, GateName.ANSWERS, GateName.THROUGHPUT)
"""What can be judged of a bare URL."""
DEFAULT_RUNS = "h20-runs"
NO_INVENTORY = "attached without an inventory: there is no machine to look at; give --nodes=INVENTORY as well"


@dataclass(frozen=True)
class Settings:
    """What was asked for: a field for every option of ``core/setting.OPTIONS``, by its name without ``h20_``. Made once in a process.

    ``origins``: of those that were given, the field and where from, ``option`` or ``ini``.
    """

    nodes: str = ""
    engine: tuple[str, ...] = ()
    hosts_from_slurm: bool = False
    run_dir: str = DEFAULT_RUNS
    attach: str = ""
    plan: bool = False
    replay: str = ""
    limits: str | None = None
    keep: bool = False
    force: bool = False
    weights: str | None = None
    rehash: bool = False
    burn: str | None = None
    load: str = "own"
    load_recipe: str | None = None
    load_from: str | None = None
    load_crosscheck: bool = False
    slo: str | None = None
    accuracy: str | None = None
    soak: str | None = None
    drill: tuple[str, ...] = ()
    calibrate: str | None = None
    repeats: int = 5
    seed: int | None = None
    fault: tuple[str, ...] = ()
    serve: int | None = None
    history: str | None = None
    lang: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, resolved: Mapping[str, Setting]) -> Settings:
        """From the resolved options by ini name, ``h20_nodes``. Raises ``UsageError`` for a word or number that is none."""
        _known_words(resolved)
        given = {name.removeprefix("h20_"): setting for name, setting in resolved.items() if setting}
        values = {name: setting.value for name, setting in given.items()}
        for name, number in (("seed", seed_asked), ("repeats", repeats_asked), ("slo", slo_asked), ("serve", serve_asked)):
            if name in values:
                values[name] = number(values[name])
        soak_hours(values.get("soak"))
        return cls(**values, origins={name: setting.origin for name, setting in given.items()})

    def given(self) -> Iterator[tuple[str, str, str]]:
        """What was given, as people read it: option (``h20-nodes``), text, origin; in the order of the documentation."""
        for option in OPTIONS:
            name = option.dest.removeprefix("h20_")
            if name in self.origins:
                value = getattr(self, name)
                yield option.name, ", ".join(value) if isinstance(value, tuple) else str(value), self.origins[name]


@dataclass
class Session:
    """Everything a run knows. Built the same way in the controller and in every xdist worker.

    ``left_out``: gates this run does not look at, with the reason; their tests are skipped with it.
    """

    settings: Settings
    inventory: Inventory
    source: str
    targets: tuple[LaunchTarget, ...]
    mode: Mode
    required: tuple[GateName, ...]
    cannot_accept: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    left_out: Mapping[GateName, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    rehearsal: Rehearsal | None = None
    worker: str = ""
    run: RunFolder | None = None
    run_id: str = ""
    _nodes: dict[str, Node] | None = None
    _limits: dict[str, LimitFile | None] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        """The run folder. Only inside a run that collects and runs tests."""
        if self.run is None:
            raise UsageError("this run has no run folder: nothing is executed")
        return self.run

    @property
    def place(self) -> str:
        """What ``pytest_h20 reap --nodes`` is given to find this run's machines."""
        return self.source + (" --hosts-from-slurm" if self.settings.hosts_from_slurm else "")

    @cached_property
    def shared(self) -> Shared:
        """Results and locks shared by the processes of this run. One object, for it reads what was told only once."""
        return Shared(self.folder.path / ".shared")

    def target(self, label: str) -> LaunchTarget:
        """A target by its label, ``sglang`` or ``sglang:tuned``."""
        return next(t for t in self.targets if label_of(t, self.targets) == label)

    def limits_of(self, label: str) -> LimitFile | None:
        """The limits file of a target, or None. That it fits was seen when the session was built."""
        if label not in self._limits:
            from pytest_h20.config.limits import load_limits

            source = self.target(label).profile.limits
            self._limits[label] = load_limits(Path(source)) if source else None
        return self._limits[label]

    @property
    def labels(self) -> tuple[str, ...]:
        """The targets as the user names them."""
        return tuple(label_of(t, self.targets) for t in self.targets)

    @property
    def nodes(self) -> dict[str, Node]:
        """Connected nodes of this process, their traffic recorded as evidence."""
        if self._nodes is None:
            found: dict[str, Node] = dict(self.rehearsal.nodes()) if self.rehearsal is not None else connect_all(self.inventory)
            if self.run is not None:
                found = {name: self._written_down(node) for name, node in found.items()}
            self._nodes = found
        return self._nodes

    def _written_down(self, node: Node) -> Node:
        """The node with its ledger below and, where it is real, its recorder above."""
        shared = self.shared
        ledger = Ledger(
            node,
            self.inventory.run_dir_on_node,
            self.run_id,
            self.owner,
            opened=lambda name: shared.mark(f"opened-{name}"),
            writing=shared.launching if self.worker else nullcontext,
            wait=self.clock.sleep,
        )
        noted: Any = LedgerNode(node, ledger, shared.launching, mark=self.rehearsal is None)
        return noted if self.rehearsal is not None else cast("Node", RecordingNode(noted, self._sink))

    @property
    def owner(self) -> Owner:
        """The controller: while it lives, the run does."""
        from pytest_h20.run.store import OWNER

        return self.shared.value(OWNER) or Owner.me(started_by())

    def _sink(self, name: str, data: bytes) -> str:
        return self.folder.evidence(name, data)

    def close(self) -> None:
        """End all connections of this process."""
        for node in (self._nodes or {}).values():
            node.close()
        self._nodes = None

    @property
    def seed(self) -> int:
        """Of this run's prompts: the inventory's ``load.seed`` mixed with the run's id, so that an engine that outlives a run (kept,
        attached) never has the next run's prompts in its prefix cache. ``--h20-seed`` repeats those of an earlier run."""
        if self.settings.seed is not None:
            return self.settings.seed
        mixed = hashlib.sha256(f"{self.inventory.load.seed} {self.run_id}".encode()).digest()
        return int.from_bytes(mixed[:4], "big") >> 1


def label_of(target: LaunchTarget, targets: Sequence[LaunchTarget]) -> str:
    """``sglang``, or ``sglang:tuned`` when two profiles of one engine take part."""
    same = [t for t in targets if t.engine == target.engine]
    return target.engine if len(same) == 1 else f"{target.engine}:{target.profile_name}"


def build(
    settings: Settings,
    worker: str = "",
    change: Callable[[Inventory], Inventory] = lambda inventory: inventory,
    state_dir: Path | None = None,
    served: Served | None = None,
) -> Session:
    """Resolve the options into a session. Raises ``UsageError`` for anything that cannot be used. Touches no network.

    ``state_dir``: where a rehearsal keeps what its processes share. ``served``: what the endpoint of a bare ``--h20-attach`` told.
    """
    nodes = settings.nodes
    attach = settings.attach
    rehearsal = None
    clock = Clock()
    cannot: list[str] = []
    if settings.hosts_from_slurm and (not nodes or nodes.partition(":")[0] == "rehearsal"):
        raise UsageError(
            "--h20-hosts-from-slurm: Slurm names machines and no more; give --nodes=INVENTORY with the model, the engines and the rails of "
            "such a machine (`python -m pytest_h20 discover --hosts-from-slurm > INVENTORY` writes one, in the job)"
        )
    if nodes and (nodes == "rehearsal" or nodes.startswith("rehearsal:")):
        from pytest_h20.rehearsal import Rehearsal

        rehearsal = Rehearsal.load(nodes.partition(":")[2], settings.fault, state_dir)
        inventory, clock = rehearsal.inventory, Clock(rehearsal.time_scale)
    elif settings.fault:
        raise UsageError("--h20-fault: faults can only be injected into the rehearsal; use --nodes=rehearsal")
    elif nodes:
        inventory = load_inventory(Path(nodes))
        if settings.hosts_from_slurm:
            inventory = slurm.with_hosts(inventory, slurm.hosts())
    else:
        inventory = attach_inventory(attach, settings.engine, served)
        cannot.append("attached without an inventory: machines, fabric, weights and RDMA were not looked at")
    inventory = as_real_as_it_was(inventory, change(inventory))
    if nodes and rehearsal is None:
        refuse_unusable_settings(inventory)
    if settings.limits:
        limits = str(Path(settings.limits).resolve())
        inventory = with_limits(inventory, lambda *_: limits)
        if not nodes:
            inventory = cells_from_limits(inventory, limits)
    targets = select(inventory, settings.engine)
    if attach:
        refuse_no_url(attach)
    if rehearsal is not None and (attach or settings.keep):
        raise UsageError(
            f"--h20-{'attach' if attach else 'keep'}: the rehearsal's cluster lives and ends with its run; give the inventory of machines"
        )
    if attach:
        known = inventory.attach or Attach(url=attach)
        inventory = inventory.model_copy(update={"attach": known.model_copy(update={"url": attach})})
        targets = tuple(replace(t, inventory=inventory) for t in targets)
    if attach or inventory.attach:
        url = attach or (inventory.attach.url if inventory.attach else "")
        if len(targets) > 1:
            raise UsageError(f"--h20-attach={url}: one endpoint is one engine; give --engine once")
    if settings.weights in ("fast", "full"):
        inventory = with_expect(inventory, weights_full=settings.weights == "full")
        targets = tuple(replace(t, inventory=inventory) for t in targets)
    if settings.rehash:
        if not any(inventory.expect_of(n).weights_full for n in inventory.nodes):
            raise UsageError("--h20-rehash: no file is hashed in this run; add --h20-weights=full, or expect.weights_full to the inventory")
        inventory = with_expect(inventory, weights_cache_max_days=0.0)
        targets = tuple(replace(t, inventory=inventory) for t in targets)
    _numbers_that_fit(settings, targets)
    left_out: dict[GateName, str] = dict.fromkeys([g for g in ALWAYS if g not in ATTACH_GATES], NO_INVENTORY) if not nodes else {}
    asked_for = _asked_for(settings, inventory, attach)
    required = (*_required(inventory, bare=not nodes), *asked_for)
    if not nodes and not any(t.profile.reasoning_parser for t in targets):
        left_out[GateName.REASONING] = "this server does not split reasoning, and its model's name is not DeepSeek-R1's"
        required = tuple(g for g in required if g is not GateName.REASONING)
    if settings.weights == "skip":
        left_out.setdefault(GateName.WEIGHTS, "not looked at: --h20-weights=skip")
        required = tuple(g for g in required if g is not GateName.WEIGHTS)
        cannot.append("the weights were not looked at (--h20-weights=skip)")
    if why := _without_burn(settings.burn, inventory):
        left_out.setdefault(GateName.COMPUTE, why)
        required = tuple(g for g in required if g is not GateName.COMPUTE)
        cannot += [] if inventory.attach is not None else [f"the GPUs were not burned in ({why})"]
    if nodes and all(len(t.nodes) == 1 for t in targets):
        left_out.setdefault(GateName.RDMA, "one node: nothing crosses the network")
        required = tuple(g for g in required if g is not GateName.RDMA)
    _checks_that_are_made(targets, left_out)
    mode = {"rehearsal": Mode.REHEARSAL, "lab": Mode.LAB}.get(inventory.kind, Mode.ATTACH if inventory.attach else Mode.FULL)
    if nodes and inventory.attach:
        # The start of an engine that somebody else started was not seen; what can be seen of it is judged all the same.
        required = tuple(g for g in required if g is not GateName.BRINGUP)
        cannot.append("attached to an engine that ran already: its bring-up was not seen")
    soak = soak_hours(settings.soak)
    if soak and (attach or inventory.attach):
        left_out |= dict.fromkeys(
            [g for g in required if g not in ON_REQUEST], "--h20-soak on an attached cluster: nothing else is looked at"
        )
        required = asked_for
        cannot.append("only the soak of an attached cluster was asked for")
    if any(inventory.load_of(t.profile).limit == "none" for t in targets):
        cannot.append("throughput was recorded without limits (load.limit: none)")
    if settings.load != "own":
        cannot.append(f"the load was sent by {settings.load}, whose own error is not known")
    if settings.calibrate:
        cannot.append("this run calibrated limits instead of judging by them")
    if inventory.gates is not None and not {g.value for g in ALWAYS} <= set(inventory.gates):
        cannot.append("the inventory requires only the gates " + ", ".join(inventory.gates))
    cannot += obstacles(inventory)
    return Session(
        settings=settings,
        inventory=inventory,
        source=nodes or attach,
        targets=targets,
        mode=mode,
        required=required,
        cannot_accept=tuple(cannot),
        conditions=tuple(dict.fromkeys(conditions(inventory, [t.profile for t in targets]))),
        left_out=left_out,
        clock=clock,
        rehearsal=rehearsal,
        worker=worker,
    )


def _without_burn(asked: str | None, inventory: Inventory) -> str:
    """Why the GPUs are not burned in by this run; "" when they are. Raises ``UsageError`` when it was asked for and cannot be."""
    if inventory.attach is not None:
        if asked and asked != "off":
            raise UsageError(f"--h20-burn={asked}: it needs idle GPUs, and an engine that somebody uses runs there; leave it out")
        return "attached: it would disturb the engine that runs"
    if asked == "off":
        return "--h20-burn=off"
    return "" if asked or inventory.kind != "lab" else "a lab's GPUs are burned in with --h20-burn=fast only"


def as_real_as_it_was(read: Inventory, changed: Inventory) -> Inventory:
    """What a run is, the session decides: a hook may say that more is stood in than the inventory says, never less."""
    order = ("rehearsal", "lab", "hardware")
    kind = min(read.kind, changed.kind, key=order.index)
    return changed.model_copy(update={"kind": kind, "stood_in": tuple(dict.fromkeys((*read.stood_in, *changed.stood_in)))})


def _known_words(settings: Mapping[str, Setting]) -> None:
    """The command line checks its choices itself; an ini file does not."""
    for name, setting in settings.items():
        choices = BY_DEST[name].choices if name in BY_DEST else None
        if choices and setting and setting.value not in choices:
            raise UsageError(f"{name} = {setting.value} (from {setting.origin}): choose from {', '.join(choices)}")


def with_expect(inventory: Inventory, **change: object) -> Inventory:
    """The inventory with these expectations set for every node: an option wins over the file."""
    nodes = tuple(n if n.expect is None else n.model_copy(update={"expect": n.expect.model_copy(update=change)}) for n in inventory.nodes)
    return inventory.model_copy(update={"expect": inventory.expect.model_copy(update=change), "nodes": nodes})


def _numbers_that_fit(settings: Settings, targets: Sequence[LaunchTarget]) -> None:
    """What would only be found wrong after hours: limits that do not fit the cells, a number of repeats, a node's name, a file."""
    from pytest_h20.config.cells import cells_of
    from pytest_h20.config.limits import load_limits, require_coverage, require_fit

    for target in targets:
        source, load = target.profile.limits, target.inventory.load_of(target.profile)
        limits = load_limits(Path(source)) if source else None
        judged = target.inventory.gates is None or GateName.THROUGHPUT.value in target.inventory.gates
        if limits is None and settings.nodes and load.limit == "all" and judged and not settings.calibrate:
            raise UsageError(
                f"engines.{target.engine}.profiles.{target.profile_name}: names no limits file, so its throughput could not be judged: "
                "give `limits: FILE` there or --h20-limits=FILE; measure one with --h20-calibrate=FILE, or record without judging with "
                "`load: {limit: none}`"
            )
        if limits is not None:
            model = target.inventory.model
            require_fit(
                limits,
                str(source),
                engine=target.engine,
                profile=target.profile_name if settings.nodes else "",  # of a bare URL nobody knows how it was launched
                model=(model.kind, model.served_name or "", model.path),
                kind=target.inventory.kind,
            )
        if limits is not None and load.limit == "all" and not settings.calibrate:
            require_coverage([c.id for c in cells_of(load)], limits, str(source))
    if settings.calibrate:
        path = Path(settings.calibrate).resolve()
        if not path.parent.is_dir() or path.is_dir():
            raise UsageError(f"--h20-calibrate={settings.calibrate}: a file in a folder that exists is needed")
    elif "repeats" in settings.origins:
        raise UsageError("--h20-repeats: only with --h20-calibrate=FILE; a run that judges measures every cell once")
    where = settings.load_from
    if where and not settings.nodes:
        raise UsageError(f"--h20-load-from={where}: needs --nodes=INVENTORY, to know the node")
    for target in targets if where else ():
        if where not in [n.name for n in target.nodes]:
            raise UsageError(f"--h20-load-from={where}: no such node; nodes are {', '.join(n.name for n in target.nodes)}")
    generator = settings.load
    inside = [
        name
        for name, on in (
            (f"--h20-load-from={where}", where),
            (f"--h20-load={generator}", generator != "own"),
            ("--h20-load-crosscheck", settings.load_crosscheck),
        )
        if on
    ]
    if inside and any(t.inventory.kind == "rehearsal" for t in targets):
        raise UsageError(f"{inside[0]}: runs a program in the engine's container, and the rehearsal's containers hold none")
    for target in targets if generator != "own" else ():
        if generator.partition("-")[0] != target.engine:
            raise UsageError(
                f"--h20-load={generator}: it runs in the container of {target.engine}, which has "
                f"{target.engine}-bench; give --h20-load={target.engine}-bench or --h20-load=own"
            )
    history = str(settings.history or "none")
    if history != "none":
        from pytest_h20.report.history import History

        if "://" not in history and Path(history).is_dir():
            raise UsageError(f"--h20-history={history}: is a folder; give a file for SQLite, a SQLAlchemy URL, or none")
        History(history)  # refuses a URL it cannot use; connects to nothing
    if settings.accuracy:
        _dataset_that_can_tell(settings.accuracy, any(t.inventory.kind == "rehearsal" for t in targets))


def _checks_that_are_made(targets: Sequence[LaunchTarget], left_out: Mapping[GateName, str]) -> None:
    """A limit of a check that this run never makes would be no limit."""
    from pytest_h20.config.limits import load_limits

    for source in dict.fromkeys(t.profile.limits for t in targets if t.profile.limits):
        for check in load_limits(Path(source)).checks_limited:
            why = left_out.get(GateName(check.partition(".")[0]))
            if why:
                raise UsageError(f"{source}: {check}: this run does not look at it ({why}); take the row out for such a run")


def _dataset_that_can_tell(path: str, rehearsed: bool) -> None:
    """A set so small that even all answers right miss the limit would be red whatever the engine says."""
    from pytest_h20.checks.endpoint.questions import DEFAULT_LOWER_BOUND, load_dataset, shipped
    from pytest_h20.endpoint.stats import wilson

    questions = load_dataset(path)
    n = len(questions)
    if wilson(n, n)[0] < DEFAULT_LOWER_BOUND:
        least = next(k for k in range(n, 1000) if wilson(k, k)[0] >= DEFAULT_LOWER_BOUND)
        raise UsageError(
            f"--h20-accuracy={path}: {n} questions are too few: all of them right shows {wilson(n, n)[0]:.0%} at least, and "
            f"{DEFAULT_LOWER_BOUND:.0%} is wanted; give {least} or more"
        )
    if rehearsed and {q.question for q in questions} - {q.question for q in shipped()}:
        raise UsageError(f"--h20-accuracy={path}: the rehearsal can only answer the questions of pytest_h20/endpoint/data/answers.jsonl")


def seed_asked(value: object) -> int:
    """``--h20-seed``. Raises ``UsageError`` for what is no whole number from 0."""
    text = str(value)
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UsageError(f"--h20-seed={text}: a whole number from 0 is needed; an earlier run's stands in its load/ENGINE/*.json")
    return int(text)


def soak_hours(value: object) -> float | None:
    """``--h20-soak``: hours; None when it was not given. Raises ``UsageError`` for what is no time, and below a minute or above a week."""
    if value is None:
        return None
    found = re.fullmatch(r"(?=.)(?:(\d{1,3})h)?(?:(\d{1,5})m)?(?:(\d{1,6})s)?", str(value))
    hours = sum(int(n or 0) / per for n, per in zip(found.groups(), (1, 60, 3600), strict=True)) if found else 0.0
    if not 1 / 60 <= hours <= 168:
        raise UsageError(f"--h20-soak={value}: a time from 1m to 168h is needed, such as 20m, 1h, 1h30m or 24h")
    return hours


def serve_asked(value: object) -> int:
    """``--h20-serve``. Raises ``UsageError`` for what is no port."""
    from pytest_h20.report.live.serve import port_asked

    return port_asked(value, "--h20-serve")


def slo_asked(value: object) -> str:
    """``--h20-slo``, as it was given. Raises ``UsageError`` for what is no service level."""
    try:
        Slo.parse(str(value))
    except UsageError as error:
        raise UsageError(f"--h20-slo={value}: {error}") from None
    return str(value)


def repeats_asked(value: object) -> int:
    """``--h20-repeats``. Raises ``UsageError`` for what is no whole number from 3."""
    text = str(value)
    if not text.isdigit() or int(text) < 3:
        raise UsageError(f"--h20-repeats={text}: a whole number from 3 is needed, to know the spread")
    return int(text)


def _required(inventory: Inventory, bare: bool) -> tuple[GateName, ...]:
    if bare:
        return ATTACH_GATES
    if inventory.gates is None:
        return ALWAYS
    asked = next((g for g in inventory.gates if g in [x.value for x in ON_REQUEST]), None)
    if asked is not None:
        raise UsageError(f"gates: {asked!r} is judged by every run that asks for it (--h20-{asked}) and by no other; leave it out")
    known = [g.value for g in GateName if g not in ON_REQUEST]
    unknown = next((g for g in inventory.gates if g not in known), None)
    if unknown is not None:
        raise UsageError(f"{inventory.name}: gates: {unknown!r} is no gate{instead(unknown, known)}")
    return tuple(GateName(g) for g in inventory.gates)


def _asked_for(settings: Settings, inventory: Inventory, attach: object) -> tuple[GateName, ...]:
    """Gates of ``ON_REQUEST`` that this run judges. Raises ``UsageError`` for a drill that does not exist or may not be made here."""
    drills, soak = settings.drill, (GateName.SOAK,) if settings.soak else ()
    if not drills:
        return soak
    for number, name in enumerate(drills):
        drill_named(name)
        if name in drills[:number]:
            raise UsageError(f"--h20-drill={name}: is given twice")
    if attach or inventory.attach:
        raise UsageError(
            f"--h20-drill={drills[0]}: this cluster was started by somebody else, and a drill breaks it and starts it again; "
            "leave out --h20-attach (and `attach:` in the inventory), so that the run starts an engine of its own"
        )
    if inventory.drills != "allowed":
        raise UsageError(
            f"--h20-drill={drills[0]}: inventory {inventory.name} does not say that this cluster may be broken; when nobody else uses its "
            "machines, write at its top level\n  drills: allowed"
        )
    return (*soak, GateName.DRILL)


def select(inventory: Inventory, asked: Sequence[str]) -> tuple[LaunchTarget, ...]:
    """The targets asked for; without ``--engine`` the inventory's only engine."""
    if not asked:
        if len(inventory.engines) > 1:
            raise UsageError(
                f"--engine is missing: the inventory has {', '.join(sorted(inventory.engines))}; give --engine=ENGINE[:PROFILE]"
            )
        asked = tuple(inventory.engines)
    targets = tuple(LaunchTarget(inventory, *inventory.engine_profile(text)) for text in asked)
    names = [f"{t.engine}:{t.profile_name}" for t in targets]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--engine: {name} is given twice; give two engines or two profiles to compare them")
    return targets


def attach_inventory(url: str, engines: Sequence[str], served: Served | None) -> Inventory:
    """An inventory for a bare URL: one machine nothing is known about, and the model that ``served`` tells (None: not asked)."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--h20-attach={url}: give a URL such as http://10.63.65.207:8000")
    if not engines:
        raise UsageError("--h20-attach: --engine=vllm or --engine=sglang is needed, to know which API dialect is spoken")
    served = served or Served(model="not-asked")
    engine = engines[0].partition(":")[0]
    port = parts.port or (443 if parts.scheme == "https" else 80)
    mount = str(Path(served.model).parent) if served.model.startswith("/") else "/unknown"
    profile: dict[str, object] = {"image": "unknown", "http_port": port, "tensor_parallel": 1}
    if served.max_model_len is not None:
        profile["max_model_len"] = served.max_model_len
    if served.splits_reasoning:
        profile["reasoning_parser"] = "as served"
    return parse_inventory(
        {
            "name": "attached",
            "nodes": [{"name": "endpoint", "address": parts.hostname, "transport": "local", "control_interface": "unknown"}],
            "model": {
                "host_path": mount,
                "mount": mount,
                "path": served.model,
                "served_name": served.model,
                "kind": "other",
                # Nobody tells the size of the vocabulary, and an id outside of it ends SGLang: these every tokenizer has.
                "vocab_size": 2000,
                "special_ids_from": 2000,
            },
            "engines": {engine: {"default": "attached", "profiles": {"attached": profile}}},
            "attach": {"url": url},
        },
        f"--h20-attach={url}",
    )


def cells_from_limits(inventory: Inventory, path: str) -> Inventory:
    """A bare endpoint has no ``load:`` of its own: what is judged is what is measured."""
    from pytest_h20.config.limits import load_limits

    rows = load_limits(Path(path)).cells
    if not rows:
        return inventory
    cells = {
        "concurrency": tuple(dict.fromkeys(r.concurrency for r in rows)),
        "lengths": tuple(dict.fromkeys((r.input, r.output) for r in rows)),
    }
    return inventory.model_copy(update={"load": inventory.load.model_copy(update=cells)})


def create_run(session: Session, base: Path, command_line: str) -> RunFolder:
    """Make the run folder, on the controller."""
    inventory = session.inventory
    settings = {name.replace("-", "_"): f"{text} (from {origin})" for name, text, origin in session.settings.given()}
    from pytest_h20.run.inputs import keep_targets

    run = RunFolder.create(
        base,
        session.labels,
        inventory.name,
        session.mode,
        redactor=redactor_of(inventory),
        nodes=tuple(NodeBrief(name=n.name, address=n.address) for n in inventory.nodes),
        images={session.labels[i]: t.profile.image for i, t in enumerate(session.targets)},
        model=inventory.model.path,
        inventory=session.source,
        limits=", ".join(filter(None, (str(t.profile.limits or "") for t in session.targets))),
        required=session.required,
        settings=settings,
        stood_in=inventory.stood_in,
        time_scale=session.clock.scale,
        cannot_accept=session.cannot_accept,
        conditions=session.conditions,
        command_line=command_line,
    )
    keep_targets(run, inventory, dict(zip(session.labels, session.targets, strict=True)))
    return run


def redactor_of(inventory: Inventory) -> Any:
    """The project's redaction with the inventory's own patterns and the secrets it names."""
    from pytest_h20.core.redact import Redactor, known_secrets

    secrets = set(known_secrets(os.environ, shortest=12))  # somebody else's: a short one may be an ordinary word
    secrets |= set(known_secrets(inventory.model_dump(mode="json")))
    if inventory.attach and inventory.attach.api_key_env:
        secrets.add(os.environ.get(inventory.attach.api_key_env, ""))
    return Redactor(patterns=inventory.redact, secrets=sorted(filter(None, secrets)))


def digest(path: str) -> str:
    """SHA-256 of a file, or empty when it is none."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def text_digest(text: str) -> str:
    """SHA-256 of a text, for an inventory that is no file (the rehearsal's, an attached endpoint's)."""
    return hashlib.sha256(text.encode()).hexdigest()


def with_run(session: Session, run: RunFolder, run_id: str) -> Session:
    """The session with its run folder. The first process is its owner: the controller."""
    session = replace(session, run=run, run_id=run_id)
    from pytest_h20.run.store import OWNER

    session.shared.once(OWNER, lambda: Owner.me(started_by()))
    return session
