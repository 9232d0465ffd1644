"""Gate ``weights``: pure judgement of what the agent found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from pytest_h20.checks.frame import Say, builtin
from pytest_h20.checks.weights.facts import FastFacts, FullFacts, Short, WeightFacts
from pytest_h20.checks.weights.published import config_problems, published, revision_of, tokenizer_problems
from pytest_h20.config.inventory import Inventory
from pytest_h20.core.verdict import Limit, Origin, Verdict
from pytest_h20.probes.script import Follows, Missing

READABLE = "weights.readable"
IDS = {
    READABLE: "The model's folder was examined on this node",
    "weights.names": "All shards are there",
    "weights.sizes": "Every shard is as long as its header says",
    "weights.headers": "Shard headers are valid",
    "weights.index": "Index and headers agree",
    "weights.shapes": "Tensors are what config.json implies",
    "weights.total": "The sum of the tensors is right",
    "weights.blocks": "The shards hold data",
    "weights.model": "Config and tokenizer are the published model's",
    "weights.leftovers": "No unfinished download",
    "weights.small_files": "The small files are there",
    "weights.equal": "The weights are the same on every node",
    "weights.sha256": "Every file's SHA-256 is right",
}

BROKEN = {"size": "weights.sizes", "header": "weights.headers"}
"""What is wrong with a shard -> the check that tells it."""

HOLLOW = 0.25
"""Part of the blocks looked at that may hold nothing but zeros."""

MOST = 8
"""So many names are typed one by one."""
_NUMBERED = re.compile(r"(.*?)(\d+)(-of-\d+\.safetensors)")

REPOSITORY = "deepseek-ai/DeepSeek-R1"
ONE_REVISION = "the shards and config.json are not of one model or revision: fetch the whole folder again, all of it from one revision"
NOT_THAT_MODEL = (
    "mend what the other checks of the weights say; if they all hold, it is another model or conversion: correct model.total_bytes, or "
    "fetch the model that the inventory means"
)


def refetch(facts: FastFacts, names: Iterable[str], peer: str = "", kind: str = "other") -> str:
    """The command that fetches these files again, by where the folder came from; else from a peer that has them.

    ``kind``: what the user says the model is. A command is given only for what the folder is known to be: files of another model, or
    into a folder that holds none, would do harm.
    """
    files = _typed(list(names))
    chosen = " ".join(files)
    if not facts.shards:
        return f"{facts.path} holds no model: give the folder that has config.json and *.safetensors"
    if peer and not facts.source.kind:
        there = f"{{{','.join(files)}}}" if len(files) > 1 else chosen
        return f"rsync -av --checksum {peer}:{facts.path}/{there} {facts.path}/"
    cached = re.search(r"/models--([^/]+?)--([^/]+)/snapshots/", facts.path + "/")
    repository = f"{cached[1]}/{cached[2]}" if cached else ""
    if not cached and kind == "deepseek-r1" and facts.model_type in ("", "deepseek_v3"):
        repository = REPOSITORY
    if not repository:
        return f"fetch {chosen or 'all files'} again from where {facts.path} came from"
    wanted = " ".join([repository, *files])
    if facts.source.kind == "modelscope":
        return f"modelscope download --model {wanted} --local_dir {facts.path}"
    revision = f" --revision {facts.source.revision}" if facts.source.revision else ""
    folder = f" --local-dir {facts.path}" if facts.source.kind != "huggingface-cache" else ""
    return f"hf download {wanted}{revision}{folder} --force-download"


def _typed(names: list[str]) -> list[str]:
    """Names as a shell takes them: numbers in a row as one word; none, which is all of the folder, where they are too many to type."""
    if row := _row(names):
        return [f"{row[0]}{{{row[1]}..{row[2]}}}{row[3]}"]
    return names if len(names) <= MOST else []


def _row(names: list[str]) -> tuple[str, str, str, str] | None:
    """What is before the numbers of shards that follow each other without a hole, the first, the last, and what is behind."""
    parts = [m for name in names if (m := _NUMBERED.fullmatch(name))]
    numbers = [int(m[2]) for m in parts]
    whole = len(parts) == len(names) > 2 and numbers == list(range(numbers[0], numbers[0] + len(names)))
    return (parts[0][1], parts[0][2], parts[-1][2], parts[0][3]) if whole else None


def missing_of(facts: FastFacts) -> list[str]:
    """Every shard that is not there."""
    first = _NUMBERED.fullmatch(facts.missing.first[0]) if facts.missing.first else None
    if not first:
        return [*facts.missing.first]
    there = {shard.name for shard in facts.shards}
    wanted = [f"{first[1]}{number:0{len(first[2])}}{first[3]}" for number in range(1, facts.total + 1)]
    return [name for name in wanted if name not in there]


def in_order(facts: FastFacts) -> bool:
    """Whether a fast look found nothing wrong with the shards of this folder: files can be fetched from it."""
    return not facts.missing.count and not any(s.problem or s.hollow for s in facts.shards)


class WeightsJudge:
    """The verdicts about the weights of all nodes."""

    def __init__(self, facts: WeightFacts, inventory: Inventory, silent: str = "") -> None:
        """``silent``: of nodes that were not asked because they do not answer, in words (`pytest_h20.checks.frame.silence`)."""
        self.facts, self.inventory, self.silent = facts, inventory, silent

    def say(self, check: str, node: str) -> Say:
        """What makes the verdicts of one check about one node."""
        kept = self.facts.evidence.get(node)
        expect = next((self.inventory.expect_of(n) for n in self.inventory.nodes if n.name == node), self.inventory.expect)
        return Say(check, IDS[check], node, (kept,) if kept else (), "", expect.unmeasured_ok)

    def refetch(self, facts: FastFacts, names: Iterable[str], node: str) -> str:
        """How to get these files of a node again."""
        return refetch(facts.model_copy(update={"path": self._folder(facts)}), names, self._peer(node), self.inventory.model.kind)

    def _folder(self, facts: FastFacts) -> str:
        """The folder as people on the host know it: what was looked at in a container has another name there."""
        model = self.inventory.model
        return model.on_host if facts.path == model.path else facts.path

    def _peer(self, node: str) -> str:
        """Another node whose shards are all in order: files can be fetched from it."""
        for name, f in self.facts.fast.items():
            if name != node and isinstance(f, FastFacts) and in_order(f):
                return self._address(name)
        return ""

    def _address(self, node: str) -> str:
        return next(n.address for n in self.inventory.nodes if n.name == node)

    def _told(self, node: str, files: Iterable[str]) -> tuple[list[str], Follows | None]:
        """Of what is wrong with files of a node: those that no other check tells of, and where the others are told. A shard that is not
        there, is cut short or has no header is one finding, however many checks it touches."""
        f = self.facts.fast.get(node)
        if not isinstance(f, FastFacts) or not f.shards:
            return [*files], None
        there = {s.name: s.kind for s in f.shards}
        left, told = list[str](), list[str]()
        for name in files:
            gone = name not in there and name.endswith(".safetensors") and f.missing.count and not f.extra.count
            check = "weights.names" if gone else BROKEN.get(there.get(name, ""), "")
            (told if check else left).append(check or name)
        return left, Follows("its shards are not whole", "", told[0], node) if told else None

    def node(self, node: str) -> list[Verdict]:
        """Every fast check of one node; of a folder without weights there is one thing to say."""
        f = self.facts.fast.get(node, Missing("the node was not asked"))
        if isinstance(f, Missing):
            return [self.say(READABLE, node).missing(f)]
        readable = self.readable(node, f)
        if not f.shards:
            return [readable]
        return [
            readable,
            self.names(node, f),
            self.sizes(node, f),
            self.headers(node, f),
            self.index(node, f),
            self.shapes(node, f),
            self.total(node, f),
            self.blocks(node, f),
            self.model(node, f),
            self.leftovers(node, f),
            self.small_files(node, f),
        ]

    def check(self, check: str, node: str) -> Verdict:
        """One fast check of one node, by id. Of a folder that could not be examined or is empty, ``weights.readable`` tells."""
        if self.silent and node not in self.facts.fast:
            return self.say(check, node).skip(self.silent)
        f = self.facts.fast.get(node, Missing("the node was not asked"))
        if check != READABLE and (isinstance(f, Missing) or not f.shards):
            return self.say(check, node).missing(Follows(str(f) if isinstance(f, Missing) else "no weights", "", READABLE, node))
        if isinstance(f, Missing):
            return self.say(check, node).missing(f)
        verdict: Verdict = getattr(self, check.split(".", 1)[1])(node, f)
        return verdict

    def readable(self, node: str, f: FastFacts) -> Verdict:
        """The folder holds at least one safetensors file."""
        details: dict[str, JsonValue] = {"where": self.facts.where.get(node, ""), "path": f.path, "seconds": f.seconds}
        limit = Limit(kind="min", value=1, unit="safetensors files", origin=builtin("a model needs weights"))
        action = "" if f.shards else self.refetch(f, (), node)
        return self.say(READABLE, node).judge(len(f.shards), limit, reason=f"{f.path} has none", action=action, details=details)

    def names(self, node: str, f: FastFacts) -> Verdict:
        """Names 1 … N without a hole (F46: 158 of 163 shards start, and answer garbage)."""
        say = self.say("weights.names", node)
        shards = self.inventory.model.shards
        if not f.total and len(f.shards) == 1 and not shards:
            return say.judge(1, Limit(kind="min", value=1, unit="shards", origin=builtin("one file without number")))
        if not f.total:
            return say.unknown(f"how many shards there must be is not known (names say {list(f.totals)})", "give model.shards")
        have = f.total - f.missing.count
        origin = Origin(kind="inventory", detail="model.shards") if shards else builtin("the number in the names")
        if f.extra.count:
            limit = Limit(kind="max", value=0, unit="foreign shards", origin=origin)
            return say.judge(f.extra.count, limit, reason=f"shards of another set: {f.extra}", action="remove what does not belong there")
        limit = Limit(kind="min", value=f.total, unit="shards", origin=origin)
        missing = missing_of(f)
        told = f"{missing[0]} … {missing[-1]}" if _row(missing) else f.missing
        action = self.refetch(f, missing, node)
        return say.judge(have, limit, reason=f"missing: {told}", action=action, details={"missing": [*missing]})

    def sizes(self, node: str, f: FastFacts) -> Verdict:
        """``8 + header + data == size`` for every shard; the first tensor beyond the end is named (F47, F48)."""
        say = self.say("weights.sizes", node)
        bad = [s for s in f.shards if s.kind == "size"]
        if not f.shards or all(s.kind == "header" for s in f.shards):
            return say.unknown("no shard has a readable header")
        told: list[JsonValue] = [f"{s.name}: {s.problem}" + (f", first bad tensor {s.first_bad}" if s.first_bad else "") for s in bad]
        limit = Limit(kind="max", value=0, unit="shards", origin=builtin("the format: 8 + header + data = file size"))
        action = self.refetch(f, [s.name for s in bad], node)
        return say.judge(len(bad), limit, reason="; ".join(map(str, told[:4])), action=action, details={"shards": told}, of=len(f.shards))

    def headers(self, node: str, f: FastFacts) -> Verdict:
        """Headers parse, offsets have neither gap nor overlap, no tensor is in two shards."""
        say = self.say("weights.headers", node)
        bad = [s for s in f.shards if s.kind == "header"]
        if not f.shards:
            return say.unknown("there is no shard")
        told: list[JsonValue] = [*(f"{s.name}: {s.problem}" for s in bad), *f.gaps.first, *f.duplicate.first]
        limit = Limit(kind="max", value=0, unit="problems", origin=builtin("the safetensors format"))
        wrong = len(bad) + f.gaps.count + f.duplicate.count
        action = self.refetch(f, [s.name for s in bad] or sorted({t.split(":")[0] for t in f.gaps.first}), node)
        if f.pointers.count:
            action = f"git -C {self._folder(f)} lfs pull"
        return say.judge(
            wrong, limit, reason="; ".join(map(str, told[:4])), action=action, details={"problems": told[:40]}, of=len(f.shards)
        )

    def index(self, node: str, f: FastFacts) -> Verdict:
        """Every tensor of the index is in the header of the shard it names, and the other way round."""
        say = self.say("weights.index", node)
        if f.index_error == "not there" and len(f.shards) == 1 and not f.total:
            return say.skip("one file needs no index")
        if f.index_error:
            limit = Limit(kind="equal", value="readable", origin=builtin("engines load by the index"))
            action = self.refetch(f, ["model.safetensors.index.json"], node)
            return say.judge(f.index_error, limit, reason=f"model.safetensors.index.json: {f.index_error}", action=action)
        parts: dict[str, Short] = {
            "files the index names that are not there": f.index_missing_files,
            "tensors the index places wrongly": f.index_only,
            "tensors not in the index": f.header_only,
        }
        wrong = sum(p.count for p in parts.values())
        left, follows = self._told(node, f.index_missing_files.first)
        if follows and not left and wrong == f.index_missing_files.count:
            return say.missing(follows)
        told = "; ".join(f"{what} ({p.count}): {p}" for what, p in parts.items() if p.count)
        details: dict[str, JsonValue] = {what: [*p.first] for what, p in parts.items() if p.count}
        limit = Limit(kind="max", value=0, unit="disagreements", origin=builtin("both describe the same tensors"))
        action = self.refetch(f, f.index_missing_files.first or ["model.safetensors.index.json"], node)
        return say.judge(wrong, limit, reason=told, action=action, details=details)

    def shapes(self, node: str, f: FastFacts) -> Verdict:
        """dtype and shape of every tensor as config.json implies, none missing, none foreign. Only for architectures we know."""
        say = self.say("weights.shapes", node)
        if f.config_error:
            return say.unknown(f"config.json: {f.config_error}", self.refetch(f, ["config.json"], node))
        if f.expected_tensors is None or f.absent is None:
            known = self.inventory.model.kind == "deepseek-r1"
            if known:
                limit = Limit(kind="equal", value="deepseek_v3", origin=Origin(kind="inventory", detail="model.kind = deepseek-r1"))
                return say.judge(
                    f.model_type or "none",
                    limit,
                    reason=f"config.json has model_type {f.model_type!r}: it is not DeepSeek-R1's",
                    action="correct model.path",
                )
            return say.skip(f"no rule for model_type {f.model_type!r}", f.tensors)
        # A shard that is gone or unreadable takes its tensors along: that is told once, by names, sizes or headers.
        hurt = f.missing.count or any(s.kind == "header" for s in f.shards)
        wrong = f.shapes.count + (0 if hurt else f.absent.count)
        told = "; ".join(x for x in (str(f.shapes), "" if hurt or not f.absent.count else f"absent: {f.absent}") if x)
        limit = Limit(kind="max", value=0, unit="tensors", origin=Origin(kind="derived", detail="shapes computed from config.json"))
        details: dict[str, JsonValue] = {"wrong": [*f.shapes.first], "absent": [*f.absent.first], "tensors": f.tensors}
        return say.judge(wrong, limit, reason=told, action=ONE_REVISION, details=details)

    def total(self, node: str, f: FastFacts) -> Verdict:
        """Bytes of tensor data over all shards: what the inventory, the config's shapes and the index say."""
        say = self.say("weights.total", node)
        wanted, origin = self.inventory.model.total_bytes, Origin(kind="inventory", detail="model.total_bytes")
        if wanted is None and f.expected_bytes is not None:
            wanted, origin = f.expected_bytes, Origin(kind="derived", detail="shapes computed from config.json")
        if wanted is None and f.index_total is not None:
            wanted, origin = f.index_total, builtin("metadata.total_size of the index")
        sizes: dict[str, JsonValue] = {"config": f.expected_bytes, "index": f.index_total, "tensors": f.tensors}
        details = {**sizes, "revision": f.source.revision}
        if wanted is None:
            return say.skip("neither inventory, config.json nor index say what it must be", f.data_bytes, details)
        without = [*f.missing.first, *(shard.name for shard in f.shards if shard.kind == "header")]
        _, follows = self._told(node, without if f.data_bytes != wanted else ())
        if follows:
            return say.missing(follows)
        limit = Limit(kind="equal", value=wanted, unit="bytes", origin=origin)
        if f.data_bytes == wanted and f.index_total is not None and f.index_total != wanted and f.expected_bytes == wanted:
            reason = f"the index says {f.index_total}, headers and config {wanted}"
            return say.warn(f.index_total, reason, action="fetch the index again", details=details)
        return say.judge(f.data_bytes, limit, reason=f"{f.data_bytes - wanted:+d} bytes", action=NOT_THAT_MODEL, details=details)

    def blocks(self, node: str, f: FastFacts) -> Verdict:
        """A few random blocks of each shard: a download that was preallocated has size and header, and zeros behind them. A shard of which
        a quarter of the blocks is empty is red; fewer may be rows that no text needs, and are a warning."""
        say = self.say("weights.blocks", node)
        unread: list[JsonValue] = [f"{s.name}: {s.problem}" for s in f.shards if s.kind == "data"]
        empty = [s.name for s in f.shards if s.hollow >= HOLLOW]
        details: dict[str, JsonValue] = {"hollow": [*f.hollow.first], "unread": unread}
        limit = Limit(kind="max", value=0, unit="shards", origin=builtin("weights are no zeros"))
        action = self.refetch(f, empty or [s.name for s in f.shards if s.kind == "data"], node)
        if empty or unread:
            reason = "; ".join(map(str, [*unread[:4], *(t for t in f.hollow.first[:4] if t.split(":")[0] in empty)]))
            return say.judge(len(empty) + len(unread), limit, reason=reason, action=action, details=details, of=max(1, f.blocks))
        if f.hollow.count:
            return say.warn(
                f.hollow.count, str(f.hollow), action="hash every file: expect.weights_full, or --h20-weights=full", details=details
            )
        return say.judge(0, limit, details=details, of=f.blocks)

    def model(self, node: str, f: FastFacts) -> Verdict:
        """Fields of config.json that change what is computed and no shape (experts per token, rope scaling, routing), and the tokenizer's
        ends of text, ids and template, are the published ones. For DeepSeek-R1's family; of other models nothing is known here."""
        say = self.say("weights.model", node)
        if self.inventory.model.kind != "deepseek-r1":
            return say.skip("nothing published is known of this model (model.kind: other): these weights are held against no reference")
        if not f.config or f.config_error:
            return say.unknown(f"config.json: {f.config_error or 'not told'}", self.refetch(f, ["config.json"], node))
        if f.tokenizer.error:
            return say.unknown(f.tokenizer.error, self.refetch(f, ["tokenizer.json", "tokenizer_config.json"], node))
        config, tokenizer = list(config_problems(f.config)), list(tokenizer_problems(f.tokenizer, f.config))
        wrong = [*config, *tokenizer]
        name, revision = revision_of(self.inventory.model)
        known = (
            f"{len(revision.sha256)} digests of {name} are known" if revision is not None else "the folder has no published model's name"
        )
        details: dict[str, JsonValue] = {
            "wrong": [*wrong],
            "revision": name,
            "digests": known,
            "missing": revision.missing if revision is not None else "",
        }
        data = published()
        limit = Limit(kind="max", value=0, unit="differences", origin=Origin(kind="vendor", detail=data.config.source))
        files = [*(["config.json"] if config else []), *(["tokenizer.json", "tokenizer_config.json"] if tokenizer else [])]
        # Never from the other node: it may be just as wrong; nor from a hub's model that this folder is not known to be.
        action = f"fetch {' '.join(files)} again from where {self._folder(f)} came from"
        if name:
            action = f"hf download deepseek-ai/{name} {' '.join(files)} --local-dir {self._folder(f)} --force-download"
        looked_at = len(data.config.fields) + 4
        return say.judge(len(wrong), limit, reason="; ".join(wrong[:4]), action=action, details=details, of=looked_at)

    def leftovers(self, node: str, f: FastFacts) -> Verdict:
        """No ``*.incomplete``, ``.aria2``, ``._____temp`` and the like: they mean that a download did not end."""
        limit = Limit(kind="max", value=0, unit="files", origin=builtin("traces of unfinished downloads"))
        action = f"finish the download, then remove them from {self._folder(f)}"
        return self.say("weights.leftovers", node).judge(f.leftovers.count, limit, reason=str(f.leftovers), action=action)

    def small_files(self, node: str, f: FastFacts) -> Verdict:
        """config.json, tokenizer files and, for DeepSeek-R1, its configuration and modelling code (F49)."""
        wanted = ["config.json", "tokenizer_config.json", "tokenizer.json"]
        if self.inventory.model.kind == "deepseek-r1":
            wanted += ["generation_config.json", "configuration_deepseek.py", "modeling_deepseek.py"]
        alternatives = {"tokenizer.json": any(n.endswith(".model") for n in f.small)}
        absent: list[JsonValue] = [n for n in wanted if n not in f.small and not alternatives.get(n)]
        empty: list[JsonValue] = [n for n, s in f.small.items() if s.size == 0]
        limit = Limit(kind="max", value=0, unit="files", origin=builtin("what both engines read beside the shards"))
        reason = f"missing: {absent}" if absent else f"empty: {empty}"
        return self.say("weights.small_files", node).judge(
            len(absent) + len(empty), limit, reason=reason, action=self.refetch(f, map(str, [*absent, *empty]), node)
        )

    def equal(self) -> list[Verdict]:
        """Shards (name, size, header) and small files (SHA-256) are the same on every node; each difference is named."""
        say = self.say("weights.equal", "cluster")
        if self.silent:
            return [say.skip(self.silent)]
        if len(self.facts.fast) < 2:
            return [say.skip("one node only")]
        known: dict[str, FastFacts] = {}
        for name, f in self.facts.fast.items():
            if isinstance(f, Missing):
                return [say.missing(f)]
            known[name] = f
        first, *others = known
        differ = list[str]()
        follows: Follows | None = None
        for other in others:
            a, b = known[first], known[other]
            mine, theirs = {s[0]: s[1:] for s in a.signature}, {s[0]: s[1:] for s in b.signature}
            unlike = [n for n in sorted({*mine, *theirs}) if mine.get(n) != theirs.get(n)]
            unlike += [n for n in sorted({*a.small, *b.small}) if a.small.get(n) != b.small.get(n)]
            for node in (first, other):
                unlike, cause = self._told(node, unlike)
                follows = follows or cause
            differ += [f"{n}: {first} and {other} differ" for n in unlike]
        if follows and not differ:
            return [say.missing(follows)]
        limit = Limit(kind="max", value=0, unit="different files", origin=builtin("ranks of one model must read one model"))
        right = next((name for name, f in known.items() if in_order(f)), first)
        folder = self._folder(known[right])
        action = f"rsync -av --checksum {self._address(right)}:{folder}/ {folder}/ on the others, once it is known to be right"
        files: list[JsonValue] = [*differ[:40]]
        return [say.judge(len(differ), limit, reason="; ".join(differ[:4]), action=action, details={"files": files})]

    def _doubtful(
        self, node: str, facts: FullFacts, found: Mapping[str, FullFacts | Missing], given: Given
    ) -> tuple[dict[str, str], list[str], Follows | None]:
        """Files of a node that are wrong, and why; those of which nothing is known; and where what is left out of both is told."""
        wrong = wrong_files(node, found, given)
        known = {name: known_of(name, found, given) for name in {*facts.hashes, *wrong}}
        alone = [name for name in facts.hashes if known[name] == ("", "")]
        left, follows = self._told(node, wrong)
        for other in found:  # a copy is no reason to doubt another one, when it is not whole itself
            differing, cause = self._told(other, [name for name in left if not known[name][0]])
            alone, lacking = self._told(other, alone)
            left = [name for name in left if known[name][0] or name in differing]
            follows = follows or cause or lacking
        return {name: wrong[name] for name in left}, alone, follows

    def full(self, found: Mapping[str, FullFacts | Missing], given: Given, bad_tensors: Mapping[tuple[str, str], str]) -> list[Verdict]:
        """``weights.sha256`` of every node, against what is known offline, else node against node.

        ``given``: name -> SHA-256 of the inventory's list or of what is published, and which of the two. ``bad_tensors``: (node, file) ->
        first tensor that differs, where it was looked for. A file that is known nowhere and differs between the nodes fails on every
        node: nobody knows which copy is right.
        """
        verdicts = []
        for node, facts in found.items():
            say = self.say("weights.sha256", node)
            if isinstance(facts, Missing):
                verdicts.append(say.missing(facts))
                continue
            wrong, alone, follows = self._doubtful(node, facts, found, given)
            sources = Counter(known_of(name, found, given)[1] for name in facts.hashes)
            details: dict[str, JsonValue] = {
                "files": len(facts.hashes),
                "from_cache": facts.cached,
                "oldest_from_cache_days": round(facts.oldest_s / 86400, 2),
                "seconds": facts.seconds,
                "held_against": dict(sources),
                "wrong": [*wrong],
                "unread": {**facts.errors},
            }
            if facts.errors:
                name, words = next(iter(facts.errors.items()))
                verdicts.append(say.unknown(f"{len(facts.errors)} files could not be read: {name}: {words}", details=details))
                continue
            if follows and not wrong and not alone:
                verdicts.append(say.missing(follows))
                continue
            if alone and not wrong:
                reason = f"{len(alone)} files are known nowhere: nothing to hold them against"
                verdicts.append(say.unknown(reason, "give model.sha256 (a file of 'sha256  name' lines), or a second node", details))
                continue
            told = "; ".join(
                f"{n}: {why}" + (f", first bad tensor {bad_tensors[node, n]}" if (node, n) in bad_tensors else "")
                for n, why in list(wrong.items())[:4]
            )
            fast = self.facts.fast.get(node)
            action = self.refetch(fast, wrong, node) if isinstance(fast, FastFacts) else ""
            against = "held against: " + ", ".join(sorted(k for k in sources if k))
            if facts.cached:
                against += f"; {facts.cached} of {len(facts.hashes)} files were read up to {_age(facts.oldest_s)} ago, not now"
            limit = Limit(kind="max", value=0, unit="files", origin=builtin(against))
            verdicts.append(say.judge(len(wrong), limit, reason=told, action=action, details=details, of=len(facts.hashes)))
        return verdicts


def _age(seconds: int) -> str:
    return f"{seconds / 86400:.1f} days" if seconds >= 86400 else f"{seconds / 3600:.1f} hours"


Given = Mapping[str, tuple[str, str]]
"""File -> (right SHA-256, who says so)."""
LISTED = "model.sha256 of the inventory"


def known_of(name: str, found: Mapping[str, FullFacts | Missing], given: Given) -> tuple[str, str]:
    """The right SHA-256 of a file and where it is known from; ``("", "other nodes")`` when only copies can be compared, ``("",
    "")`` if not even that."""
    if name in given:
        return given[name]
    nodes = [f for f in found.values() if isinstance(f, FullFacts)]
    for f in nodes:
        if name in f.known:
            return f.known[name]
    return "", "other nodes" if sum(name in f.hashes for f in nodes) > 1 else ""


def wrong_files(node: str, found: Mapping[str, FullFacts | Missing], given: Given) -> dict[str, str]:
    """Files of a node whose content is wrong or doubtful, with the reason."""
    facts = found[node]
    if isinstance(facts, Missing):
        return {}
    wrong: dict[str, str] = {}
    others = {n: f for n, f in found.items() if n != node and isinstance(f, FullFacts)}
    for name, digest in sorted(facts.hashes.items()):
        right, where = known_of(name, found, given)
        if right:
            if digest != right:
                wrong[name] = f"sha256 {digest[:12]}…, {where} says {right[:12]}…"
            continue
        differing = [n for n, f in others.items() if name in f.hashes and f.hashes[name] != digest]
        if not differing:
            continue
        copies = [f.hashes[name] for f in found.values() if isinstance(f, FullFacts) and name in f.hashes]
        if copies.count(digest) * 2 <= len(copies):
            wrong[name] = f"differs from {', '.join(differing)}" + ("" if len(copies) > 2 else " (which of the two is right is not known)")
    missing = {n for f in others.values() for n in f.hashes} - set(facts.hashes) - set(facts.errors)
    wrong.update({n: "not there, other nodes have it" for n in missing if n.endswith(".safetensors")})
    listed = {n for n, (_, where) in given.items() if where == LISTED}
    wrong.update({n: "not there, model.sha256 lists it" for n in listed if n not in facts.hashes and n not in facts.errors})
    return wrong
