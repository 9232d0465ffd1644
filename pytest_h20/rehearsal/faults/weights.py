"""Faults of the model's files. What the write-up warns of in red: an incomplete model starts and answers garbage."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

from pytest_h20.rehearsal.faults.model import Change, Fault, ids
from pytest_h20.rehearsal.weights import INDEX, WeightsTruth, index_without, r1, shard
from pytest_h20.rehearsal.world import World


def _on(change: Callable[[WeightsTruth], object], nodes: slice = slice(1, 2)) -> Change:
    """Change the folder of the second node, or of others."""

    def inject(world: World) -> None:
        for name in list(world.machines)[nodes]:
            change(world.weights[name])

    return inject


BOTH = slice(0, 2)


def _five_missing(truth: WeightsTruth) -> None:
    truth.absent.update(shard(n) for n in range(159, 164))


def _truncated(truth: WeightsTruth) -> None:
    truth.sizes[shard(41)] = r1()[shard(41)][1] - 1_000_000


def _pointer(truth: WeightsTruth) -> None:
    truth.content[shard(7)] = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4302317817\n"
    truth.sizes[shard(7)] = 134


def _header_damaged(truth: WeightsTruth) -> None:
    data = bytearray(r1()[shard(99)][0])
    data[8] = 0xFF
    truth.content[shard(99)] = bytes(data)


def _dtype_changed(truth: WeightsTruth) -> None:
    """F8_E4M3 and F8_E5M2 have one size: only the config tells that this is another model."""
    data = r1()[shard(20)][0]
    at = data.index(b"F8_E4M3")
    truth.content[shard(20)] = data[:at] + b"F8_E5M2" + data[at + 7 :]


def _tensor_halved(truth: WeightsTruth) -> None:
    """The last tensor of a shard has half its rows; header, size of the file and index agree."""
    data, size = r1()[shard(20)]
    header = json.loads(data[8:])
    last = max((tensor for name, tensor in header.items() if name != "__metadata__"), key=lambda tensor: int(tensor["data_offsets"][1]))
    begin, end = last["data_offsets"]
    gone = (end - begin) // 2
    last["shape"][0] //= 2
    last["data_offsets"] = [begin, end - gone]
    raw = json.dumps(header).encode()
    truth.content[shard(20)] = struct.pack("<Q", len(raw)) + raw
    truth.sizes[shard(20)] = 8 + len(raw) + size - len(data) - gone


def _other_config(truth: WeightsTruth) -> None:
    truth.content["config.json"] = r1()["config.json"][0].replace(b'"num_hidden_layers": 61', b'"num_hidden_layers": 60')


def _two_experts(truth: WeightsTruth) -> None:
    truth.content["config.json"] = r1()["config.json"][0].replace(b'"num_experts_per_tok": 8', b'"num_experts_per_tok": 2')


def _no_tokenizer(truth: WeightsTruth) -> None:
    truth.absent.update(("tokenizer.json", "modeling_deepseek.py"))


def _unreadable(truth: WeightsTruth) -> None:
    truth.unreadable = "Permission denied"


def _leftover(truth: WeightsTruth) -> None:
    truth.content[f".cache/huggingface/download/{shard(12)}.a1b2c3.incomplete"] = b"\0" * 64


def _fault(name: str, sentence: str, source: str, change: Change, red: str, phrase: str) -> Fault:
    return Fault(name, "weights", sentence, source, change, ids("weights", red), phrase)


FAULTS = (
    _fault(
        "shard-missing",
        "158 of 163 shards are on one node; SGLang 0.5.16 starts all the same and answers garbage.",
        "F46, sgl#3434",
        _on(_five_missing),
        "names",
        shard(159),
    ),
    _fault(
        "shard-missing-everywhere",
        "The same five shards are missing on both nodes: comparing the nodes cannot tell.",
        "F46",
        _on(_five_missing, BOTH),
        "names",
        shard(159),
    ),
    _fault("shard-truncated", "One shard is a megabyte short.", "F47, F48", _on(_truncated), "sizes", "1000000 bytes short"),
    _fault(
        "shard-is-a-pointer",
        "One shard is a Git-LFS pointer: its content was never fetched.",
        "F47",
        _on(_pointer),
        "headers",
        "git",
    ),
    _fault(
        "shard-header-damaged",
        "The header of one shard is not readable.",
        "F47",
        _on(_header_damaged),
        "headers",
        "not JSON",
    ),
    _fault(
        "shard-flipped-byte",
        "One byte of one shard is wrong, its size is right. Found by the full check only.",
        "sgl#3206: a bad disk or copy",
        _on(lambda t: t.flipped.add(shard(77))),
        "sha256",
        "first bad tensor",
    ),
    _fault(
        "other-revision",
        "One shard has another number format than config.json implies.",
        "F48: wrong revision",
        _on(_dtype_changed, BOTH),
        "shapes",
        "F8_E5M2",
    ),
    _fault(
        "tensor-of-another-size",
        "One tensor has half its rows, alike on both nodes; the header, the file's size and the index agree.",
        "F48: wrong revision",
        _on(_tensor_halved, BOTH),
        "shapes total",
        "bytes",
    ),
    _fault(
        "config-of-another-model",
        "config.json has one layer less than the shards.",
        "F48: wrong revision",
        _on(_other_config, BOTH),
        "shapes",
        "model.layers.61",
    ),
    _fault(
        "shard-zero-filled",
        "One shard was preallocated and never filled, alike on both nodes: size and header are right.",
        "aria2 and fallocate: a download that broke off",
        _on(lambda t: t.zeroed.add(shard(88)), BOTH),
        "blocks",
        "blocks are zeros",
    ),
    _fault(
        "two-experts-per-token",
        "config.json has two experts a token, alike on both nodes: no shape tells.",
        "weights that are only equal to the other node's prove nothing about the model",
        _on(_two_experts, BOTH),
        "model",
        "num_experts_per_tok is 2, published 8",
    ),
    _fault(
        "nodes-differ",
        "One node has another tokenizer than the other.",
        "F09: rsync forgotten",
        _on(lambda t: t.content.update({"tokenizer.json": r1()["tokenizer.json"][0].replace(b"1.0", b"1.1")})),
        "equal sha256",
        "tokenizer.json",
    ),
    _fault(
        "index-incomplete",
        "The index leaves out the tensors of one shard.",
        "vllm before 0.26 and SGLang before 0.5.17 do not notice",
        _on(lambda t: t.content.update({INDEX: index_without(30)}), BOTH),
        "index",
        "not in the index",
    ),
    _fault("index-missing", "There is no index.", "engines load by it", _on(lambda t: t.absent.add(INDEX), BOTH), "index", "not there"),
    _fault(
        "leftover-incomplete",
        "A download was never finished: an .incomplete file is there.",
        "issue 3",
        _on(_leftover, BOTH),
        "leftovers",
        ".incomplete",
    ),
    _fault(
        "small-files-missing",
        "Tokenizer and model code were not copied.",
        "F49",
        _on(_no_tokenizer, BOTH),
        "small_files",
        "modeling_deepseek.py",
    ),
    _fault(
        "weights-unreadable",
        "The model's folder cannot be read on one node.",
        "could not measure is no pass",
        _on(_unreadable),
        "readable equal",
        "Permission denied",
    ),
)
