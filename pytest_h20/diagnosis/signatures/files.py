"""What lies on disk or on the Hub: the model's files, and limits of the file system."""

from __future__ import annotations

from pytest_h20.diagnosis.signatures.row import cause

FILES = (
    cause(
        "model_not_found",
        r"Repo id must be in the form|Repository Not Found"
        r"|is not a local folder and is not a valid model identifier|Incorrect path_or_model_id"
        r"|model path .* does not exist|Can't load the configuration of"
        r"|Invalid repository ID or local directory specified: '(?!/)|Entry Not Found for url: (?!.*/config\.json)",
        "the model folder does not exist in the container (then taken for a Hub name)",
        "check the mount and --model / --model-path on every node",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    cause(
        "missing_config",
        r"Unrecognized model in .*[Ss]hould have a `model_type` key"
        r"|does not appear to have a file named config\.json"
        r"|Invalid repository ID or local directory specified: '/"
        r"|No model architectures are specified|Could not detect config format|No supported config format found"
        r"|Entry Not Found for url: .*/config\.json|Cannot find the config file for|No config(?:\.json)? (?:file )?found"
        r"|the config file at '[^']*' is not a valid JSON",
        "the model folder has no usable config.json",
        "copy config.json; compare the folders of all nodes",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    cause(
        "missing_model_code",
        r"does not appear to have a file named (?:configuration|modeling|tokenization)_\w+\.py",
        "the .py files of the model were not copied",
        "copy configuration_deepseek.py and modeling_deepseek.py",
        "F49; vllm-project/aibrix#834",
        stage="arguments",
    ),
    cause(
        "missing_tokenizer",
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer for"
        r"|Unable to load vocabulary from file|does not appear to have a file named tokenizer"
        r"|Failed to load the tokenizer|Make sure that a \w+ tokenizer is present"
        r"|invalid tiktoken vocab file|Internal: could not parse ModelProto",
        "the tokenizer files are missing or broken",
        "copy tokenizer.json and tokenizer_config.json",
        "recorded (0.24, 0.32, 0.5.16)",
        stage="arguments",
    ),
    cause(
        "missing_tokenizer_vocabulary",
        r"^TypeError: not a string$",
        "sentencepiece was given no vocabulary file: tokenizer.model is not there",
        "copy every tokenizer file of the model",
        "public logs (0.16)",
        stage="arguments",
        context=r"SentencePieceProcessor_LoadFromFile",
    ),
    cause(
        "corrupt_safetensors",
        r"SafetensorError: (?!Error while serializing)|Error while deserializing header|MetadataIncompleteBuffer"
        r"|InvalidHeaderDeserialization|incomplete metadata, file not fully covered"
        r"|file signature not found|PytorchStreamReader failed|unpickling stack underflow",
        "a weight file is truncated or damaged",
        "compare sizes with the index (8 + header + data) and copy that file again",
        "F47; gpustack#815; recorded",
        stage="loading",
    ),
    cause(
        "missing_weight_shards",
        r"Weight files referenced in index but missing"
        r"|Following weights were not initialized from checkpoint"
        r"|references \d+ shard file\(s\) missing|Cannot find any model weights"
        r"|No safetensors files? found|Cannot find any \S+ files"
        r"|Error no file named (?:pytorch_model|model\.safetensors)|No such file or directory: \S*\.safetensors",
        "weight shards that the index names are not there",
        "163 files must be on every node; copy the missing ones",
        "F46; recorded (0.24, 0.32)",
        stage="loading",
    ),
    cause(
        "git_lfs_pointer_files",
        r"version https://git-lfs\.github\.com|git-lfs.*pointer",
        "the weight files are Git LFS pointers",
        "fetch the content: git lfs pull",
        "E-weights",
        stage="loading",
    ),
    cause(
        "weight_shape_mismatch",
        r"size mismatch for|There is no module or parameter named|AssertionError: Attempted to load weight"
        r"|KeyError: '(?:(?:\w+\.){2,}\w+|\w+\.(?:weight|bias)\w*)'|^'(?:\w+\.){2,}\w+'$"  # a tensor's name; vLLM 0.6 logs it bare
        r"|The expanded size of the tensor \(\d+\) must match the existing size"
        r"|Error\(s\) in loading state_dict|Tried to load weights of size|Missing keys .{1,2000} in loaded state"
        r"|shape mismatch.*weight|loaded_weight\.shape|start \(\d+\) \+ length \(\d+\) exceeds dimension size",
        "the weights do not fit the model's configuration (another revision, another quantisation)",
        "take config and shards from one revision; F48 asks the same",
        "F48; sgl#3206, #3340",
        rank=20,
        stage="loading",
    ),
    cause(
        "hf_access_denied",
        r"Access to model .* is restricted|401 Client Error|403 Client Error|GatedRepoError"
        r"|You are trying to access a gated repo|Cannot access gated repo|LocalTokenNotFoundError|Invalid user token",
        "the Hub refuses access to the model",
        "mount a local copy, or give a token that has access",
        "huggingface_hub",
        stage="arguments",
    ),
    cause(
        "model_download_failed",
        r"We couldn't connect to '?https://|thrown while requesting (?:HEAD|GET) https?://|LocalEntryNotFoundError"
        r"|HTTPSConnectionPool\(host='|requests\.exceptions\.\w+: .*Request ID|httpx\.\w*(?:Connect|Timeout|Proxy|Protocol)\w*: "
        r"|offline mode is enabled|Cannot reach https://|outgoing traffic has been disabled"
        r"|appropriate (?:cached )?snapshot folder"
        r"|(?:429|5\d\d) (?:Client|Server) Error.*https?://\S*(?:huggingface|hf-mirror|modelscope)"
        r"|Consistency check failed: file should be of size"
        r"|An error happened while trying to locate the file on the Hub"
        r"|Failed to resolve '[^']*(?:huggingface|hf-mirror|modelscope)|\bCAS (?:[Ss]ervice|[Cc]lient) [Ee]rror",
        "the engine tried to download from the Hub and could not",
        "mount a local copy and pass its path; HF_HUB_OFFLINE=1 makes it fail at once",
        "F51; sgl#5347",
        rank=19,
        fatal=False,
        stage="arguments",
    ),
    cause(
        "disk_full",
        r"No space left on device(?!.*nccl)|OSError: \[Errno 28\]|Disk quota exceeded",
        "a file system is full (a cache, /tmp or /dev/shm)",
        "free space; df -h on every node",
        "errno 28",
        rank=20,
        fatal=False,
    ),
    cause(
        "permission_denied",
        r"PermissionError: \[Errno 13\]|Permission denied: '|^\S+: cannot .*: Permission denied|^docker: permission denied",
        "the engine may not read or write a path it needs",
        "check owner and mode of the mount",
        "errno 13",
        rank=20,
    ),
    cause(
        "too_many_open_files",
        r"OSError: \[Errno 24\] Too many open files(?!`)",
        "the limit on open files is too low",
        "--ulimit nofile=1048576 for the container",
        "errno 24",
        rank=20,
    ),
)
