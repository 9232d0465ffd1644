"""The container daemon of a node through the docker SDK, over a unix socket on this side (forwarded or the machine's own).

No docker CLI anywhere. The API version is the daemon's own (``version="auto"``); the SDK refuses daemons below API 1.24 (Docker
1.12, 2016; ``docker.constants.MINIMUM_DOCKER_API_VERSION``), and GPUs need API 1.40 (Docker 19.03). What the daemon refuses
comes back in its own words with a hint; a daemon that does not answer is a ``TransportError``.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_h20.core.errors import CommandTimeout, H20Error, TransportError, unforeseen
from pytest_h20.nodes.base import CommandResult, ContainerInfo, ContainerSpec, DaemonInfo, ImageInfo

if TYPE_CHECKING:
    import docker

API_TIMEOUT = 120.0
"""Seconds the daemon may be silent. Starting a container on eight GPUs without persistence mode takes tens of seconds."""

_GPU_API = (1, 40)
_PODMAN_GPUS = (5, 4)
"""Podman whose Docker-compatible API heeds requests for GPUs, and of them only CDI's (pkg/api/handlers/compat/containers_create.go;
lablup/backend.ai#13829). An older one starts the container without any and says nothing (podman#22645, backend.ai#13820)."""
_GONE_WITHIN = 30.0  # after SIGKILL; a process in state D can hold a container longer: that is an error worth telling

HINTS: tuple[tuple[str, str], ...] = (
    (
        r"could not select device driver",
        "the daemon knows no GPU runtime: install nvidia-container-toolkit on the node, "
        "`nvidia-ctk runtime configure --runtime=docker`, `systemctl restart docker`",
    ),
    (r"driver/library version mismatch", "the NVIDIA driver was updated without a reboot: reboot the node"),
    (
        r"nvidia-container-cli|nvml error|driver not loaded|libnvidia-ml",
        "the NVIDIA driver on the node does not answer: `nvidia-smi` there must work first",
    ),
    (r"unknown or invalid runtime name|unknown runtime specified", "the daemon has no such runtime: `docker info` on the node"),
    (
        r"bind source path does not exist|statfs \S+: no such file",
        "the folder is not on the node: mend the mount's source in the inventory",
    ),
    (
        r"unresolvable CDI devices",
        "no CDI specification names this GPU: `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` on the node",
    ),
    (r"stat /dev/\S+: no such file", "the device is not on the node: mend `devices` in the profile"),
    (
        r"executable file not found|no such file or directory: unknown|attempted to invoke a command that was not found",
        "the image has no such program: is it the right image?",
    ),
    (r"permission denied: unknown|exec format error", "the program cannot run in this image (mode, or another architecture)"),
    (r"no space left on device", "the node's disk is full: `df -h` and `docker system df` there"),
    (r"cannot allocate memory", "the node is out of memory: `free -g` there"),
    (r"error setting rlimit", "the daemon may not raise this limit: see `ulimits`, and LimitMEMLOCK of docker.service"),
    (r"unable to apply caps|operation not permitted", "the daemon itself lacks this right (rootless, or inside a container?)"),
    (r"address already in use|port is already allocated", "another process on the node has the port: `ss -ltnp` there"),
    (r"error gathering device information|no such device", "the device is not on the node: mend `devices` in the profile"),
    (r"read-only file system", "the mount's target lies in a read-only place"),
)
"""What the daemon says (pattern) and what helps. Wording of dockerd 20.10-29, runc 1.1 and nvidia-container-toolkit 1.x."""


def hint(words: str) -> str:
    """What to do about a daemon's refusal, or ""."""
    return next((advice for pattern, advice in HINTS if re.search(pattern, words, re.I)), "")


def gpu_request(gpus: str) -> dict[str, Any]:
    """The arguments of docker's ``DeviceRequest`` for "all", "4" or "device=0,1" (as in ``docker run --gpus``)."""
    capabilities = [["gpu"]]
    value = gpus.strip().strip("\"'")
    if value == "all":
        return {"count": -1, "capabilities": capabilities}
    if value.isdigit() and int(value) > 0:
        return {"count": int(value), "capabilities": capabilities}
    devices = [d.strip() for d in value.removeprefix("device=").split(",") if d.strip()]
    if value.startswith("device=") and devices:
        return {"device_ids": devices, "capabilities": capabilities}
    raise H20Error(f'gpus is {gpus!r}; accepted: "all", a number such as "8", or "device=0,1"')


def cdi_request(gpus: str) -> dict[str, Any]:
    """The same for Podman, by the names that ``nvidia-ctk cdi generate`` gives them."""
    asked = gpu_request(gpus)
    names = asked.get("device_ids") or (["all"] if asked["count"] < 0 else [str(n) for n in range(asked["count"])])
    return {"driver": "cdi", "device_ids": [f"nvidia.com/gpu={name}" for name in names]}


_ODD_ANSWER = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading JSON of another form than Docker's raises."""


def container_info(data: Mapping[str, Any]) -> ContainerInfo:
    """What ``docker inspect`` says, in our terms. Raises ``H20Error`` for what is no description of a container."""
    try:
        state, config = data.get("State") or {}, data.get("Config") or {}
        status = str(state.get("Status", "unknown"))
        return ContainerInfo(
            id=str(data["Id"]),
            name=str(data.get("Name", "")).lstrip("/"),
            image=str(config.get("Image", "")),
            status=status,
            exit_code=int(state.get("ExitCode", 0)) if status in ("exited", "dead") else None,
            oom_killed=bool(state.get("OOMKilled", False)),
            labels={str(key): str(value) for key, value in dict(config.get("Labels") or {}).items()},
            created=str(data.get("Created", "")),
        )
    except _ODD_ANSWER as error:
        raise H20Error(f"the container daemon describes a container in no form we know ({error!r}): {str(data)[:200]}") from error


ABSENT = """for p in %s; do
  [ -e "$p" ] && continue
  q=$p; while [ ! -d "$q" ]; do q=$(dirname "$q"); done
  [ -x "$q" ] && echo "$p"
done
:"""
"""A shell command that prints those of the paths that are not there; of one that the login cannot walk to it says nothing."""


class DockerContainers:
    """``Containers`` on one node. Thread-safe; connects on first use.

    ``reach``: makes the way to the daemon, called before the first question; returns the socket's path on this machine or
    raises ``TransportError``. ``where``: how errors name the socket. ``kill``: ends a process of the node by its pid (for
    commands in a container that outlive their deadline: the API has no call for it). ``problem``: why the tunnel to the daemon
    failed last. ``absent``: those of some paths that are surely not on the node.
    """

    def __init__(
        self,
        node: str,
        reach: Callable[[], str],
        where: str,
        kill: Callable[[int], str],
        problem: Callable[[], str] = lambda: "",
        timeout: float = API_TIMEOUT,
        absent: Callable[[Sequence[str]], Sequence[str]] = lambda paths: (),
    ) -> None:
        self._node = node
        self._reach = reach
        self._where = where
        self._kill = kill
        self._problem = problem
        self._timeout = timeout
        self._absent = absent
        self._client: docker.APIClient | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the HTTP connections. May be called twice."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    # --- questions

    def daemon(self) -> DaemonInfo:
        """Version and settings of the daemon."""
        with self._asking("its version") as api:
            version, info = api.version(), api.info()
            return DaemonInfo(
                version=str(version.get("Version", "")),
                api_version=str(version.get("ApiVersion", "")),
                storage_driver=str(info.get("Driver", "")),
                runtimes=tuple(sorted(map(str, info.get("Runtimes") or {}))),
                root_dir=str(info.get("DockerRootDir", "")),
                podman=bool(_podman(version)),
            )

    def image(self, reference: str) -> ImageInfo | None:
        """The image, or None when the node does not have it. Never pulls."""
        import docker

        with self._asking(f"the image {reference}") as api:
            try:
                data: dict[str, Any] = api.inspect_image(reference)  # type: ignore[no-untyped-call]
            except docker.errors.NotFound:
                return None
            return ImageInfo(
                reference=reference,
                id=str(data["Id"]),
                digests=tuple(map(str, data.get("RepoDigests") or ())),
                size=int(data.get("Size") or 0),
                created=str(data.get("Created", "")),
            )

    def find(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """All containers (stopped ones too) that carry every one of these labels (empty value: any value)."""
        if not labels:
            raise H20Error(f"{self._node}: containers are found by label only: none was given")
        wanted = [f"{key}={value}" if value else key for key, value in labels.items()]
        with self._asking("the containers") as api:
            ids = [str(c["Id"]) for c in api.containers(all=True, filters={"label": wanted})]
        found = (self.inspect(one) for one in ids)
        return [c for c in found if c is not None]

    def inspect(self, container_id: str) -> ContainerInfo | None:
        """The container, or None when it is gone."""
        import docker

        with self._asking(f"the container {container_id[:12]}") as api:
            try:
                return container_info(api.inspect_container(container_id))
            except docker.errors.NotFound:
                return None

    def logs(self, container_id: str, tail: int | None = None) -> str:
        """What its first process printed, both streams."""
        with self._asking(f"the output of container {container_id[:12]}") as api:
            data: bytes = api.logs(container_id, stdout=True, stderr=True, tail="all" if tail is None else tail)
        return data.decode("utf-8", "replace")

    # --- life and death

    def start(self, spec: ContainerSpec) -> ContainerInfo:
        """Create and start. Raises ``H20Error`` with the daemon's own words and a hint when it refuses."""
        import docker

        what = f"to start the container {spec.name!r} from {spec.image}"
        with self._asking(what) as api:
            config = self._host_config(api, spec)
            try:
                created = api.create_container(
                    image=spec.image,
                    name=spec.name,
                    entrypoint=[spec.argv[0]],
                    command=list(spec.argv[1:]),
                    environment=dict(spec.env),
                    labels=dict(spec.labels),
                    host_config=config,
                )
            except docker.errors.ImageNotFound as error:
                raise H20Error(self._no_image(api, spec.image)) from error
            except docker.errors.APIError as error:
                if error.status_code in (409, 500) and re.search(r"name .*in use", _words(error)):
                    raise H20Error(self._name_taken(spec.name, error)) from error
                if error.status_code == 404 and "image" in _words(error).lower():
                    raise H20Error(self._no_image(api, spec.image)) from error
                raise
            container = str(created["Id"])
            try:
                api.start(container)
            except BaseException:
                with contextlib.suppress(Exception):  # the refusal is the news; what was created must not stay
                    api.remove_container(container, force=True, v=True)
                raise
        info = self.inspect(container)
        if info is None:
            raise H20Error(f"{self._node}: the container {spec.name!r} was removed by somebody right after its start")
        return info

    def run(self, spec: ContainerSpec, timeout: float = 120.0) -> CommandResult:
        """Start, wait, collect the output, remove: for questions to an image. Kills it at the deadline."""
        began = time.monotonic()
        container = self.start(spec)
        command = " ".join(spec.argv)
        try:
            pause = 0.05
            while True:
                state = self.inspect(container.id)
                if state is None:
                    raise H20Error(f"{self._node}: the container {spec.name!r} was removed by somebody while it ran")
                if state.exit_code is not None:
                    break
                if time.monotonic() - began > timeout:
                    said = " / ".join(self.logs(container.id, tail=5).split("\n"))[-600:]
                    raise CommandTimeout(
                        f"{self._node}: `{command}` in {spec.image} was stopped at its deadline of {timeout:g} s; "
                        f"last output: {said or 'none'}"
                    )
                time.sleep(pause)
                pause = min(0.5, pause * 1.5)
            with self._asking(f"the output of {spec.name!r}") as api:
                out: bytes = api.logs(container.id, stdout=True, stderr=False)
                err: bytes = api.logs(container.id, stdout=False, stderr=True)
        finally:
            self.remove(container.id)
        seconds = time.monotonic() - began
        text, errors = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
        return CommandResult(self._node, command, state.exit_code, text, errors, seconds)

    def exec(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60.0) -> CommandResult:
        """Run a command in a running container and wait for it. Its processes are killed at the deadline."""
        began = time.monotonic()
        command = " ".join(argv)
        out: list[bytes] = []
        err: list[bytes] = []
        failed: list[Exception] = []
        with self._asking(f"to run `{command}` in container {container_id[:12]}") as api:
            exec_id = str(api.exec_create(container_id, list(argv), environment=dict(env or {}))["Id"])
            stream = api.exec_start(exec_id, stream=True, demux=True)

            def drain() -> None:
                try:
                    for data, errors in stream:
                        if data:
                            out.append(data)
                        if errors:
                            err.append(errors)
                except Exception as error:  # a broken stream is judged below, in the caller's thread
                    failed.append(error)

            reader = threading.Thread(target=drain, daemon=True, name=f"h20-exec-{self._node}")
            reader.start()
            reader.join(timeout)
            state = api.exec_inspect(exec_id)
            if reader.is_alive() and state.get("Running"):
                left = self._kill(int(state["Pid"])) if state.get("Pid") else "its pid is not known"
                reader.join(2.0)
                note = f"not all of it could be killed: {left}" if left else "it was killed"
                said = b"".join(err or out).decode("utf-8", "replace").strip()[-300:]
                raise CommandTimeout(
                    f"{self._node}: `{command}` in container {container_id[:12]} was stopped at its deadline of {timeout:g} s; "
                    f"{note}; last output: {said or 'none'}"
                )
            if failed:
                raise failed[0]
        if state.get("ExitCode") is None:
            raise TransportError(f"{self._node}: `{command}` in container {container_id[:12]} ended without an exit status")
        text, errors = (b"".join(part).decode("utf-8", "replace") for part in (out, err))
        return CommandResult(self._node, command, int(state["ExitCode"]), text, errors, time.monotonic() - began)

    def exec_detached(self, container_id: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start a command in a running container and leave it running."""
        with self._asking(f"to start `{' '.join(argv)}` in container {container_id[:12]}") as api:
            created = api.exec_create(container_id, list(argv), environment=dict(env or {}), stdout=False, stderr=False)
            api.exec_start(str(created["Id"]), detach=True)

    def stop(self, container_id: str, timeout: float = 10.0) -> None:
        """SIGTERM, SIGKILL after ``timeout`` seconds, and wait until it has really ended. Gone already is fine."""
        import docker

        # our own clock: the daemon's stop call waits in one silent HTTP request and gives up waiting after SIGKILL
        for signal, patience in (("SIGTERM", timeout), ("SIGKILL", _GONE_WITHIN)):
            with self._asking(f"to stop container {container_id[:12]}") as api:
                try:
                    api.kill(container_id, signal)
                except docker.errors.NotFound:
                    return
                except docker.errors.APIError as error:
                    # it is not running: Docker's way of saying so, and Podman's
                    if error.status_code != 409 and "can only kill running containers" not in _words(error):
                        raise
            if self._ended(container_id, patience):
                return
        raise H20Error(
            f"{self._node}: container {container_id[:12]} still runs {_GONE_WITHIN:g} s after SIGKILL: one of its processes "
            "is stuck in the kernel (state D: a hung driver or NFS). Next: `ps -eo pid,state,wchan:30,cmd` on the node"
        )

    def remove(self, container_id: str) -> None:
        """Remove it with its anonymous volumes, killing it if it runs, and wait until it is gone. Gone already is fine."""
        import docker

        deadline = time.monotonic() + _GONE_WITHIN
        words = ""
        while True:
            with self._asking(f"to remove container {container_id[:12]}") as api:
                try:
                    api.remove_container(container_id, force=True, v=True)
                except docker.errors.NotFound:
                    return
                except docker.errors.APIError as error:
                    # 409: somebody removes it already; 500: its mounts are still busy. Both end by themselves, or they do not
                    if error.status_code not in (409, 500):
                        raise
                    words = _words(error)
            if self.inspect(container_id) is None:
                return
            if time.monotonic() > deadline:
                raise H20Error(f"{self._node}: container {container_id[:12]} cannot be removed: {words or 'it stays'}")
            time.sleep(0.2)

    def _ended(self, container_id: str, patience: float) -> bool:
        deadline = time.monotonic() + patience
        pause = 0.05
        while True:
            state = self.inspect(container_id)
            if state is None or state.status in ("exited", "dead", "created"):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(pause, max(0.01, deadline - time.monotonic())))
            pause = min(0.5, pause * 1.5)

    # --- how

    def _host_config(self, api: docker.APIClient, spec: ContainerSpec) -> dict[str, Any]:
        import docker
        from docker.types import DeviceRequest, Mount, Ulimit
        from docker.utils import parse_bytes

        if not spec.argv:
            raise H20Error(f"{self._node}: the container {spec.name!r} has an empty argv: what should it run?")
        options: dict[str, Any] = {}
        podman = _podman(api.version())
        if podman and spec.runtime is not None:
            raise H20Error(
                f"{self._node}: this daemon is Podman {podman}, whose Docker-compatible API ignores `runtime` ({spec.runtime}). "
                "Next: leave `runtime` out of the profile, and give `gpus`"
            )
        if podman and (absent := self._absent([mount.source for mount in spec.mounts])):
            # Podman would make them, as root
            raise H20Error(f"{self._node}: {', '.join(absent)} is not on the node: mend the mount's source in the inventory")
        if podman and spec.gpus is not None:
            if tuple(int(part) for part in re.findall("[0-9]{1,9}", podman)[:2]) < _PODMAN_GPUS:
                raise H20Error(
                    f"{self._node}: this daemon is Podman {podman}; GPUs (`--gpus {spec.gpus}`) need Podman "
                    f"{'.'.join(map(str, _PODMAN_GPUS))}: an older one ignores them in its Docker-compatible API, and the container starts "
                    "without any. Next: update Podman on the node, or use Docker there"
                )
            options["device_requests"] = [DeviceRequest(**cdi_request(spec.gpus))]
        elif spec.gpus is not None:
            version = tuple(int(part) for part in str(api.api_version).split(".")[:2])
            if version < _GPU_API:
                raise H20Error(
                    f"{self._node}: this daemon speaks API {api.api_version}; GPUs (`--gpus {spec.gpus}`) need API 1.40 "
                    "(Docker 19.03). Next: update Docker on the node, or set `runtime: nvidia` and no `gpus` in the profile"
                )
            options["device_requests"] = [DeviceRequest(**gpu_request(spec.gpus))]
        if spec.shm_size is not None and not (podman and spec.ipc == "host"):  # /dev/shm is the host's then; Podman refuses to say more
            try:
                options["shm_size"] = parse_bytes(spec.shm_size)
            except docker.errors.DockerException as error:
                raise H20Error(f'shm_size is {spec.shm_size!r}; accepted: a size such as "128g" or "512m" ({error})') from error
        if spec.runtime is not None:
            options["runtime"] = spec.runtime
        return dict(
            api.create_host_config(
                # mounts, not binds: a source that is missing is an error then, not a new empty folder of root's on the node
                mounts=[Mount(m.target, m.source, type="bind", read_only=m.read_only) for m in spec.mounts],
                network_mode=spec.network,
                ipc_mode=spec.ipc,
                privileged=spec.privileged,
                ulimits=[Ulimit(name=name, soft=soft, hard=hard) for name, (soft, hard) in spec.ulimits.items()],
                cap_add=list(spec.cap_add),
                security_opt=list(spec.security_opt),
                devices=list(spec.devices),
                **options,
            )
        )

    def _no_image(self, api: docker.APIClient, reference: str) -> str:
        with contextlib.suppress(Exception):  # a courtesy: the error stands without it
            tags = sorted(tag for image in api.images() for tag in (image.get("RepoTags") or ()) if "<none>" not in tag)
            has = f"it has {', '.join(tags[:12])}{' ...' if len(tags) > 12 else ''}" if tags else "it has none at all"
            return f"{self._node}: the image {reference} is not on the node ({has}). Next: `docker pull {reference}` there"
        return f"{self._node}: the image {reference} is not on the node. Next: `docker pull {reference}` there"

    def _name_taken(self, name: str, error: docker.errors.APIError) -> str:
        owner = self.inspect(name)
        if owner is None:
            return f"{self._node}: the container name {name!r} is taken: {_words(error)}"
        labels = ", ".join(f"{k}={v}" for k, v in sorted(owner.labels.items())[:6]) or "none"
        return (
            f"{self._node}: the container name {name!r} is taken by container {owner.id[:12]} (image {owner.image}, "
            f"{owner.status}, made {owner.created}, labels: {labels}). "
            f"Next: if it is yours, `docker rm -f {owner.id[:12]}` on the node"
        )

    def _api(self) -> docker.APIClient:
        import docker

        with self._lock:
            if self._client is None:
                path = self._reach()
                try:
                    # the stubs say int; the SDK hands it to requests, which takes fractions
                    self._client = docker.APIClient(base_url=f"unix://{path}", version="auto", timeout=int(self._timeout))
                except docker.errors.InvalidVersion as error:
                    raise H20Error(
                        f"{self._node}: the container daemon ({self._where}) is too old: {error}. Accepted: API 1.24 or newer "
                        "(Docker 1.12), with GPUs 1.40 (Docker 19.03). Next: update Docker on the node"
                    ) from error
            return self._client

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[docker.APIClient]:
        """Lend the client; turn what can go wrong into our two kinds of error."""
        import docker
        import requests
        import urllib3

        try:
            yield self._api()
        except docker.errors.APIError as error:
            words = _words(error)
            advice = hint(words)
            advice = f". Next: {advice}" if advice else ""
            raise H20Error(f"{self._node}: the container daemon was asked {what} and refused: {words}{advice}") from error
        except requests.exceptions.Timeout as error:
            raise TransportError(
                f"{self._node}: the container daemon ({self._where}) was asked {what} and did not answer within "
                f"{self._timeout:g} s. Next: `docker ps` on the node; dockerd may hang on a container that cannot be ended"
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, docker.errors.DockerException, OSError) as error:
            why = self._problem() or str(error)
            raise TransportError(
                f"{self._node}: the container daemon ({self._where}) was asked {what} and cannot be reached: {why}"
            ) from error
        except _ODD_ANSWER as error:
            raise TransportError(
                f"{self._node}: the container daemon ({self._where}) was asked {what} and answered in no form we know "
                f"({unforeseen(error)}). Next: see that it is Docker that listens there"
            ) from error


def _podman(version: Mapping[str, Any]) -> str:
    """The version of Podman, where it is that which answers; "" for Docker."""
    parts = version.get("Components") or ()
    return next((str(p.get("Version", "0")) for p in parts if "podman" in str(p.get("Name", "")).lower()), "")


def _words(error: docker.errors.APIError) -> str:
    """The daemon's own explanation on one line."""
    text = error.explanation or str(error)
    return " ".join((text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)).split())
