"""Where the lab keeps its things on this machine, and where a node sees them."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_h20.core.errors import H20Error

DEFAULT_DIR = "/var/cache/pytest-h20-lab"
DEFAULT_CLUSTER = "lab"

# On a node. The model lies where the write-up has it (/ssd1/models, mounted as /mnt/models).
NODE_TREES = "/opt/h20-lab/engines"
NODE_IMAGES = "/opt/h20-lab/images"
NODE_MODELS = "/ssd1/models"
MODEL_NAME = "DeepSeek-R1-lab"

# In a container: the engine's Python environment, first in the image's PATH.
CONTAINER_TREE = "/opt/engine"


class LabError(H20Error):
    """The lab cannot do what was asked; the text says why and what to do next."""


def lab_dir() -> Path:
    """The lab's folder: ``$H20_LAB_DIR`` or ``/var/cache/pytest-h20-lab``; about 4 GB per engine."""
    return Path(os.environ.get("H20_LAB_DIR") or DEFAULT_DIR)


def trees_dir() -> Path:
    """One Python environment per engine, read-only for the nodes."""
    return lab_dir() / "engines"


def images_dir() -> Path:
    """Docker image archives that every node loads."""
    return lab_dir() / "images"


def debian_dir() -> Path:
    """A Debian tree as the root of GPU nodes, for machines that have no sshd and dockerd of their own."""
    return lab_dir() / "debian"


def suite_dir() -> Path:
    """What the suite itself needs and a machine without a network lacks: a folder for PYTHONPATH."""
    return lab_dir() / "suite"


def models_dir() -> Path:
    """Models; every node gets its own copy, so that a test can damage one node's."""
    return lab_dir() / "models"


def cluster_dir(name: str = DEFAULT_CLUSTER) -> Path:
    """Key, known_hosts, state and the nodes' folders of one cluster; exists while it is up."""
    return lab_dir() / "clusters" / name
