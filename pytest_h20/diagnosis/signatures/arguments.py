"""What was asked for: options, model and quantisation that this version, or this GPU, does not have."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause

_REFUSED = r"(?:^|[ ,])(?:ValueError|AssertionError|NotImplementedError|ArgumentTypeError): "
_OPTION = r"(?<![\w-])--[a-z][a-z0-9-]+"
_FIELD = (
    r"(?:^|[ ,])ValueError: .{0,200}?\b(?:(?:enable|disable|max_model|max_num|gpu_memory|(?:tensor|pipeline|data|expert)_parallel"
    r"|kv_cache|kv_role|num_speculative|mem_fraction|chunked_prefill|cuda_?graph|all2all|load_format)_?\w*|\w+_backend|[tpde]p_size)\b"
)
_VERDICT = (
    r"\b(?:requires?|not (?:(?:yet|currently) )*(?:supported|support|compatible)"
    r"|only (?:supports?|supported|be|valid|allowed|available|works?)|incompatible|conflicts?|mutually exclusive|cannot|can't|must"
    r"|should (?:be|provide|use|set|pass)|instead of|expected|need(?:s|ed)? to|exceeds?|greater than|divisible)\b"
)
"""The engines check their options against each other, the model and the GPU, and say it in a sentence with the option in it."""

ARGUMENTS = (
    cause(
        "unrecognized_arguments",
        r"error: unrecognized arguments: |No such option: -",
        "the command line holds an option that this engine version does not have (removed, renamed, or the other engine's)",
        "remove or rename the option for this version; the dialect tables say how",
        "F22; sgl#4116; recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    cause(
        "unknown_reasoning_parser",
        r"argument --reasoning-parser: invalid choice|Reasoning parser '[^']*' not found"
        r"|[Ii]nvalid reasoning parser|[Uu]nsupported reasoning parser",
        "the reasoning parser's name is not known to this version",
        "vLLM spells it deepseek_r1, SGLang deepseek-r1",
        "E-flags; recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    cause(
        "boolean_flag_form",
        r"error: argument .*: ignored explicit argument '(?:False|True|false|true)'",
        "an option of the form --x=False was given to a version that has --x / --no-x",
        "write --no-x (vLLM 0.8.5 and later)",
        "F22",
        stage="arguments",
    ),
    cause(
        "invalid_argument_value",
        r"error: argument [^:]+: "
        r"|error: the following arguments are required|error: ambiguous option"
        r"|error: one of the arguments"
        rf"|{_REFUSED}.{{0,200}}?{_OPTION}.{{0,200}}?{_VERDICT}|{_REFUSED}.{{0,200}}?{_VERDICT}.{{0,200}}?{_OPTION}|{_FIELD}.{{0,200}}?{_VERDICT}"
        rf"|{_REFUSED}(?:Unknown|Unsupported|Invalid|Unrecognized|Unexpected) .{{0,120}}\b(?:[Vv]alid|[Ss]upported|[Aa]llowed|[Aa]vailable"
        r"|[Ee]xpected|[Cc]hoose|must be|[Oo]ptions)\b|Value error, "
        r"|\d+ validation errors? for \w*(?:Config|Args)\b",
        "an option has a value, or stands beside another one, that this version, model or GPU does not accept",
        "the message names the option; compare it with the version's --help",
        "argparse",
        rank=33,
        stage="arguments",
    ),
    cause(
        "reasoning_parser_required",
        r"--enable-reasoning requires --reasoning-parser",
        "--enable-reasoning was given without a parser",
        "add --reasoning-parser deepseek_r1",
        "E-flags (vLLM 0.7.2)",
        stage="arguments",
    ),
    cause(
        "tool_choice_conflicts_with_reasoning",
        r"--enable-auto-tool-choice and --enable-reasoning cannot be enabled",
        "0.7.x cannot combine tool choice and reasoning",
        "drop one of them, or use vLLM 0.8 or later",
        "F64; vllm#14429",
        stage="arguments",
    ),
    cause(
        "dist_init_addr_missing",
        r"please provide --dist-init-addr|[Ii]nvalid dist_init_addr|dist_init_addr .*should be",
        "the head's address is missing or not host:port (an IPv6 literal in an old parser)",
        "give --dist-init-addr IPv4:port, the same on all nodes",
        "F04; sgl#7478, #2892",
        stage="arguments",
    ),
    cause(
        "world_size_exceeds_gpus",
        r"[Tt]ensor parallel size \(\d+\) cannot be larger than the number of available GPUs"
        r"|World size \(\d+\) is larger than the number of available GPUs"
        r"|please ensure that world_size \(\d+\) is less than than max local gpu count"
        r"|nnodes.*must be divisible|tp_size must be divisible by number of nodes|world_size .* is larger than .* available GPUs",
        "the tensor parallel size needs more GPUs than the node has, and nothing says how to span nodes",
        "give --distributed-executor-backend ray, or --nnodes/--node-rank/--master-addr; on one node lower the size",
        "F20; recorded (0.24)",
        stage="arguments",
    ),
    cause(
        "context_length_too_large",
        r"User-specified (?:max_model_len|context_length) \(\d+\) is greater than the derived",
        "the wanted context is longer than the model's",
        "lower --max-model-len / --context-length",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    cause(
        "max_num_batched_tokens_too_small",
        r"max_num_batched_tokens \(\d+\) is smaller than max_model_len"
        r"|max_num_batched_tokens .* must be (?:greater|at least)"
        r"|max_tokens_per_mm_item \(\d+\) is larger than max_num_batched_tokens",
        "chunked prefill is off and one batch cannot hold the longest prompt",
        "raise --max-num-batched-tokens to --max-model-len, or leave chunked prefill on",
        "E-flags",
        stage="arguments",
    ),
    cause(
        "tensor_parallel_not_divisible",
        r"is not divisible by weight quantization block_\w"
        r"|attention heads \(\d+\) must be divisible by tensor parallel size"
        r"|is not divisible by (?:the )?(?:tensor parallel|tp)[_ ]size"
        r"|must be divisible by (?:tensor parallel size|[tdpe]p_size)|AssertionError: \d+ is not divisible by \d+",
        "the model's shapes cannot be cut into this many parts",
        "choose a tensor parallel size that divides the shapes (R1 block FP8: at most 16)",
        "E-image",
        stage="loading",
    ),
    cause(
        "unsupported_model_architecture",
        r"Model architectures \['(\w+)'[^\]]*\] are not supported(?!.*Supported architectures.*'\1')"
        r"|does not recognize this architecture|Model architecture .* is not supported"
        r"|has no (?:vLLM|SG[Ll]ang) implementation|[Uu]nsupported architectures?:|Cannot find model module"
        r"|[Uu]nsupported model (?:type|arch)|Unrecognized configuration class"
        r"|Unknown gguf model_type|KeyError: '[a-z]+\w*_(?:moe|dsa|v\d|next|vl)\w*'$",
        "this engine version does not know the model's architecture",
        "use a newer image, or another model",
        "corpus (0.10.2); vllm-gguf-plugin#114",
        stage="arguments",
        unless=r"Error in inspecting model architecture",
    ),
    cause(
        "model_inspection_failed",
        r"Model architectures \[.*\] (?:failed to be inspected|are not supported for now)|Error in inspecting model architecture",
        "the engine knows the architecture, but could not import the code that implements it",
        "the exception above it says which module or library is missing or broken",
        "vllm#28199, #9624",
        rank=32,
        stage="arguments",
    ),
    cause(
        "trust_remote_code_required",
        r"requires you to execute the (?:configuration|modeling|tokenizer) file"
        r"|(?:set the option|pass the argument) `?trust_remote_code=True|contains custom code which must be executed",
        "the model brings its own code, and running it was not allowed",
        "add --trust-remote-code",
        "transformers",
        stage="arguments",
    ),
    cause(
        "unsupported_quantization",
        r"[Qq]uantization method (?:specified in|\S+ is not supported)|Unknown quantization method"
        r"|is not supported for (?:the current GPU|quantization method)"
        r"|Quantization scheme is not supported|[Uu]nsupported quantization|Unknown \w* ?quant algo"
        r"|quantization is (?:currently )?not supported"
        r"|does not support (?:fp8|FP8) (?:on|for)|does not match the quantization (?:method|argument)"
        r"|type fp8e4nv not supported in this architecture|Failed to find a kernel that can implement",
        "the quantisation does not fit the model, the GPU or the version",
        "drop --quantization (the checkpoint names its own), or use a GPU that has it",
        "vLLM/SGLang source",
        stage="arguments",
    ),
    cause(
        "unsupported_attention_backend",
        r"Selected backend \S+ is not valid for this configuration|No valid attention backend found for"
        r"|[Aa]ttention backend '?\w+'? (?:is not supported|does not support)|[Hh]ead[_ ]?(?:size|dim)\w* \d+ is not supported"
        r"|FlashAttention .*\bonly supports?\b(?! (?:Ampere|Hopper|Blackwell))"
        r"|expects attention_backend to be one of|only supports \([^)]*\) attention backend",
        "the attention backend does not fit the model, the KV cache's type or the GPU",
        "leave the choice to the engine, or name a backend that the message lists",
        "public logs (vLLM 0.21, SGLang 0.5.13)",
        stage="arguments",
    ),
    cause(
        "unsupported_dtype",
        r"[Bb]float16 is only supported on GPUs with compute capability|dtype .* is not supported for"
        r"|model type '\w+' does not support b?float16",
        "the GPU lacks this data type",
        "choose --dtype half, or another GPU",
        "vLLM source",
        stage="arguments",
    ),
    cause(
        "compute_capability_too_low",
        r"(?:requires|[Mm]inimum) (?:device |compute )?capability"
        r"|no kernel image is available for execution|cudaErrorNoKernelImageForDevice"
        r"|(?:Error|Exception): [^.;]{0,160}?\b(?:only (?:supports?|supported on|available on)|requires?|needs?) [^.;]{0,60}?"
        r"\b(?:[Ss][Mm] ?_?\d{2,3}|Ampere GPU|Hopper|Blackwell|compute capabilit)"
        r"|sm_\d+ is not compatible with the current PyTorch"
        r"|Assertion error \([^)]*\): Unsupported architecture|[Uu]nsupported (?:GPU|CUDA|SM) arch",
        "the image's kernels do not cover this GPU",
        "use an image built for this GPU's compute capability, or another backend for the kernel that refused",
        "CUDA; vllm#40778",
        rank=20,
    ),
)
