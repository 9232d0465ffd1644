"""The script that reads parsers out of wheels, on small wheels made here."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "engine_flags.py"

VLLM_ARGS = """
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        model_kwargs = get_kwargs(ModelConfig)
        group = parser.add_argument_group("ModelConfig")
        group.add_argument("--enforce-eager", **model_kwargs["enforce_eager"])
        group.add_argument("--max-model-len", **model_kwargs["max_model_len"])
        group.add_argument("--enable-chunked-prefill", **{**model_kwargs["chunked"], "default": None})
        group.add_argument("--tensor-parallel-size", "-tp", type=int)
        group.add_argument("--old-style", action=StoreBoolean)
"""
VLLM_CONFIG = """
class ModelConfig:
    enforce_eager: bool = False
    chunked: bool | None = None
    max_model_len: int | None = None
"""
VLLM_CLI = """
class BaseFrontendArgs:
    chat_template: str | None = None
class FrontendArgs(BaseFrontendArgs):
    enable_auto_tool_choice: bool = False
def make_arg_parser(parser):
    parser.add_argument("--headless", action="store_true")
"""
SGLANG_ARGS = """
class DeprecatedAction(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        raise ValueError(self.help)
class ServerArgs:
    model_path: A[str, Arg(help="x", aliases=["--model"])]
    trust_remote_code: A[bool, "help"] = False
    tp_size: A[int, Arg(help="x", cli_name="--tensor-parallel-size", aliases=["--tp-size"])] = 1
    hidden: A[bool, Arg(no_cli=True)] = False
    plain: int = 3
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--enable-ep-moe", action=DeprecatedAction)
        parser.add_argument("--chunked-prefill-size", type=int)
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_flags", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["engine_flags"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def wheel(path: Path, files: dict[str, str]) -> zipfile.ZipFile:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return zipfile.ZipFile(path)


def test_vllm_options_and_their_kinds(script: ModuleType, tmp_path: Path) -> None:
    files = {
        "vllm/engine/arg_utils.py": VLLM_ARGS,
        "vllm/config/model.py": VLLM_CONFIG,
        "vllm/entrypoints/openai/cli_args.py": VLLM_CLI,
        "vllm/reasoning/__init__.py": '_REASONING_PARSERS_TO_REGISTER = {"deepseek_r1": ("a", "B")}',
        "vllm/benchmarks/serve.py": 'parser.add_argument("--not-the-server")',
    }
    with wheel(tmp_path / "v.whl", files) as archive:
        flags = script.extract("vllm", archive)
    assert flags.kinds == {
        "enforce-eager": "negatable",
        "max-model-len": "value",
        "enable-chunked-prefill": "negatable",
        "tensor-parallel-size": "value",
        "old-style": "boolean",
        "headless": "switch",
        "chat-template": "value",
        "enable-auto-tool-choice": "negatable",
    }
    assert flags.aliases == {"tp": "tensor-parallel-size"}
    assert flags.reasoning_parsers == {"deepseek_r1"}


def test_sglang_options_from_annotations_and_calls(script: ModuleType, tmp_path: Path) -> None:
    files = {
        "sglang/srt/server_args.py": SGLANG_ARGS,
        "sglang/srt/parser/reasoning_parser.py": 'class R:\n    DetectorMap: dict = {"deepseek-r1": D}',
    }
    with wheel(tmp_path / "s.whl", files) as archive:
        flags = script.extract("sglang", archive)
    assert flags.kinds == {
        "model-path": "value",
        "trust-remote-code": "switch",
        "tensor-parallel-size": "value",
        "enable-ep-moe": "removed",
        "chunked-prefill-size": "value",
    }
    assert flags.aliases == {"model": "model-path", "tp-size": "tensor-parallel-size"}
    assert flags.reasoning_parsers == {"deepseek-r1"}


def test_a_wheel_of_a_new_layout_is_told(script: ModuleType, tmp_path: Path) -> None:
    with wheel(tmp_path / "n.whl", {"vllm/other.py": ""}) as archive, pytest.raises(SystemExit, match="layout is new"):
        script.extract("vllm", archive)


def test_bands_begin_end_change_and_begin_again(script: ModuleType) -> None:
    read = {"1": {"a": "value"}, "2": {"a": "switch", "b": "value"}, "3": {"b": "value"}, "4": {"a": "switch"}}
    assert script.bands(read) == {
        "a": [("value", "1", "2"), ("switch", "2", "3"), ("switch", "4", None)],
        "b": [("value", "2", "4")],
    }


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_what_is_stored_is_what_the_script_writes(script: ModuleType, engine: str) -> None:
    stored = (script.DATA / f"{engine}.json").read_text(encoding="utf-8")
    versions = script.stored(engine)
    assert len(versions) > 20
    backwards = dict(reversed(versions.items()))
    assert script.document(json.loads(stored)["versions"], backwards) == stored
