"""From a rendered text back to its template, and to its translation."""

from __future__ import annotations

import threading
import time

import pytest

from pytest_h20 import lang
from pytest_h20.lang.catalogue import Catalogue, chinese

WORDS = Catalogue(
    {
        "Port active": "端口处于 active 状态",
        "{0} is {1} s from {2}, known within {3} s": "{0} 与 {2} 相差 {1} 秒，误差 {3} 秒以内",
        "nothing was looked at": "什么都没有看到",
        "{0} is not there": "{0} 不存在",
        "exit code {0}{1}": "退出码 {0}{1}",
        ", killed for memory": "，因内存不足被杀",
        "could not be measured": "测不出来",
        "{0} is in use": "{0} 正在使用",
        "the port {0} is in use": "端口 {0} 被占用",
        "docker pull {0}": "",
        "lanes": "条通道",
        "problems": "个问题",
        "{0} of {1} lines are not: {2}": "{1} 行中有 {0} 行不是：{2}",
        "{0} to {1}": "{0} 到 {1}",
        "{0} on {1} node{2}": "{1} 个节点上的 {0}",
        "profile {0} on {1}": "{1} 上的启动方案 {0}",
        "answers": "回答",
        "fix:": "改正：",
        "wanted {0}": "要求 {0}",
        "at most {0} ms": "最多 {0} ms",
        "% of the cell": "%（占整个测点）",
    }
)


@pytest.mark.parametrize(
    ("english", "expected"),
    [
        ("Port active", "端口处于 active 状态"),
        ("node02 is +0.120 s from node01, known within 0.001 s", "node02 与 node01 相差 +0.120 秒，误差 0.001 秒以内"),
        ("exit code 137, killed for memory", "退出码 137，因内存不足被杀"),
        ("exit code 1", "退出码 1"),
        ("node01 mlx5_1: Port active: could not be measured", "node01 mlx5_1：端口处于 active 状态：测不出来"),
        ("Port active (node01, node02)", "端口处于 active 状态（node01, node02）"),
        ("a.txt is not there; nothing was looked at", "a.txt 不存在；什么都没有看到"),
        ("3 lanes", "3 条通道"),
        ("rdma: node01: 3 of 4 lines are not: 0 -> 1 via Socket", "rdma：node01：4 行中有 3 行不是：0 -> 1 via Socket"),
        ("nothing was looked at.", "什么都没有看到。"),
        ("expect.kernel", "expect.kernel"),
        ("node01 is not there. nothing was looked at.", "node01 is not there. nothing was looked at."),
        ("the port 80 is in use.", "端口 80 被占用。"),
        ("nothing was looked at and Port active", "什么都没有看到和端口处于 active 状态"),
        ("wanted at most 5 ms", "要求最多 5 ms"),
        ("nothing was looked at [F56; sgl#6027]", "什么都没有看到 [F56; sgl#6027]"),
        ("80 % of the cell", "80 %（占整个测点）"),
        ("64 to 128", "64 到 128"),
        ("TP16 on 2 nodes", "2 个节点上的 TP16"),
        ("profile default on node01, node02", "node01, node02 上的启动方案 default"),
        ("answers: nothing was looked at", "answers：什么都没有看到"),
        ("rdma, answers: nothing was looked at", "rdma, answers：什么都没有看到"),
        ("3 answers", "3 回答"),
        ("fabric, answers, drill", "fabric, answers, drill"),
        ("node01 (root@10.0.0.1:22): nothing was looked at", "node01 (root@10.0.0.1:22)：什么都没有看到"),
        ("fix: ", "改正："),
        (" (nothing was looked at)", "（什么都没有看到）"),
        ("  nothing was looked at\nPort active", "  什么都没有看到\n端口处于 active 状态"),
    ],
)
def test_what_is_known_is_said_in_chinese(english: str, expected: str) -> None:
    assert WORDS.text(english) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42.5",
        "mlx5_1",
        "a sentence that nobody has translated",
        "'nothing was looked at'",  # what somebody said, quoted
        "docker pull vllm:1.0",
        "line one of a log\nline two {of} it",
        "CUDA out of memory. Tried to allocate 7.00 GiB. GPU 3 has none",
    ],
)
def test_what_is_not_known_is_not_touched(text: str) -> None:
    assert WORDS.text(text) == text


def test_the_template_that_says_more_wins() -> None:
    assert WORDS.text("the port 8000 is in use") == "端口 8000 被占用"


def test_few_words_do_not_reach_into_a_log_line() -> None:
    line = "a long line of an engine about a thing is in use by another thing of it"
    assert Catalogue({"{0} is {1}": "{0} 为 {1}"}).text(line) == line


def test_a_quoted_line_of_a_log_stays_whole() -> None:
    line = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 7.00 GiB. GPU 3 has a total capacity of 95.58 GiB, 1.20 GiB is free."
    )
    assert chinese().text(line) == line


def test_every_value_is_still_there() -> None:
    text = "node02 is +0.120 s from node01, known within 0.001 s; /tmp/a b/c{d} is not there"
    for value in ("node02", "+0.120", "node01", "0.001", "/tmp/a b/c{d}"):
        assert value in WORDS.text(text)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh"),
        ({"LANG": "zh"}, "zh"),
        ({"LANG": "zha_CN"}, "en"),
        ({"LC_ALL": "", "LANG": "zh-Hans"}, "zh"),
    ],
)
def test_the_locale_tells_the_language(environ: dict[str, str], expected: str) -> None:
    assert lang.of_locale(environ) == expected


def test_english_is_said_as_it_is_and_the_language_is_put_back() -> None:
    with lang.speaking("zh"):
        assert lang.tag() == "zh-CN"
        assert lang.local("every gate holds") == "所有关卡都通过"
        with lang.speaking("en"):
            assert lang.local("every gate holds") == "every gate holds"
    assert lang.spoken() == "en"


def test_long_and_strange_texts_cost_little() -> None:
    """Every text of a report comes here: a line of a log of 100 KB, and thousands of words that fit no template."""
    words = chinese()
    words.text("every gate holds")
    began = time.process_time()
    words.text("error: " * 15_000)
    words.text("(" * 5_000 + "a")
    words.text(", ".join(f"node{n:04d} is not {n} and nothing was {n}: it is" for n in range(300)))
    for n in range(2_000):
        words.text(f"{n} of {n + 1} gates do not hold. rank {n}: it was {n} ms late")
    assert time.process_time() - began < 20  # seconds; it takes about one, and a pattern that explodes takes for ever


def test_a_translation_that_a_signal_ends_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM while the first failure was put into Chinese: the summary of the run had it in English."""
    words = Catalogue({"{0} is not there": "{0} 不存在"})

    def ended(text: str) -> str:
        raise KeyboardInterrupt(text)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(words, "_of", ended)
        with pytest.raises(KeyboardInterrupt):
            words.text("a.txt is not there")
    assert words.text("a.txt is not there") == "a.txt 不存在"


def test_two_threads_that_ask_for_the_same_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    words = Catalogue({"{0} is not there": "{0} 不存在"})
    make, beside = words._of, list[str]()

    def meanwhile(text: str) -> str:
        if not beside:
            beside.append("asked")
            other = threading.Thread(target=lambda: beside.append(words.text(text)))
            other.start()
            other.join()
        return make(text)

    monkeypatch.setattr(words, "_of", meanwhile)
    assert words.text("a.txt is not there") == "a.txt 不存在"
    assert beside == ["asked", "a.txt 不存在"]


@pytest.mark.parametrize(
    ("english", "expected"),
    [
        ("one of PIX, PXB, NODE", "以下之一：PIX, PXB, NODE"),
        (
            "chat, plain: text is '1 and 2; 3', not '1 and 2'; chat, streamed: finish_reason is 'length', not 'stop'; and 8 more",
            "chat，非流式：文本是 '1 and 2; 3'，不是 '1 and 2'；chat，流式：finish_reason 是 'length'，不是 'stop'；另有 8 项",
        ),
        (
            "endpoint: text is 'a b', not 'a'; answers: depth 10%: said 0, expected 5",
            "endpoint：文本是 'a b'，不是 'a'；answers：深度 10 %：说的是 0，应为 5",
        ),
        ("#   c1: output_throughput at least 15.6 tok/s (blog)", "#   c1：output_throughput 至少 15.6 tok/s（原文表格）"),
        (
            "# sglang: expected time of bringup: 30 min at most (ready_timeout 1800 s)",
            "# sglang：预计时间，bringup：最多 30 分钟（ready_timeout 1800 秒）",
        ),
    ],
)
def test_what_a_server_said_stays_and_what_is_around_it_does_not(english: str, expected: str) -> None:
    assert chinese().text(english) == expected


def test_a_file_is_called_as_it_is_called() -> None:
    """``broken`` is a word of ours, and the name of somebody's inventory."""
    with lang.speaking("zh"):
        assert lang.local("broken.yaml:2:3: not valid YAML: x").startswith("broken.yaml:2:3：不是有效的 YAML")
