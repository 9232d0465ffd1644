# -*- coding: utf-8 -*-
"""Runs where the weights are: standard library only, Python 2.7 or 3. Prints JSON (fast) or lines (full, tensors).

It is sent to the node, or into a container, as it stands; on our side its functions are used through ``runner``.

    agent.py fast DIR SHARDS              one JSON object: see ``fast``
    agent.py full DIR STATE JOBS          lines: total, cached/file NAME SIZE SHA256, progress, done; see ``full``
    agent.py tensors DIR NAME             lines: tensor NAME SHA256, in the order of the file
"""
# It must run on the Python 2.7 of CentOS 7: no annotations, no f-strings.
# mypy: ignore-errors
# ruff: noqa: UP004, UP009, UP010, UP024, UP031, B007, B904, C401, C402, SIM115

from __future__ import division, print_function

import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time

SHARD = re.compile(r"^model-(\d+)-of-(\d+)\.safetensors$")
LEFTOVER = re.compile(r"(\.incomplete|\.aria2|\.part|\.tmp|\.crdownload|\.download)$|\._____temp")
SMALL = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json")
SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
MAX_HEADER = 100 * 1000 * 1000  # the limit of the safetensors format itself
SHOWN = 20


BLOCK = 4096
BLOCKS = 5  # of each shard: one in each quarter of its data, and the last
SUSPECT = 8  # more of a shard of which one was empty


class Folder(object):
    """A folder on this machine. ``blocks``: how many blocks of each shard are looked at; over a connection, fewer."""

    blocks = BLOCKS

    def __init__(self, path):
        self.path = path

    def files(self):
        """Every file below: relative name, size, mtime in ns, inode. Links to files are followed (Hugging Face's cache)."""
        found = []
        for base, dirs, names in os.walk(self.path, followlinks=False):
            dirs[:] = sorted(d for d in dirs if d not in (".git",))
            for name in sorted(names):
                full = os.path.join(base, name)
                try:
                    s = os.stat(full)
                except OSError:
                    continue
                mtime = getattr(s, "st_mtime_ns", None) or int(s.st_mtime * 1e9)
                found.append((os.path.relpath(full, self.path), s.st_size, mtime, s.st_ino))
        return found

    def read(self, name, offset, size):
        with open(os.path.join(self.path, name), "rb") as f:
            f.seek(offset)
            return f.read(size)


def expected_tensors(config):
    """Name -> (dtype, shape) of every tensor that a DeepSeek-V3/R1 config implies, or None for another architecture."""
    if config.get("model_type") != "deepseek_v3":
        return None
    quant = config.get("quantization_config") or {}
    fp8 = quant.get("quant_method") == "fp8"
    block = quant.get("weight_block_size") or [128, 128]
    h, vocab, heads = config["hidden_size"], config["vocab_size"], config["num_attention_heads"]
    nope, rope, vdim = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    ql, kvl = config["q_lora_rank"], config["kv_lora_rank"]
    found = {}

    def linear(name, rows, columns):
        found[name + ".weight"] = ("F8_E4M3" if fp8 else "BF16", [rows, columns])
        if fp8:
            found[name + ".weight_scale_inv"] = ("F32", [-(-rows // block[0]), -(-columns // block[1])])

    def mlp(name, inner):
        linear(name + ".gate_proj", inner, h)
        linear(name + ".up_proj", inner, h)
        linear(name + ".down_proj", h, inner)

    def plain(name, *shape):
        found[name] = ("BF16", list(shape))

    plain("model.embed_tokens.weight", vocab, h)
    plain("model.norm.weight", h)
    plain("lm_head.weight", vocab, h)
    layers = config["num_hidden_layers"]
    extra = config.get("num_nextn_predict_layers") or 0
    for i in range(layers + extra):
        p = "model.layers.%d." % i
        plain(p + "input_layernorm.weight", h)
        plain(p + "post_attention_layernorm.weight", h)
        linear(p + "self_attn.q_a_proj", ql, h)
        plain(p + "self_attn.q_a_layernorm.weight", ql)
        linear(p + "self_attn.q_b_proj", heads * (nope + rope), ql)
        linear(p + "self_attn.kv_a_proj_with_mqa", kvl + rope, h)
        plain(p + "self_attn.kv_a_layernorm.weight", kvl)
        linear(p + "self_attn.kv_b_proj", heads * (nope + vdim), kvl)
        linear(p + "self_attn.o_proj", h, heads * vdim)
        if i < config["first_k_dense_replace"]:
            mlp(p + "mlp", config["intermediate_size"])
        else:
            plain(p + "mlp.gate.weight", config["n_routed_experts"], h)
            found[p + "mlp.gate.e_score_correction_bias"] = ("F32", [config["n_routed_experts"]])
            for e in range(config["n_routed_experts"]):
                mlp(p + "mlp.experts.%d" % e, config["moe_intermediate_size"])
            mlp(p + "mlp.shared_experts", config["moe_intermediate_size"] * config["n_shared_experts"])
        if i >= layers:
            plain(p + "enorm.weight", h)
            plain(p + "hnorm.weight", h)
            plain(p + "eh_proj.weight", h, 2 * h)
            plain(p + "embed_tokens.weight", vocab, h)
            plain(p + "shared_head.norm.weight", h)
            plain(p + "shared_head.head.weight", vocab, h)
    return found


def count(shape):
    n = 1
    for x in shape:
        n *= x
    return n


def read_header(folder, name, size):
    """(header dict without metadata, header length, sha256 of its bytes). Raises ValueError with what is wrong."""
    start = folder.read(name, 0, 8)
    if start[:8] == b"version ":
        raise ValueError("it is a Git-LFS pointer: the content was never fetched")
    if len(start) < 8:
        raise ValueError("it has %d bytes, not even a header" % size)
    length = struct.unpack("<Q", start)[0]
    if length > MAX_HEADER or length > max(size - 8, 0):
        raise ValueError("its header claims %d bytes, the file has %d" % (length, size))
    raw = folder.read(name, 8, length)
    if len(raw) != length:
        raise ValueError("its header could not be read: %d of %d bytes" % (len(raw), length))
    try:
        header = json.loads(raw.decode("utf-8"))
    except (ValueError, RuntimeError) as e:  # RuntimeError: nested too deeply
        raise ValueError("its header is not JSON: %s" % e)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    header.pop("__metadata__", None)
    return header, length, hashlib.sha256(raw).hexdigest()


def check_header(header):
    """(bytes of tensor data, problems): offsets must be in order without gap or overlap, and fit dtype and shape."""
    problems, spans = [], []
    for name, t in header.items():
        try:
            begin, end = t["data_offsets"]
            bytes_ = count(t["shape"]) * SIZES[t["dtype"]]
        except (KeyError, TypeError, ValueError):
            problems.append("%s: no usable dtype, shape or data_offsets" % name)
            continue
        spans.append((begin, end, name))
        if end - begin != bytes_:
            problems.append("%s: %d bytes for %s %s" % (name, end - begin, t["dtype"], t["shape"]))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            problems.append("%s: begins at %d, the one before ends at %d" % (name, begin, at))
        at = max(at, end)
    return at, problems


def look_into(folder, name, start, size):
    """(blocks read, blocks that hold nothing but zeros) of a shard's data, at random: a download that was preallocated has its size and,
    with the first megabytes, its header. One empty block may be a tensor's own (rows of ids that no text has): then more are read."""
    parts = max(1, getattr(folder, "blocks", BLOCKS) - 1)
    length = (size - start) // parts
    if length < BLOCK:
        return 0, 0

    def somewhere(at, room):
        return at + (struct.unpack("<Q", os.urandom(8))[0] % max(1, room - BLOCK + 1))

    def empty(at):
        data = folder.read(name, at, BLOCK)
        return len(data) < BLOCK or not data.strip(b"\0")

    places = [somewhere(start + i * length, length) for i in range(parts)]
    if parts > 1:
        places.append(size - BLOCK)
    zero = sum(empty(at) for at in places)
    if zero:
        more = [somewhere(start, size - start) for _ in range(SUSPECT)]
        places += more
        zero += sum(empty(at) for at in more)
    return len(places), zero


def tokenizer_of(folder, names):
    """Beginning and end of a text, the ids of the added tokens, how many ids there are, and the chat template, as the files say."""
    out = {"error": "", "bos_token": "", "eos_token": "", "ids": {}, "vocabulary": None, "largest": None, "template": ""}
    settings, error = load_json(folder, names, "tokenizer_config.json")
    if settings is None:
        out["error"] = "tokenizer_config.json: " + error
        return out
    for key in ("bos_token", "eos_token"):
        token = settings.get(key)
        out[key] = (token.get("content") if isinstance(token, dict) else token) or ""
    template = settings.get("chat_template") or ""
    if isinstance(template, list):
        template = "\n".join(str(t.get("template", "")) for t in template if isinstance(t, dict))
    if "chat_template.jinja" in names:
        template = folder.read("chat_template.jinja", 0, names["chat_template.jinja"][1]).decode("utf-8", "replace")
    out["template"] = template[:65536]
    tokenizer, error = load_json(folder, names, "tokenizer.json")
    if tokenizer is None:
        if "tokenizer.json" in names:
            out["error"] = "tokenizer.json: " + error
        return out
    try:
        added = dict((t["content"], t["id"]) for t in tokenizer.get("added_tokens") or [])
        vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
        ids = set(vocabulary.values()) if isinstance(vocabulary, dict) else set(range(len(vocabulary)))
        ids |= set(added.values())
        out["ids"] = dict((t, added[t]) for t in (out["bos_token"], out["eos_token"]) if t in added)
        out["vocabulary"], out["largest"] = len(ids), max(ids) if ids else None
    except (AttributeError, KeyError, TypeError) as e:
        out["error"] = "tokenizer.json: not of the known form (%s)" % e
    return out


def short(items):
    items = list(items)
    return {"count": len(items), "first": items[:SHOWN]}


def sha256_of(folder, name, size):
    digest, at = hashlib.sha256(), 0
    while at < size:
        piece = folder.read(name, at, 1 << 22)
        if not piece:
            break
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()


def load_json(folder, names, name):
    if name not in names:
        return None, "not there"
    try:
        data = json.loads(folder.read(name, 0, names[name][1]).decode("utf-8"))
        return (data, "") if isinstance(data, dict) else (None, "not a JSON object")
    except (ValueError, IOError, OSError) as e:
        return None, str(e)


def fast(folder, shards):
    """Everything that a few blocks of payload tell. ``shards``: how many there must be; 0 = as many as their names say."""
    start = time.time()
    files = folder.files()
    names = dict((f[0], f) for f in files)
    top = [n for n in names if "/" not in n]
    found = sorted(n for n in top if SHARD.match(n))
    totals = sorted(set(int(SHARD.match(n).group(2)) for n in found))
    total = shards or (totals[0] if len(totals) == 1 else 0)
    have = set(int(SHARD.match(n).group(1)) for n in found if not total or int(SHARD.match(n).group(2)) == total)
    config, config_error = load_json(folder, names, "config.json")
    index, index_error = load_json(folder, names, "model.safetensors.index.json")
    # Holes are named as the others are: DeepSeek writes -of-000163, most models -of-00002.
    named = [n for n in found if not total or int(SHARD.match(n).group(2)) == total]
    named += [f for f in ((index or {}).get("weight_map") or {}).values() if SHARD.match(str(f))] if not named else []
    first = SHARD.match(named[0]) if named else None
    width = (len(first.group(1)), len(first.group(2))) if first else (5, 5)
    expected, expected_error = None, ""
    if config is not None:
        try:
            expected = expected_tensors(config)
        except (KeyError, TypeError) as e:
            expected_error = "config.json lacks %s" % e
    weight_map = index.get("weight_map") if index is not None else None
    if index is not None and not isinstance(weight_map, dict):
        weight_map, index_error = None, "it has no weight_map"
    seen, records = {}, []
    shapes, duplicate, gaps = [], [], []
    looked, hollow = 0, []
    for name in [n for n in top if n.endswith(".safetensors")]:
        _, size, mtime, inode = names[name]
        record = {"name": name, "size": size, "mtime": mtime, "inode": inode, "problem": "", "kind": ""}
        records.append(record)
        try:
            header, length, digest = read_header(folder, name, size)
        except (ValueError, IOError, OSError) as e:
            record["problem"], record["kind"] = str(e), "header"
            continue
        data, problems = check_header(header)
        record.update({"header": length, "data": data, "tensors": len(header), "header_sha256": digest})
        gaps += ["%s: %s" % (name, p) for p in problems]
        if 8 + length + data != size:
            missing = 8 + length + data - size
            first = sorted((t["data_offsets"][1], k) for k, t in header.items() if t["data_offsets"][1] + 8 + length > size)
            word = "%d bytes short" % missing if missing > 0 else "%d bytes too long" % -missing
            record["problem"], record["kind"] = word, "size"
            record["first_bad"] = first[0][1] if first else ""
        else:
            try:
                blocks, zero = look_into(folder, name, 8 + length, size)
            except (IOError, OSError) as e:
                blocks, zero = 0, 0
                record["problem"], record["kind"] = "its data could not be read: %s" % e, "data"
            looked += blocks
            if zero:
                hollow.append("%s: %d of %d blocks are zeros" % (name, zero, blocks))
                record["hollow"] = zero / max(1, blocks)
        for k, t in header.items():
            if k in seen:
                duplicate.append("%s: in %s and %s" % (k, seen[k], name))
            seen[k] = name
            if expected is not None:
                want = expected.get(k)
                if want is None:
                    shapes.append("%s in %s: config.json implies no such tensor" % (k, name))
                elif want[0] != t.get("dtype") or want[1] != t.get("shape"):
                    shapes.append(
                        "%s in %s: %s %s, config.json implies %s %s" % (k, name, t.get("dtype"), t.get("shape"), want[0], want[1])
                    )
    records.sort(key=lambda r: r["name"])
    readable = set(r["name"] for r in records if r["kind"] != "header")
    out = {
        "version": 1,
        "path": folder.path if hasattr(folder, "path") else "",
        "python": "%d.%d.%d" % sys.version_info[:3],
        "shards": records,
        "total": total,
        "totals": totals,
        "missing": short("model-%0*d-of-%0*d.safetensors" % (width[0], i, width[1], total) for i in range(1, total + 1) if i not in have)
        if total
        else short([]),
        "extra": short(
            n for n in found if total and (int(SHARD.match(n).group(2)) != total or not 1 <= int(SHARD.match(n).group(1)) <= total)
        ),
        "config_error": config_error or expected_error,
        "config": config if config is not None and names["config.json"][1] <= 65536 else {},
        "tokenizer": tokenizer_of(folder, names),
        "blocks": looked,
        "hollow": short(hollow),
        "model_type": (config or {}).get("model_type", ""),
        "index_error": index_error,
        "index_total": ((index or {}).get("metadata") or {}).get("total_size"),
        "data_bytes": sum(r.get("data", 0) for r in records),
        "tensors": len(seen),
        "expected_bytes": sum(count(s) * SIZES[d] for d, s in expected.values()) if expected is not None else None,
        "expected_tensors": len(expected) if expected is not None else None,
        "absent": short(sorted(k for k in expected if k not in seen)) if expected is not None else None,
        "shapes": short(shapes),
        "gaps": short(gaps),
        "duplicate": short(duplicate),
        "index_missing_files": short(sorted(set(f for f in (weight_map or {}).values() if f not in names))),
        "index_only": short(sorted(k for k, f in (weight_map or {}).items() if f in readable and seen.get(k) != f)),
        "header_only": short(sorted(k for k in seen if weight_map is not None and k not in weight_map)),
        "leftovers": short(sorted(n for n in names if LEFTOVER.search(n))),
        "pointers": short(r["name"] for r in records if "Git-LFS pointer" in r["problem"]),
        "small": {},
        "source": source_of(folder, names),
    }
    for name in sorted(top):
        if name in SMALL or name.endswith((".py", ".json", ".jinja", ".model")):
            out["small"][name] = {"size": names[name][1], "sha256": sha256_of(folder, name, names[name][1])}
    out["seconds"] = round(time.time() - start, 3)
    return out


def source_of(folder, names):
    """Where the files came from, as far as their traces tell: kind, repository, revision."""
    for n in names:
        m = re.match(r"\.cache/huggingface/download/(.+)\.metadata$", n)
        if m:
            commit = folder.read(n, 0, 64).split(b"\n")[0].decode("ascii", "replace").strip()
            return {"kind": "huggingface", "revision": commit}
    if any(n in names for n in (".msc", ".mdl", ".mv")):
        return {"kind": "modelscope", "revision": ""}
    if "/snapshots/" in (getattr(folder, "path", "") + "/"):
        return {"kind": "huggingface-cache", "revision": os.path.basename(folder.path.rstrip("/"))}
    return {"kind": "", "revision": ""}


def known_hashes(path, files):
    """Name -> (sha256, where it is known from), as far as this folder tells offline."""
    found = {}
    for name, size, _, _ in files:
        m = re.match(r"\.cache/huggingface/download/(.+)\.metadata$", name)
        if m:
            try:
                lines = open(os.path.join(path, name)).read().split("\n")
            except (IOError, OSError):
                continue
            etag = lines[1].strip().strip('"') if len(lines) > 1 else ""
            if re.match(r"^[0-9a-f]{64}$", etag):
                found[m.group(1)] = (etag, "Hugging Face download metadata")
            continue
        full = os.path.join(path, name)
        if os.path.islink(full):
            blob = os.path.basename(os.readlink(full))
            if re.match(r"^[0-9a-f]{64}$", blob):
                found[name] = (blob, "Hugging Face cache blob name")
    if os.path.isdir(os.path.join(path, ".git")):
        for name, size, _, _ in files:
            if name in found or not name.endswith(".safetensors"):
                continue
            try:
                p = subprocess.Popen(["git", "-C", path, "show", "HEAD:" + name], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                text = p.communicate()[0][:400].decode("utf-8", "replace")
            except OSError:
                break
            m = re.search(r"^oid sha256:([0-9a-f]{64})", text, re.M)
            if m:
                found[name] = (m.group(1), "Git-LFS pointer")
    return found


def load_state(path, max_age):
    """(path, size, mtime, inode) -> (sha256, age in s) from the lines of a state file, when not older than ``max_age``.

    Broken lines (a killed run) are passed over. Size and times do not show what a disk does to a file later: a digest ages.
    """
    now = time.time()
    found = {}
    try:
        for line in open(path, "rb"):
            try:
                r = json.loads(line.decode("utf-8"))
                age = max(0, int(now - r["when"]))
                if age <= max_age:
                    found[r["path"], r["size"], r["mtime"], r["inode"]] = (r["sha256"], age)
            except (ValueError, KeyError, TypeError):
                continue
    except (IOError, OSError):
        pass
    return found


def full(path, state, jobs, out=sys.stdout, max_age=7 * 86400):
    """SHA-256 of every file but leftovers and caches.

    Lines: ``total FILES BYTES``, ``known NAME SHA256 WHERE``, ``file NAME SIZE SHA256 cached|read AGE_S``,
    ``error NAME WORDS``, ``progress DONE TOTAL BYTES_PER_S SECONDS_LEFT``, ``done SECONDS`` (tab-separated). A file's hash is
    kept in ``state`` as soon as
    it is known; a later run reads only what is new or changed.
    """
    start = time.time()
    path = os.path.realpath(path)
    files = Folder(path).files()
    lock = threading.Lock()

    def say(*fields):
        with lock:
            out.write("\t".join(str(f) for f in fields) + "\n")
            out.flush()

    for name, (digest, where) in sorted(known_hashes(path, files).items()):
        say("known", name, digest, where)
    files = [f for f in files if not f[0].startswith(".cache/") and not LEFTOVER.search(f[0])]
    before = load_state(state, max_age)
    todo = []
    total = sum(f[1] for f in files)
    say("total", len(files), total)
    for f in files:
        digest = before.get((os.path.join(path, f[0]), f[1], f[2], f[3]))
        if digest:
            say("file", f[0], f[1], digest[0], "cached", digest[1])
        else:
            todo.append(f)
    todo.sort(key=lambda f: -f[1])  # long ones first, so that the readers end together
    work = sum(f[1] for f in todo)
    progress = [0]
    folder = os.path.dirname(state)
    if folder and not os.path.isdir(folder):
        os.makedirs(folder)
    keep = open(state, "a")

    def one(f):
        name, size, mtime, inode = f
        full_name = os.path.join(path, name)
        digest = hashlib.sha256()
        try:
            with open(full_name, "rb", 0) as handle:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                buffer = bytearray(1 << 22)
                view = memoryview(buffer)
                while True:
                    n = handle.readinto(buffer)
                    if not n:
                        break
                    digest.update(view[:n] if sys.version_info[0] > 2 else buffer[:n])
                    with lock:
                        progress[0] += n
            s = os.stat(full_name)
            if (s.st_size, getattr(s, "st_mtime_ns", None) or int(s.st_mtime * 1e9)) != (size, mtime):
                say("error", name, "it changed while it was read")
                return
        except (IOError, OSError) as e:
            say("error", name, e)
            return
        record = {"path": full_name, "size": size, "mtime": mtime, "inode": inode, "sha256": digest.hexdigest()}
        record["when"] = int(start)
        with lock:
            keep.write(json.dumps(record) + "\n")
            keep.flush()
            os.fsync(keep.fileno())
        say("file", name, size, digest.hexdigest(), "read", 0)

    def reader():
        while True:
            with lock:
                if not todo:
                    return
                f = todo.pop(0)
            one(f)

    threads = [threading.Thread(target=reader) for _ in range(max(1, jobs))]
    for t in threads:
        t.daemon = True
        t.start()
    last = 0
    while any(t.is_alive() for t in threads):
        for t in threads:
            t.join(0.2)
        now = time.time()
        if now - last >= 2:
            last = now
            rate = progress[0] / max(now - start, 1e-3)
            say("progress", progress[0], work, int(rate), int((work - progress[0]) / rate) if rate else -1)
    keep.close()
    say("done", round(time.time() - start, 3))


def tensors(path, name, out=sys.stdout):
    """SHA-256 of every tensor of one shard, in the order of the file: two copies are compared by it."""
    folder = Folder(path)
    header, length, _ = read_header(folder, name, os.path.getsize(os.path.join(path, name)))
    with open(os.path.join(path, name), "rb") as f:
        for begin, end, key in sorted((t["data_offsets"][0], t["data_offsets"][1], k) for k, t in header.items()):
            digest = hashlib.sha256()
            f.seek(8 + length + begin)
            left = end - begin
            while left > 0:
                piece = f.read(min(left, 1 << 22))
                if not piece:
                    break
                digest.update(piece)
                left -= len(piece)
            out.write("tensor\t%s\t%s\n" % (key, digest.hexdigest() if not left else "short"))


def main(argv):
    if len(argv) == 3 and argv[0] == "fast":
        print(json.dumps(fast(Folder(argv[1]), int(argv[2]))))
    elif len(argv) in (4, 5) and argv[0] == "full":
        full(argv[1], argv[2], int(argv[3]), **({"max_age": int(argv[4])} if len(argv) == 5 else {}))
    elif len(argv) == 3 and argv[0] == "tensors":
        tensors(argv[1], argv[2])
    else:
        sys.stderr.write(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
