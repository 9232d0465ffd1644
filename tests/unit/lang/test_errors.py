"""What a Chinese operator reads of a mistake: what, where, which value and what is accepted, and no sentence in English."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_h20 import lang
from pytest_h20.config.environments import environments
from pytest_h20.config.inventory import load_inventory, parse_inventory
from pytest_h20.config.limits import load_limits
from pytest_h20.core.errors import UsageError
from pytest_h20.load.plan import Slo
from pytest_h20.rehearsal.scenario import scenario_named
from pytest_h20.run.attached_server import ask_served

SHIPPED = (environments() / "h20-2node.yaml").read_text(encoding="utf-8")
SENTENCE = re.compile(r"(?<![\w./-])[A-Za-z][a-z']+ [a-z']+ [a-z']+")


def inventory(old: str, new: str) -> Callable[[Path], object]:
    """Read the shipped inventory with something else in it."""

    def read(folder: Path) -> object:
        assert old in SHIPPED
        path = folder / "my.yaml"
        path.write_text(SHIPPED.replace(old, new, 1), encoding="utf-8")
        return load_inventory(path)

    return read


def limits(text: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        (folder / "limits.yaml").write_text(text, encoding="utf-8")
        return load_limits(folder / "limits.yaml")

    return read


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda folder: load_inventory(folder / "my.yaml"), ("my.yaml", "没有这个清单文件", "python -m pytest_h20 example")),
        (inventory("name: node01", "description: x"), ("nodes[0].name", "这个字段是必需的")),
        (inventory("nodes:", "nodez:"), ("nodez", "redact, run_dir_on_node", "soak", "是不是想写 'nodes'？")),
        (inventory("  user: root", "\tuser: root"), (":9:1：", "这里不能以字符 '\\t' 开头", "用空格缩进")),
        (inventory("  user: root", "  user root"), ("缩进与上面对不上", "第 9 行的键和值之间没有 ': '：user root")),
        (inventory("gid_index: 3", "gid_index: three"), ('nodes[0].gid_index = "three"：应为整数',)),
        (inventory("address: 10.63.65.207", "address: root@10.63.65.207"), ("nodes[0].address：只写主机", "`ssh: {user: ...}`")),
        (inventory("address: 10.63.65.207", "address: 10.63.65.207:22"), ("只写主机", "`ssh: {port: 22}`")),
        (inventory(SHIPPED, ""), ("name、nodes、model 和 engines", "它是空的")),
        (limits("cells: [a]"), ("name：缺少", 'cells[0] = "a"：应为字段')),
        (lambda _: Slo.parse("ttft=5"), ("'ttft=5' 不是服务水平", "ttft=2s,itl=80ms")),
        (lambda _: load_inventory(Path("rehersal")), ("没有这个清单文件；是不是想写 'rehearsal'",)),
        (lambda folder: parse_inventory("hello", "broken.yaml"), ("broken.yaml：清单由字段组成", "这是单独一个值")),
        (lambda _: scenario_named("quik"), ("没有这个场景", "是不是想写 rehearsal:quick？", "blog, quick")),
        (lambda _: ask_served("node01:8000"), ("--h20-attach=node01:8000：请给一个 URL", "http://10.63.65.207:8000")),
    ],
)
def test_a_mistake_is_told_in_chinese(mistake: Callable[[Path], object], told: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        mistake(tmp_path)
    with lang.speaking("zh"):
        text = lang.local(str(error.value))
    assert [words for words in told if words not in text] == [], text
    assert SENTENCE.findall(re.sub(r"`[^`]*`|'[^']*'|/\S+", "", text)) == [], text
