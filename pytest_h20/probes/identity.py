"""What tells one machine from another: serial numbers, GUIDs and ids that its parts carry. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytest_h20.probes.facts import NodeFacts
from pytest_h20.probes.script import Missing


@dataclass(frozen=True)
class Identity:
    """One machine. Empty: it does not say. ``boot``: boot id and host name (nodes that share a kernel have a name each)."""

    boot: str
    boot_id: str
    machine_id: str
    gpu_serials: tuple[str, ...]
    gpu_uuids: tuple[str, ...]
    hca_guids: tuple[tuple[str, str], ...]

    @property
    def parts(self) -> dict[str, str]:
        """What hardware carries, with the words a person reads."""
        found = {f"GPU serial {x}": x for x in self.gpu_serials} | {f"GPU {x}": x for x in self.gpu_uuids}
        return found | {f"HCA GUID {guid}": guid for _, guid in self.hca_guids}

    @property
    def any(self) -> bool:
        """Something identifies the machine."""
        return bool(self.boot or self.machine_id or self.parts)

    def same(self, other: Identity) -> list[str]:
        """Proofs that both are one machine. A machine id counts where no hardware tells the two apart (images are cloned)."""
        found = [f"the boot id of {self.boot}"] if self.boot and self.boot == other.boot else []
        found += [words for words in self.parts if words in other.parts]
        apart = bool(self.parts) and bool(other.parts)
        if not found and self.machine_id and self.machine_id == other.machine_id and not apart:
            found.append(f"the machine id {self.machine_id}")
        return found

    def cloned(self, other: Identity) -> bool:
        """Two machines with one system image. Nodes that share a kernel (containers) share its machine id by right."""
        return bool(self.machine_id) and self.machine_id == other.machine_id and self.boot_id != other.boot_id


def identity(node: NodeFacts) -> Identity:
    """From the facts of a node. Placeholders (``0``, ``N/A``, a GUID of zeros) say nothing; the short form of nvidia-smi's answer
    (a driver or stand-in without ``-q -x``) has ids that nobody vouches for."""
    system, gpus, rdma = node.system, node.gpus, node.rdma
    cards = () if isinstance(gpus, Missing) or gpus.source == "csv" else gpus.gpus
    hcas = () if isinstance(rdma, Missing) else rdma.hcas
    known = not isinstance(system, Missing)
    return Identity(
        boot_id=system.boot_id if known else "",  # type: ignore[union-attr]
        boot=f"{system.hostname} ({system.boot_id})" if known and system.boot_id else "",  # type: ignore[union-attr]
        machine_id=system.machine_id if known else "",  # type: ignore[union-attr]
        gpu_serials=tuple(g.serial for g in cards if _says(g.serial)),
        gpu_uuids=tuple(g.uuid for g in cards if _says(g.uuid.removeprefix("GPU-"))),
        hca_guids=tuple((h.name, h.node_guid) for h in hcas if _says(h.node_guid)),
    )


def _says(text: str) -> bool:
    """More than one kind of digit: not a placeholder."""
    return len(set(re.sub(r"[^0-9a-z]", "", text.lower())) - {"x"}) > 1 and text.strip("[]").upper() not in ("N/A", "UNKNOWN")


def identity_texts(node: NodeFacts) -> dict[str, str]:
    """For the fingerprint and the signed first page: who this machine is."""
    known = identity(node)
    guids = ", ".join(f"{name} {guid}" for name, guid in known.hca_guids)
    texts = {"machine id": known.machine_id, "gpu serials": ", ".join(known.gpu_serials), "hca guids": guids}
    if not known.gpu_serials:
        texts["gpu uuids"] = ", ".join(known.gpu_uuids)
    return {k: v for k, v in texts.items() if v}
