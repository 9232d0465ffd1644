"""What an engine's own exception means when no row of the tables knows its words: by its class, what it is about, and where it was raised.

The tables (:mod:`.signatures`) are for whole lines, wherever they stand; here the place gives the trust: the line ends a traceback of the
engine, outside any request. So the words may be few: a subject (a quantisation, a data type, an option) and a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

FRAMES = 6
"""So many frames above an exception tell where it was raised."""
LONGEST = 600
"""Characters of a message, put together from its lines."""


NAMELESS = "Exception: "
"""Before a message that was printed without its class."""


@dataclass
class Raised:
    """An exception as it was printed, and the frames above it (newest last)."""

    index: int
    line: str
    text: str
    frames: tuple[str, ...]

    def goes_on(self, body: str) -> None:
        """Take another line of its message."""
        if len(self.text) < LONGEST:
            self.text += f" {body.strip()}"


_REFUSED = (
    r"\b(?:not (?:(?:yet|currently|be|been|a|an) )*(?:support\w*|available|allowed|compatible|valid|implemented|recogni[sz]ed|match"
    r"|registered)|(?:doesn't|does not|do not|don't|can not|cannot|can't|only|never)\b"
    r"|unsupported|required?|requires|must|should|needs?|invalid|unknown"
    r"|unrecogni[sz]ed|unexpected|expect\w*|incompatible|mismatch|no (?:valid|suitable|compatible|kernel|such)|fail\w* to find|exceeds?"
    r"|(?:greater|larger|less|smaller|lower|higher) than|at (?:least|most)|conflicts?|mutually exclusive|instead|deprecated|removed"
    r"|different|inconsistent|missing|got)\b"
)
_VERDICT = (
    r"^(?:[\w.]*\.)?(?:ValueError|AssertionError|NotImplementedError|RuntimeError|TypeError|Exception|ValidationError|ArgumentError"
    r"|KeyError)\b"
)


def _about(subject: str) -> re.Pattern[str]:
    """A refusal with this subject, in either order."""
    return re.compile(rf"{_VERDICT}(?=.*{_REFUSED})(?=.*(?:{subject}))", re.IGNORECASE)


_HUB = r"hugging\W?face|hf_hub|hf-mirror|hf_raise|modelscope|snapshot_download|transformers/utils/hub|/resolve/main"
_CONNECTION = (
    r"Connection\w*Error|ConnectTimeout|ReadTimeout|MaxRetryError|[Cc]onnection (?:refused|timed out|reset)|[Mm]ax retries"
    r"|[Uu]nreachable|No route to host"
)
_LOADING = r"\b(?:\w*load_\w*weights?\w*|\w*weight_loader\w*|_load_\w+|load_state_dict)$"
_IMPORTED = r"(?:/(?:site|dist)-packages/|/vllm/|/sglang/)(?!.*(?:launch_server|api_server|__main__)\.py).*\bin <module>$"
_CHECKS = r"(?:/config/\w+|/config|/arg_utils|/server_args|/model_config|/engine_args)\.py"


@dataclass(frozen=True)
class _Family:
    id: str
    text: re.Pattern[str]
    frames: re.Pattern[str] | None = None
    """One of the frames above must show this."""


def _family(id: str, text: str | re.Pattern[str], frames: str = "") -> _Family:
    return _Family(id, re.compile(text) if isinstance(text, str) else text, re.compile(frames) if frames else None)


_FAMILIES = (
    # packages that break each other while they are imported
    _family("package_versions_mismatch", r"^(?:AttributeError|ValueError|RuntimeError|TypeError|KeyError|NameError)\b", _IMPORTED),
    # who could not be reached, by where
    _family("hostname_unresolvable", r"^(?:socket\.)?gaierror\b"),
    _family("model_download_failed", rf"(?:{_CONNECTION}|HTTPError|Timeout).*(?:{_HUB})"),
    _family("model_download_failed", rf"{_CONNECTION}|HTTPError|Timeout", _HUB),
    _family(
        "kv_transfer_failed",
        r"(?i)^(?!.*\b(?:must|should|unsupported|invalid)\b).*\b(?:nixl|mooncake|lmcache|transfer ?engine|kv_?transfer)",
    ),
    _family("kv_transfer_failed", rf"{_CONNECTION}", r"(?i)kv_transfer|mooncake|nixl|lmcache|/disaggregation/"),
    _family(
        "master_unreachable",
        r"ConnectionRefused|[Tt]ime(?:d )?out|[Uu]nreachable|[Nn]o route to",
        r"torch/distributed|parallel_state|init_process_group|rendezvous",
    ),
    # what is not there
    _family(
        "missing_python_module",
        r"(?i)\b(?:is|are|was) not installed|please (?:run `)?(?:pip )?install|pip3? install|(?:needs?|has|have) to be installed"
        r"|module (?:was )?not found|failed to import|could not import",
    ),
    _family(
        "package_versions_mismatch",
        r"(?:>=?|==|<=?) ?\d+\.\d+|[Pp]lease (?:upgrade|update|downgrade)|version .{0,60}\b(?:required|too old|mismatch)",
    ),
    _family(
        "missing_weight_shards",
        r"(?i)^(?:FileNotFoundError|OSError|RuntimeError|ValueError)\b(?=.*(?:\bno\b|not (?:exist|find|found)|missing|No such file))"
        r"(?=.*(?:\.safetensors|\bmodel weights|weights? files?|checkpoint (?:files?|shards?)))",
    ),
    _family("missing_tokenizer", r"(?i)^(?:FileNotFoundError|OSError|EnvironmentError)\b.*(?:tokeniz|vocab|merges|tekken|spiece)"),
    _family("model_not_found", r"\bHFValidationError: "),
    _family("missing_config", r"^(?:FileNotFoundError|OSError)\b.*\.json\b|^json\.\w*\.?JSONDecodeError|Expecting value: line"),
    _family(
        "model_not_found",
        r"^(?:FileNotFoundError|NotADirectoryError)\b",
        r"/model_loader/|/transformers_utils/|hf_transformers_utils|/config|/arg_utils|/server_args",
    ),
    # memory
    _family("no_memory_for_kv_cache", _about(r"kv[ _]?(?:cache|pool).{0,80}memory|memory.{0,80}kv[ _]?(?:cache|pool)|cache blocks")),
    _family(
        "cuda_out_of_memory",
        r"(?i)\b(?:not enough|insufficient|run out of|out of) (?:\w+ )?(?:gpu|device|cuda|vram|hbm)\b.{0,20}memory"
        r"|out of (?:device|gpu) memory",
    ),
    _family("host_out_of_memory", r"(?i)\b(?:not enough|insufficient) (?:host |cpu |shared |system )memory"),
    # the weights against the model
    _family(
        "weight_shape_mismatch",
        r"^(?:KeyError|AssertionError|IndexError)\b|^(?:RuntimeError|ValueError)\b.*(?:\bsizes?\b|shape|param|weight|match)",
        _LOADING,
    ),
    # shapes against ranks and GPUs
    _family(
        "tensor_parallel_not_divisible",
        r"(?i)^(?=.*(?:divisible|multiple of|evenly|divide))"
        r"(?=.*(?:tensor|\b[tped]p\b|[tped]p_size|parallel|heads|partition|shard|experts|\branks?\b|world))",
    ),
    _family(
        "world_size_exceeds_gpus",
        r"(?i)^(?=.*(?:world.?size|parallel|\b[tdpe]p\b|num_gpus|ranks?))(?=.*\b(?:gpus?|devices?|accelerators?)\b)"
        r"(?=.*(?:exceed|larger|greater|more than|not enough|only|available|at least))",
    ),
    # what a GPU or a kernel does not do
    _family("kernel_rejected", r"^RuntimeError: Runtime check failed at \S+\.(?:cuh?|cpp|h)\b"),
    _family(
        "unsupported_quantization",
        _about(
            r"quant|\bfp8|\bint[48]\b|\bawq|gptq|marlin|\w*fp4\b|bitsandbytes|\bbnb\b|\bw[48]a\d+|group_size|num_bits|zero.?points?|scheme"
        ),
    ),
    _family(
        "unsupported_attention_backend",
        _about(r"attention|\battn|head.?(?:size|dim)|\bmla\b|sliding.?window|\bsinks?\b|flash_?(?:infer|mla)|kv.?cache.{0,12}d?type"),
    ),
    _family(
        "compute_capability_too_low",
        _about(
            r"capabilit|\bsm_?\d{2,3}|hopper|blackwell|ampere|(?:this|current) (?:gpu|device|platform|hardware)|compute_cap"
            r"|cuda_arch|gpu arch"
        ),
    ),
    _family(
        "unsupported_model_architecture",
        _about(r"architectures?\b|model.?type|model class|\w+For\w+(?:LM|Generation|Classification)|implementation"),
    ),
    _family("missing_tokenizer", r"(?i)^(?=.*(?:load|instantiate|find|found|unknown|get the vocab))(?=.*\b(?:tokenizer|vocab))(?!.*--)"),
    _family("unsupported_dtype", _about(r"\bdtype|\bb?float(?:16|32)|data type")),
    _family(
        "kernel_rejected",
        r"^RuntimeError: .*(?:mat1 and mat2|size of tensor|must have the same dtype|scalar type|invalid for input of size"
        r"|shapes?\b|stride|contiguous)",
    ),
    # packages that do not know each other
    _family(
        "package_versions_mismatch",
        r"^AttributeError: (?:'\w*(?:Config|Processor|Tokenizer\w*|ImageProcessor\w*)' object|module '|type object"
        r"|partially initialized|'_OpNamespace')"
        r"|^TypeError: .*(?:unexpected keyword argument|required (?:positional|keyword)|positional arguments? but|multiple values for)"
        r"|^ImportError\b",
    ),
    # options
    _family(
        "invalid_argument_value",
        rf"{_VERDICT}",
        _CHECKS + r".*\b(?:_?verify\w*|_?check\w*|_?validate\w*|__post_init__|_?handle\w*|create_\w*config)$",
    ),
    _family(
        "invalid_argument_value",
        _about(
            r"(?<![\w-])--?[a-z][\w-]{3,}|\b[a-z]+(?:_[a-z]+)+\b|\bbackend|parallel|speculative|eagle|lora|chunked"
            r"|prefix caching|cuda graph"
        ),
    ),
    _family("invalid_argument_value", rf"^(?:NotImplementedError|ValueError): .*{_REFUSED}"),
    # nothing but a mistake of the program
    _family(
        "program_error",
        r"^(?:AttributeError|TypeError|IndexError|NameError|UnboundLocalError|KeyError|ZeroDivisionError|RecursionError|StopIteration"
        r"|UnicodeDecodeError|AssertionError|NotImplementedError)\b",
    ),
)

_CUT = (
    ("unsupported_dtype", re.compile(r"\b_?check_if_(?:gpu_)?supports_dtype$")),
    ("unsupported_quantization", re.compile(r"\b_?(?:check_scheme_supported|verify_quantization\w*|check_quantization\w*)$")),
    ("no_memory_for_kv_cache", re.compile(r"\b_?check_enough_kv_cache_memory$")),
    ("invalid_argument_value", re.compile(rf"{_CHECKS}.*\b_?(?:verify|check|validate)_\w+$")),
)
"""A log that ends here ends in a function that does nothing but refuse."""


def named(raised: Raised) -> str | None:
    """The cause that an exception shows, or None."""
    if raised.frames and (sure := named_by_frame(raised.frames[-1])):
        return sure
    for family in _FAMILIES:
        if family.text.search(raised.text) and (family.frames is None or any(family.frames.search(f) for f in raised.frames)):
            return family.id
    return None


def first_named(all_raised: Iterable[Raised]) -> tuple[Raised, str] | None:
    """The first exception that shows a cause. Behind one that shows none, a mistake may be one made on the way out."""
    first = True
    for raised in all_raised:
        if any(frame.endswith(" in __del__") for frame in raised.frames):
            continue
        id = named(raised)
        if id is not None and (first or id != "program_error"):
            return raised, id
        first = False
    return None


def named_by_frame(frame: str) -> str | None:
    """The cause that the last frame of a traceback shows whose exception is cut off, or None."""
    return next((id for id, pattern in _CUT if pattern.search(frame)), None)
