"""What users write wrongly: any text is an inventory or one clear ``UsageError``, soon, and in the inventory's words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_h20.config.inventory import parse_inventory, read_yaml
from pytest_h20.config.limits import parse_limits
from pytest_h20.core.errors import UsageError
from pytest_h20.nodes.ssh_config import SshSettings, resolve

EXAMPLE = Path(__file__).parents[3] / "environments/h20-2node.yaml"


def example(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    for path, value in changes.items():
        here: Any = data
        *way, last = path.split("__")
        for step in way:
            here = here[int(step) if step.isdigit() else step]
        here[int(last) if last.isdigit() else last] = value
    return data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes__0__address": "root@10.0.0.1"}, "ssh: {user"),
        ({"nodes__0__address": "10.0.0.1:2222"}, "ssh: {port: 2222}"),
        ({"nodes__0__address": "10.0.0.1\nx"}, "without blanks or line ends"),
        ({"model__path": "/elsewhere/DeepSeek-R1"}, "outside mount"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_once(change: dict[str, Any], words: str) -> None:
    parse_inventory(example(), "x.yaml")
    with pytest.raises(UsageError, match=r"x\.yaml: ") as caught:
        parse_inventory(example(**change), "x.yaml")
    assert words in str(caught.value)


def test_an_ipv6_address_is_no_port() -> None:
    assert parse_inventory(example(nodes__0__address="fd00::1"), "x.yaml").nodes[0].address == "fd00::1"


def test_a_missing_key_is_told_in_the_words_of_the_inventory() -> None:
    with pytest.raises(UsageError, match="`key`") as caught:
        resolve("node01", SshSettings("h", key_file="/nowhere/id", use_ssh_config=False))
    assert "key_file" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("name: a: b\n", "name: a: b", "quote"),
        ("name: @x\n", "name: @x", "quote"),
        ("a:\n\tb: 1\n", "\tb: 1", "blanks"),
        ("nodes: [a, b\nname: x\n", "name: x", "bracket"),
        ("name: a\nname: b\n", "name: b", "given twice"),
        ("ssh:\n  user root  # me\n  port: 22\n", "  port: 22", "line 2 has no ': ' between its key and its value: user root"),
        ("ssh:\n  user：root\n  port: 22\n", "  port: 22", "line 2 has a full-width colon"),
        ("ssh:\n  user:\u00a0root\n\n  port: 22\n", "  port: 22", "line 2 has a no-break blank"),
    ],
)
def test_a_mistake_in_yaml_shows_its_line_with_a_caret_and_a_hint(text: str, line: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_yaml(text, "x.yaml")
    shown = str(caught.value).splitlines()
    assert "    " + line.replace("\t", " ") in shown, shown
    assert any(row.strip() == "^" for row in shown)
    assert hint in str(caught.value)


def test_a_field_with_a_typo_is_one_problem() -> None:
    data = example()
    data["nodes"][0]["contrl_interface"] = data["nodes"][0].pop("control_interface")
    with pytest.raises(UsageError) as caught:
        parse_inventory(data, "x.yaml")
    assert "did you mean 'control_interface'" in str(caught.value)
    assert str(caught.value).count("\n") == 0
    del data["nodes"][0]["contrl_interface"]
    with pytest.raises(UsageError, match="control_interface: missing"):
        parse_inventory(data, "x.yaml")


def test_an_unknown_field_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'transport'"):
        parse_inventory(example(nodes__0__transprot="ssh"), "x.yaml")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [" + ",".join([f"*{chr(97 + i)}"] * 9) + "]\n" for i in range(12)
)
ODD = [
    BOMB,
    "a: &a [*a]\n",
    "a: &a {b: *a}\n",
    "? [1, 2]\n: 3\n",
    "? {a: 1}\n: 3\n",
    "null: 1\n",
    "1: 2\n",
    "2025-01-01: 2\n",
    "name: 2025-13-45\n",
    "name: 2025-01-01\n",
    "name: 2025-01-01 99:99:99\n",
    "name: " + "9" * 5000 + "\n",
    "name: 0x" + "f" * 5000 + "\n",
    "name: !!python/object:os.system x\n",
    "name: !!binary '$$$'\n",
    "name: !!int x\n",
    "name: !!float x\n",
    "name: !!timestamp x\n",
    "name: \x00\n",
    "name: \ud800\n",
    "<<: 1\n",
    "<<: [1]\n",
    "[" * 3000,
    "name: &a x\n? *a\n: y\n",
    "name: .nan\nschema_version: .inf\n",
    "name: 0b\n",
    "name: 1:99:0x\n",
    "name: ! x\nload: {seed: 1e999}\n",
    "=: 1\n",
    "",
    "--- a\n--- b\n",
]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_odd_yaml_is_a_usage_error_and_soon(text: str) -> None:
    began = time.process_time()
    for parse in (lambda: parse_inventory(read_yaml(text, "x.yaml"), "x.yaml"), lambda: parse_limits(text, "x.yaml")):
        with pytest.raises(UsageError):
            parse()
    assert time.process_time() - began < 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, None, [[]], {None: 1}, "a\nb", "\x00", b"x", -1, {1: {2: 3}}])
@pytest.mark.parametrize(
    "path",
    [
        "name",
        "nodes",
        "nodes__0",
        "nodes__0__name",
        "nodes__0__address",
        "nodes__0__rails",
        "model",
        "model__shards",
        "engines",
        "load",
        "engines__sglang",
        "ssh",
        "gates",
        "redact",
        "expect",
        "kind",
        "schema_version",
        "run_dir_on_node",
    ],
)
def test_any_value_in_any_place_is_taken_or_refused(path: str, value: Any) -> None:
    said = ""
    try:
        parse_inventory(example(**{path: value}), "x.yaml")
    except UsageError as error:
        said = str(error)
    assert not said or said.startswith("x.yaml")
