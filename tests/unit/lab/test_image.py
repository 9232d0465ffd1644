"""The image archive: which packages, what the layer holds, the same bytes every time."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tests.lab.image import ENVIRONMENT, archive, closure, image_name, layer

DEPENDS = {
    "bash": "libc6 (>= 2.36), base-files (>= 2.1) , ",
    "libc6": "libgcc-s1, debconf (>= 0.5) | debconf-2.0",
    "libgcc-s1": "libc6",
    "base-files": "awk, ",
    "debconf": "perl-base",
    "perl-base": "",
    "vim": "",
}


def test_closure_follows_dependencies_among_installed_packages() -> None:
    assert closure(["bash", "not-installed"], DEPENDS) == {"bash", "libc6", "libgcc-s1", "base-files"}


def test_layer_has_shell_link_and_engine_folder_and_no_name_twice(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("x")
    with tarfile.open(fileobj=io.BytesIO(layer([program]))) as tar:
        names = tar.getnames()
        assert tar.getmember("usr/bin/sh").linkname == "dash"
        assert tar.getmember("opt/engine").isdir()
        assert tar.getmember("tmp").mode == 0o1777
        assert str(program).lstrip("/") in names
    assert len(names) == len(set(names))


def test_archive_is_what_docker_load_reads_and_reproducible() -> None:
    data = archive(image_name("vllm", "0.32.0"), b"layer", ENVIRONMENT)
    assert data == archive(image_name("vllm", "0.32.0"), b"layer", ENVIRONMENT)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (manifest,) = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        config = json.loads(tar.extractfile(manifest["Config"]).read())  # type: ignore[union-attr]
    assert manifest["RepoTags"] == ["h20-lab/vllm:0.32.0-cpu"]
    assert config["config"]["Env"][0].startswith("PATH=/opt/engine/bin:")
