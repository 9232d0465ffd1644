"""GPUs, NVLink, fabric manager, driver: from ``nvidia-smi -q -x`` and the driver's files in /proc."""

# ruff: noqa: E501 - shell and foreign text stay on their own lines
from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field

from pytest_h20.probes.script import Probe, ProbeError, integer, number, pairs, rows


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory. ``memory_mib`` is None where the driver does not tell it."""

    pid: int
    name: str
    memory_mib: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it; None or "" = it does not say. Units: MiB, W, degrees C, MHz.

    ``pci_device_id``: four hex digits, lower case. ``throttle``: names of the active reasons (``hw_slowdown`` ...).
    ``ecc_uncorrectable``: since the driver was loaded; ``_ever``: in the card's life. ``ecc_threshold``: more SRAM errors than NVIDIA lets
    a card have. ``banks_exhausted``: memory banks without a spare row. ``recovery``: what the driver wants done ("None": nothing). ``fabric_state``/``fabric_status``: NVLink fabric registration.
    """

    index: int
    name: str
    uuid: str
    bus_id: str
    pci_device_id: str = ""
    serial: str = ""
    vbios: str = ""
    memory_mib: int | None = None
    memory_used_mib: int | None = None
    persistence: bool | None = None
    mig: bool | None = None
    compute_mode: str = ""
    ecc: bool | None = None
    ecc_uncorrectable: int | None = None
    ecc_uncorrectable_ever: int | None = None
    ecc_threshold: bool | None = None
    unrepairable: bool | None = None
    retired_pages: int | None = None
    retired_pending: bool | None = None
    remap_uncorrectable: int | None = None
    remap_correctable: int | None = None
    remap_pending: bool | None = None
    remap_failure: bool | None = None
    banks_exhausted: int | None = None
    recovery: str = ""
    pstate: str = ""
    throttle: tuple[str, ...] = ()
    temperature: int | None = None
    power_draw: float | None = None
    power_limit: float | None = None
    power_limit_default: float | None = None
    sm_clock: int | None = None
    app_clock: int | None = None
    app_mem_clock: int | None = None
    default_mem_clock: int | None = None
    max_clock: int | None = None
    mem_clock: int | None = None
    max_mem_clock: int | None = None
    pcie_gen: int | None = None
    pcie_gen_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_replays: int | None = None
    fabric_state: str = ""
    fabric_status: str = ""
    processes: tuple[GpuProcess, ...] = ()

    @property
    def pci_address(self) -> str:
        """As sysfs writes it: ``0000:1b:00.0``."""
        domain, _, rest = self.bus_id.lower().partition(":")
        return f"{domain[-4:]}:{rest}" if rest else self.bus_id.lower()


@dataclass(frozen=True)
class Gpus:
    """All GPUs of a machine. ``source``: ``xml`` (everything) or ``csv`` (a driver or stand-in without ``-q -x``: less)."""

    driver: str
    cuda: str
    gpus: tuple[Gpu, ...]
    source: str = "xml"


CSV_FIELDS = "index,name,uuid,pci.bus_id,memory.total,memory.used,driver_version,persistence_mode,temperature.gpu,power.draw"


def parse_gpus(text: str) -> Gpus:
    """``nvidia-smi -q -x`` (any driver from R450 to R580: names of elements differ), or, after a line ``#csv FIELDS``, the
    CSV form."""
    if re.search("^#csv ", text, re.M):
        return _parse_csv(text)
    start = text.find("<nvidia_smi_log>")
    if start < 0:
        raise ProbeError("no <nvidia_smi_log> in it: " + (text.strip().splitlines() or ["empty"])[0][:120])
    try:
        root = ET.fromstring(text[start:])
    except ET.ParseError as error:
        raise ProbeError(f"broken XML: {error}") from None
    gpus = tuple(_gpu(i, element) for i, element in enumerate(root.findall("gpu")))
    return Gpus(_text(root, "driver_version"), _text(root, "cuda_version"), gpus)


def _text(element: ET.Element, *paths: str) -> str:
    """The text of the first path that exists and says something."""
    for path in paths:
        value = (element.findtext(path) or "").strip()
        if value and value not in ("N/A", "[N/A]", "Requested functionality has been deprecated"):
            return value
    return ""


def _flag(text: str) -> bool | None:
    return {"enabled": True, "disabled": False, "yes": True, "no": False}.get(text.lower())


def _sum(element: ET.Element, *paths: str) -> int | None:
    values = [v for v in (integer(_text(element, p)) for p in paths) if v is not None]
    return sum(values) if values else None


def _gpu(index: int, e: ET.Element) -> Gpu:
    reasons = next((x for x in map(e.find, ("clocks_event_reasons", "clocks_throttle_reasons")) if x is not None), None)
    active = tuple(
        re.sub(r"^clocks_(event|throttle)_reason_", "", r.tag) for r in (reasons if reasons is not None else ()) if r.text == "Active"
    )
    ecc, retired = "ecc_errors/volatile/", "retired_pages/"
    ever = "ecc_errors/aggregate/"
    link = "pci/pci_gpu_link_info/"
    processes = tuple(
        GpuProcess(integer(_text(p, "pid")) or 0, _text(p, "process_name"), integer(_text(p, "used_memory")))
        for p in e.findall("processes/process_info")
    )
    return Gpu(
        index=index,
        name=_text(e, "product_name"),
        uuid=_text(e, "uuid"),
        bus_id=_text(e, "pci/pci_bus_id") or e.get("id", ""),
        pci_device_id=_text(e, "pci/pci_device_id").removeprefix("0x")[:4].lower(),
        serial=_text(e, "serial"),
        vbios=_text(e, "vbios_version"),
        memory_mib=integer(_text(e, "fb_memory_usage/total")),
        memory_used_mib=integer(_text(e, "fb_memory_usage/used")),
        persistence=_flag(_text(e, "persistence_mode")),
        mig=_flag(_text(e, "mig_mode/current_mig")),
        compute_mode=_text(e, "compute_mode"),
        ecc=_flag(_text(e, "ecc_mode/current_ecc")),
        ecc_uncorrectable=_sum(
            e,
            *(ecc + n for n in ("sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_uncorrectable")),
        ),
        ecc_uncorrectable_ever=_sum(
            e,
            *(ever + n for n in ("sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_uncorrectable")),
        ),
        ecc_threshold=_flag(_text(e, ever + "sram_threshold_exceeded")),
        unrepairable=_flag(_text(e, "ecc_errors/unrepairable_memory")),
        retired_pages=_sum(e, retired + "multiple_single_bit_retirement/retired_count", retired + "double_bit_retirement/retired_count"),
        retired_pending=_flag(_text(e, retired + "pending_retirement", retired + "pending_blacklist")),
        remap_uncorrectable=integer(_text(e, "remapped_rows/remapped_row_unc")),
        remap_correctable=integer(_text(e, "remapped_rows/remapped_row_corr")),
        remap_pending=_flag(_text(e, "remapped_rows/remapped_row_pending")),
        remap_failure=_flag(_text(e, "remapped_rows/remapped_row_failure")),
        banks_exhausted=integer(_text(e, "remapped_rows/row_remapper_histogram/row_remapper_histogram_none")),
        recovery=_text(e, "gpu_recovery_action"),
        pstate=_text(e, "performance_state"),
        throttle=active,
        temperature=integer(_text(e, "temperature/gpu_temp")),
        power_draw=number(_text(e, "gpu_power_readings/average_power_draw", "gpu_power_readings/power_draw", "power_readings/power_draw")),
        power_limit=number(
            _text(e, "gpu_power_readings/current_power_limit", "gpu_power_readings/power_limit", "power_readings/power_limit")
        ),
        power_limit_default=number(_text(e, "gpu_power_readings/default_power_limit", "power_readings/default_power_limit")),
        sm_clock=integer(_text(e, "clocks/sm_clock")),
        app_clock=integer(_text(e, "applications_clocks/graphics_clock")),
        app_mem_clock=integer(_text(e, "applications_clocks/mem_clock")),
        default_mem_clock=integer(_text(e, "default_applications_clocks/mem_clock")),
        max_clock=integer(_text(e, "max_clocks/graphics_clock")),
        mem_clock=integer(_text(e, "clocks/mem_clock")),
        max_mem_clock=integer(_text(e, "max_clocks/mem_clock")),
        pcie_gen=integer(_text(e, link + "pcie_gen/current_link_gen")),
        pcie_gen_max=integer(_text(e, link + "pcie_gen/max_link_gen")),
        pcie_width=integer(_text(e, link + "link_widths/current_link_width").rstrip("x")),
        pcie_width_max=integer(_text(e, link + "link_widths/max_link_width").rstrip("x")),
        pcie_replays=integer(_text(e, "pci/replay_counter")),
        fabric_state=_text(e, "fabric/state"),
        fabric_status=_text(e, "fabric/status"),
        processes=processes,
    )


def _parse_csv(text: str) -> Gpus:
    lines = text.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("#csv "))
    fields = lines[at].removeprefix("#csv ").split(",")
    gpus, driver = [], ""
    for line in lines[at + 1 :]:
        if not line.strip():
            continue
        values = [v.strip() for v in line.split(",")]
        if len(values) != len(fields):
            raise ProbeError(f"{len(values)} values for {len(fields)} fields: {line!r}")
        r = dict(zip(fields, values, strict=True))
        driver = r.get("driver_version", driver)
        gpus.append(
            Gpu(
                index=integer(r.get("index")) or 0,
                name=r.get("name", ""),
                uuid=r.get("uuid", ""),
                bus_id=r.get("pci.bus_id", ""),
                memory_mib=integer(r.get("memory.total")),
                memory_used_mib=integer(r.get("memory.used")),
                persistence=_flag(r.get("persistence_mode", "")),
                temperature=integer(r.get("temperature.gpu")),
                power_draw=number(r.get("power.draw")),
            )
        )
    return Gpus(driver, "", tuple(gpus), source="csv")


GPU_HINT = "install the NVIDIA driver and see that nvidia-smi runs on the node"
GPUS = Probe(
    "gpus",
    rf"""
command -v nvidia-smi >/dev/null || {{ echo "nvidia-smi is not installed" >&2; exit 127; }}
if x=`nvidia-smi -q -x 2>&1`; then
  printf '%s\n' "$x" | sed '/<supported_clocks>/,/<\/supported_clocks>/d'
else
  c=`nvidia-smi --query-gpu={CSV_FIELDS} --format=csv,noheader,nounits 2>&1` || {{ printf '%s\n' "$c" >&2; exit 9; }}
  printf '#csv %s\n%s\n' {CSV_FIELDS} "$c"
fi
""",
    parse_gpus,
    seconds=60,
    hint=GPU_HINT,
)


@dataclass(frozen=True)
class NvLinks:
    """Links per GPU index: speed in GB/s, None = inactive."""

    links: tuple[tuple[int, tuple[float | None, ...]], ...]


def parse_nvlinks(text: str) -> NvLinks:
    """``nvidia-smi nvlink -s``: ``GPU 0: NAME (UUID: ...)`` and below it ``Link 0: 26.562 GB/s`` or ``Link 0: <inactive>``."""
    found: dict[int, list[float | None]] = {}
    gpu: int | None = None
    for line in text.splitlines():
        if head := re.match(r"\s*GPU ([0-9]{1,9}):", line):
            gpu = int(head[1])
            found[gpu] = []
        elif gpu is not None and (link := re.match(r"\s*Link \d+:\s*(?:([0-9]{1,9}(?:\.[0-9]+)?) GB/s|(.*))", line)):
            found[gpu].append(float(link[1]) if link[1] else None)
    return NvLinks(tuple((g, tuple(v)) for g, v in sorted(found.items())))


NVLINKS = Probe(
    "nvlinks",
    'command -v nvidia-smi >/dev/null || { echo "nvidia-smi is not installed" >&2; exit 127; }\nnvidia-smi nvlink -s',
    parse_nvlinks,
    seconds=30,
    hint=GPU_HINT,
)


@dataclass(frozen=True)
class GpuOwner:
    """Who owns a process on the GPUs: user, command line (shortened) and container id (12 digits) if it runs in one."""

    pid: int
    user: str
    command: str
    container: str


def parse_gpu_owners(text: str) -> dict[int, GpuOwner]:
    """``owner<TAB>PID<TAB>USER<TAB>CONTAINER<TAB>COMMAND`` per process."""
    found = ((integer(r[0]), r) for r in rows(text, "owner", 4))
    return {pid: GpuOwner(pid, r[1], r[3], r[2]) for pid, r in found if pid is not None}


GPU_OWNERS = Probe(
    "gpu_owners",
    r"""
command -v nvidia-smi >/dev/null || { echo "nvidia-smi is not installed" >&2; exit 127; }
for p in `nvidia-smi --query-compute-apps=pid --format=csv,noheader,nounits 2>/dev/null | tr -dc '0-9\n' | sort -u`; do
  [ -d /proc/$p ] || continue
  u=`stat -c %U /proc/$p 2>/dev/null`
  c=`sed -n 's/.*\([0-9a-f]\{64\}\).*/\1/p' /proc/$p/cgroup 2>/dev/null | head -n 1 | cut -c1-12`
  a=`tr '\0\t\n' '   ' </proc/$p/cmdline 2>/dev/null | cut -c1-160`
  printf 'owner\t%s\t%s\t%s\t%s\n' $p "$u" "$c" "$a"
done
""",
    parse_gpu_owners,
    seconds=30,
    hint=GPU_HINT,
)


@dataclass(frozen=True)
class Driver:
    """Kernel side of the driver. ``peermem``: the module that gives NICs access to GPU memory, or "". ``open_kernel``:
    dma-buf capable. ``devices``: GPUs with a file in /dev, None where that was not told."""

    version: str
    open_kernel: bool
    modules: tuple[str, ...]
    dmabuf_kernel: bool
    devices: int | None = None

    @property
    def peermem(self) -> str:
        """``nvidia_peermem`` or ``nv_peer_mem`` when loaded, else an empty text."""
        return next((m for m in ("nvidia_peermem", "nv_peer_mem") if m in self.modules), "")


def parse_driver(text: str) -> Driver:
    """``nvrm=NVRM version: ...`` (first line of /proc/driver/nvidia/version), ``module=NAME`` lines, ``dmabuf=yes|no``
    (kernel >= 5.12), ``devices=N`` files /dev/nvidia0 ..."""
    p = pairs(text)
    version = re.search(r"(\d{3}\.\d+(?:\.\d+)?)", p.get("nvrm", ""))
    if not version:
        raise ProbeError(f"no version in {p.get('nvrm', '')!r}")
    modules = tuple(sorted({x.split("=", 1)[1].strip() for x in text.splitlines() if x.startswith("module=")} - {""}))
    return Driver(version[1], "Open Kernel Module" in p["nvrm"], modules, p.get("dmabuf") == "yes", integer(p.get("devices")))


DRIVER = Probe(
    "driver",
    r"""
[ -r /proc/driver/nvidia/version ] || { echo "/proc/driver/nvidia/version is not there: the NVIDIA kernel module is not loaded" >&2; exit 127; }
read -r v </proc/driver/nvidia/version; echo "nvrm=$v"
while read -r m rest; do case $m in nvidia*|nv_peer_mem|gdrdrv) echo "module=$m";; esac; done </proc/modules
k=`uname -r`; a=${k%%.*}; b=${k#*.}; b=${b%%[!0-9]*}
if [ "$a" -gt 5 ] || { [ "$a" -eq 5 ] && [ "${b:-0}" -ge 12 ]; }; then echo dmabuf=yes; else echo dmabuf=no; fi
n=0; for f in /dev/nvidia[0-9]*; do [ -e "$f" ] && n=$((n + 1)); done; echo "devices=$n"
""",
    parse_driver,
    hint="modprobe nvidia",
)


@dataclass(frozen=True)
class FabricManager:
    """NVSwitches seen in PCI, and the service that configures them. ``state``: active, inactive, failed, absent, unknown."""

    nvswitches: int
    state: str
    version: str = ""
    details: tuple[str, ...] = field(default=())


def parse_fabric_manager(text: str) -> FabricManager:
    """``nvswitches=N``, ``state=active|inactive|failed|absent|unknown``, ``version=``."""
    p = pairs(text)
    count = integer(p.get("nvswitches"))
    if count is None:
        raise ProbeError("no nvswitches= line")
    version = re.search(r"\d{3}\.\d+(?:\.\d+)?", p.get("version", ""))
    return FabricManager(count, p.get("state", "unknown") or "unknown", version[0] if version else "")


# An NVSwitch is a PCI bridge (class 0x0680) of vendor 0x10de.
FABRIC_MANAGER = Probe(
    "fabric_manager",
    r"""
n=0
for d in /sys/bus/pci/devices/*; do
  v= c=; { read -r v <$d/vendor; read -r c <$d/class; } 2>/dev/null
  case "$v $c" in "0x10de 0x0680"*) n=$((n + 1));; esac
done
echo "nvswitches=$n"
s=
if command -v systemctl >/dev/null; then
  s=`systemctl is-active nvidia-fabricmanager 2>/dev/null`
  case $s in unknown|inactive|'') systemctl cat nvidia-fabricmanager >/dev/null 2>&1 || s=absent;; esac
fi
case $s in active) ;; *) pidof nv-fabricmanager >/dev/null 2>&1 && s=active;; esac
echo "state=${s:-absent}"
echo "version=`nv-fabricmanager --version 2>/dev/null | head -n 1`"
""",
    parse_fabric_manager,
)


def parse_topology(text: str) -> dict[tuple[str, str], str]:
    """``nvidia-smi topo -m``: (row, column) -> PIX, PXB, PHB, NODE, SYS, NV18 ...; NIC aliases (NIC0) are resolved by its
    legend."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line for line in plain.splitlines() if line.strip()]
    header = next((line for line in lines if re.match(r"^\s*GPU0\b", line)), None)
    if header is None:
        raise ProbeError("no header row GPU0 ...")
    columns = [c.strip() for c in header.strip().split("\t") if c.strip()]
    alias = dict(re.findall(r"^\s*(NIC\d+):\s*(\S+)", plain, re.M))
    found = {}
    for line in lines[lines.index(header) + 1 :]:
        cells = [c.strip() for c in line.strip().split("\t")]
        if not re.match(r"^(GPU\d+|NIC\d+|mlx\w+|[a-z]\w*)$", cells[0]) or len(cells) < 2 or cells[0] == "Legend:":
            continue
        for column, value in zip(columns, cells[1:], strict=False):
            if re.match(r"^(X|PIX|PXB|PHB|NODE|SYS|NV\d+|PIX?)$", value):
                found[alias.get(cells[0], cells[0]), alias.get(column, column)] = value
    return found


TOPOLOGY = Probe(
    "topology",
    'command -v nvidia-smi >/dev/null || { echo "nvidia-smi is not installed" >&2; exit 127; }\nnvidia-smi topo -m',
    parse_topology,
    seconds=30,
    hint=GPU_HINT,
)
