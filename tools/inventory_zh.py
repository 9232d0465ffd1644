"""The Chinese words of docs/zh/inventory.md: what stands in the models, in English, -> Chinese. ``tools/reference.py`` writes the page and
refuses to when a text has no translation."""

# ruff: noqa: E501

from __future__ import annotations

HEAD = """# 清单（inventory）

哪些机器、哪些 rail、哪个模型、哪些引擎、期望它们是什么样：一个 YAML 文件。

    python -m pytest_h20 discover root@node01 root@node02 > my-cluster.yaml
    pytest --engine=sglang --nodes=my-cluster.yaml --h20-plan

第一条命令询问主机并写出文件，不改动主机上的任何东西。第二条打印用它运行时会做什么，什么都不碰。
`environments/h20-2node.yaml` 是一个完整的例子：原文的集群。

未知字段、类型错误、重复给出的值或缺少的 rail，会在任何东西启动之前结束运行，每个问题一行：

    ERROR: my-cluster.yaml: nodes[0].contrl_interface = "xgbe0": unknown field; accepted here: name, address, ...

其中的文件名（`limits`, `key`, `known_hosts`, `sha256`）从清单自己所在的文件夹算起。支持 JSON Schema 的编辑器会在输入时补全和检查；
请把这一行放在最前面：

    # yaml-language-server: $schema=environments/inventory.schema.json

粗体字段必填。“无”表示：没有给出。

"""

COLUMNS = "| 字段 | 类型 | 默认值 | 含义 |\n|---|---|---|---|\n"

TYPES = (
    (r"^list: ", "列表："),
    (r"^mapping: ", "映射："),
    (r"^mapping$", "映射"),
    (r"\bsee `", "见 `"),
    (r"\[expectations\]\(checks-environment\.md\)", "[期望](../checks-environment.md)"),
    (r"\btext\b", "文本"),
    (r"\bwhole number\b", "整数"),
    (r"\bnumber\b", "数"),
    (r"\btrue or false\b", "true 或 false"),
    (r"\bany value\b", "任意值"),
    (r"\bpair\b", "一对"),
    (r" or ", " 或 "),
    (r", (\S+) to (\S+)$", "，\\1 到 \\2"),
    (r", (\S+) or more$", "，不小于 \\1"),
    (r", (\S+) 或 more$", "，不小于 \\1"),
    (r" above (\S+)$", "，大于 \\1"),
    (r"^none$", "无"),
    (r"^its own defaults$", "自带默认值"),
    (r"^empty$", "空"),
)
"""Patterns of the columns "is" and "default", applied one after the other."""

TEXTS = {
    "the signal at which your image's processes print their stacks (faulthandler.register); sent when something hangs": "镜像中的进程收到后打印"
    "调用栈的信号（faulthandler.register）；出现挂起时发送",
    "what --h20-soak sends": "--h20-soak 发送什么",
    "What `--h20-soak` sends, and how small a slope it must be able to see.": "`--h20-soak` 发送什么，以及它必须能看出多小的斜率。",
    "users at a time; each rests for a moment now and then": "同时在线的用户数；每个用户不时歇一会儿",
    "pairs of input and output length, mixed evenly": "输入与输出长度成对给出，均匀混合",
    "%/h: a slope of throughput or token time that must be visible; a soak too short for it is 'could not measure'; default: what the time "
    "allows, told beside each figure": "%/h：吞吐或逐令牌时间必须能看出的斜率；时间太短看不出即“无法测量”；默认：时间允许多少就多少，写在每个数字旁边",
    "an answer that pauses for longer, and goes on, is red": "回答中停顿超过此时间后又继续，判为红",
    "processes per core that run or wait on the machine of the run: with more, a slower engine is 'could not measure'; raise it where they "
    "have a lower priority than the run (nice)": "运行所在机器上每个核心正在运行或等待的进程数：更多时，引擎变慢即“无法测量”；若这些进程的优先级低于本次运行（nice），可调高",
    "The file": "文件",
    "The whole file.": "整个文件。",
    "version of this format": "本格式的版本",
    "appears in reports and run folders": "出现在报告和运行文件夹的名字里",
    "for people": "给人看的说明",
    "only 'hardware' can be accepted; the others say so in every report": "只有 'hardware' 能通过验收；其他的会在每份报告里写明",
    "what is stood in (GPU, RDMA ...), told in every report": "哪些是替身（GPU、RDMA ……），每份报告都会写明",
    "how to log in, for all nodes": "所有节点如何登录",
    "the machines, head first": "机器，head 在前",
    "the weights": "权重",
    "vllm and sglang: their profiles": "vllm 与 sglang：各自的 profile",
    "what the machines must be; see checks-environment.md": "机器必须是什么样；见 checks-environment.md",
    "what the throughput gate sends": "throughput 关卡发送什么",
    "how patient the endpoint's checks are": "端点检查有多大耐心",
    "gates that must pass; default: all": "必须通过的关卡；默认：全部",
    "whether --h20-drill may break this cluster: only one that nobody else uses": "是否允许 --h20-drill 破坏这个集群：只限没有别人使用的集群",
    "test this running endpoint instead of starting one": "测试这个正在运行的端点，而不是启动一个",
    "absolute path on each node of the folder that holds what a run leaves there; closed to everybody but the log-in user; {user} is who "
    "runs pytest": "每个节点上存放运行遗留物的文件夹的绝对路径；只对登录用户开放；{user} 是运行 pytest 的人",
    "extra regular expressions whose matches never reach a report": "额外的正则表达式，匹配到的内容绝不进入报告",
    "One machine.": "一台机器。",
    "how reports call the machine": "报告里如何称呼这台机器",
    "where SSH (or the local transport) reaches it": "SSH（或本地方式）从哪里到达它",
    "'local': the node is this machine": "'local'：节点就是本机",
    "what differs from the common `ssh`": "与公共的 `ssh` 不同之处",
    "address the engine must use (IPv4 on dual-stack hosts); default: address": "引擎必须使用的地址（双栈主机上为 IPv4）；默认：address",
    "net device of host_ip: NCCL/Gloo bootstrap": "host_ip 所在的网口：NCCL/Gloo 引导用",
    "NCCL_IB_GID_INDEX of this node's rails": "该节点各 rail 的 NCCL_IB_GID_INDEX",
    "the rails in order: rail 0 of one node faces rail 0 of the others": "按顺序列出 rail：一个节点的 rail 0 对着其他节点的 rail 0",
    "RDMA devices that must not carry collectives": "不得承载集合通信的 RDMA 设备",
    "what differs from the common `expect`": "与公共的 `expect` 不同之处",
    "added to every container on this node": "加到该节点的每个容器",
    "One RDMA port that carries collectives. Per node: names, ports and GID indices differ in real life.": "一个承载集合通信的 RDMA 端口。"
    "逐节点填写：现实中名字、端口和 GID 序号各不相同。",
    "RDMA device as ibv_devices names it, for example mlx5_1": "RDMA 设备，名字与 ibv_devices 一致，例如 mlx5_1",
    "port of the device": "设备的端口",
    "its net device, for example xgbe1": "它的网口，例如 xgbe1",
    "overrides the node's gid_index": "覆盖节点的 gid_index",
    "IPv4 address of the interface; read from the node when not given": "网口的 IPv4 地址；不给则从节点读取",
    "the GID expected at gid_index; derived from address when not given": "gid_index 处应有的 GID；不给则由 address 推出",
    "line rate in Gbit/s; read from the node when not given": "线速，Gbit/s；不给则从节点读取",
    "An RDMA device that must exist but must not carry collectives (the write-up's mlx5_0 on xgbe0).": "必须存在、但不得承载集合通信的"
    " RDMA 设备（原文中 xgbe0 上的 mlx5_0）。",
    "RDMA device, for example mlx5_0": "RDMA 设备，例如 mlx5_0",
    "its net device, for example xgbe0": "它的网口，例如 xgbe0",
    "IPv4 address of the interface": "网口的 IPv4 地址",
    "the GID expected on it": "它上面应有的 GID",
    "How to log in. Unset fields come from `~/.ssh/config` (when `use_config`) and then from OpenSSH's defaults.": "如何登录。没有填的字段"
    "取自 `~/.ssh/config`（`use_config` 为真时），然后取 OpenSSH 的默认值。",
    "log in as; default: ~/.ssh/config, then your own name": "登录用户；默认：~/.ssh/config，然后是你自己的用户名",
    "default: ~/.ssh/config, then 22": "默认：~/.ssh/config，然后是 22",
    "private key file; ~ is expanded": "私钥文件；~ 会展开",
    "jump host as user@host:port; user and port may be left out": "跳板机，写作 user@host:port；user 和 port 可省略",
    "known_hosts file; default ~/.ssh/known_hosts": "known_hosts 文件；默认 ~/.ssh/known_hosts",
    "'off' is reported in every header and report": "'off' 会写进每个抬头和每份报告",
    "offer the keys of the SSH agent": "使用 SSH agent 里的密钥",
    "heed ~/.ssh/config, as `ssh -G HOST` shows it; false: nothing of it": "遵从 ~/.ssh/config，以 `ssh -G HOST` 所示为准；false：完全不理会",
    "seconds until a host that does not answer is given up": "主机多少秒不应答就放弃",
    "seconds between keep-alive packets": "保活包的间隔秒数",
    "the container daemon's socket on the node; rootful Podman's: /run/podman/podman.sock": "节点上容器守护进程的 socket；"
    "rootful Podman 的是 /run/podman/podman.sock",
    "a login that is not root runs what needs root with `sudo -n`: the commands that --h20-plan lists, and no other": "不是 root 的登录，"
    "用 `sudo -n` 运行需要 root 权限的命令：只有 --h20-plan 列出的那些，别无其他",
    "The weights.": "权重。",
    "folder on the node that is mounted into the containers, for example /ssd1/models": "节点上挂进容器的文件夹，例如 /ssd1/models",
    "where that folder appears in the container, for example /mnt/models": "该文件夹在容器里的位置，例如 /mnt/models",
    "the model inside the container, for example /mnt/models/DeepSeek-R1": "容器里的模型，例如 /mnt/models/DeepSeek-R1",
    "default: path, as both engines do": "默认：path，两个引擎都如此",
    "number of *.safetensors files; DeepSeek-R1 has 163": "*.safetensors 文件的个数；DeepSeek-R1 为 163",
    "sum of tensor bytes over all shards": "所有分片的张量字节数之和",
    "file with 'sha256  name' lines to hold the full check against": "每行 'sha256  name' 的文件，完整校验与之相比",
    "as in config.json": "与 config.json 一致",
    "prompts draw ids below this one; default: vocab_size less 5 %": "提示词只取小于它的 token id；默认：vocab_size 减去 5 %",
    "'deepseek-r1' also checks its code files and knows the hardware floor of its TPOT": "'deepseek-r1' 还会校验它的代码文件，并知道其 TPOT 的"
    "硬件下限",
    "argument of the chat template that switches thinking: thinking (DeepSeek-V3.1 to V4), enable_thinking (Qwen3, GLM-4.5); it is on in "
    "every request but those that try it off; default: the model always thinks, as R1 does": "聊天模板中开关思考的参数：thinking"
    "（DeepSeek-V3.1 至 V4）、enable_thinking（Qwen3、GLM-4.5）；除专门测试关闭的请求外，每个请求都打开；默认：模型总在思考，R1 即如此",
    "An engine and its profiles.": "一个引擎及其 profile。",
    "the profile taken when none is named: --engine=sglang means this one": "没有指名时采用的 profile：--engine=sglang 指的就是它",
    "name: profile": "名字：profile",
    "One way to launch an engine.": "启动一个引擎的一种方式。",
    "image with tag or digest; it must be on the nodes already": "带 tag 或 digest 的镜像；必须已在节点上",
    "engine version the image is believed to hold: --h20-plan goes by it, and a run attached to what tells none; any other run asks the "
    "image or the running server": "认为镜像所含的引擎版本：--h20-plan 以它为准，附加到不告知版本的服务时也以它为准；其他运行会直接问镜像或正在运行的服务",
    "vLLM only: Ray or --nnodes; default by version": "仅 vLLM：Ray 或 --nnodes；默认由版本决定",
    "the engine's options without '--'; true: a switch that is on; false: off, in the words of the version": "引擎的选项，不带 '--'；true：打开的"
    "开关；false：关闭，按该版本的写法",
    "added to every container; wins over what the suite sets": "加到每个容器；优先于套件所设的值",
    "Docker options of the containers": "容器的 Docker 选项",
    "names of the nodes to use, head first; default: all": "使用哪些节点，head 在前；默认：全部",
    "ranks that reduce with each other after every layer; stages and copies come from the engine's flags": "每层之后一起归约的 rank 数；流水线级数和副本数来自引擎自己的参数",
    "where the API listens, on the head": "API 在 head 上监听的端口",
    "SGLang --dist-init-addr (30000) or vLLM --master-port (29501)": "SGLang 的 --dist-init-addr（30000）或 vLLM 的 --master-port（29501）",
    "vLLM with Ray: the head's port": "带 Ray 的 vLLM：head 的端口",
    "seconds from the first container to the ready line": "从第一个容器到就绪那一行的秒数",
    "seconds the first completion may take after that": "此后第一次补全最多可用的秒数",
    "the parser asked for in flags, when responses must be split": "需要拆分思考内容时，flags 里要求的解析器",
    "the tool-call parser asked for in flags, when tool calls must be parsed": "需要解析工具调用时，flags 里要求的工具调用解析器",
    "what /v1/models must say, when it says it": "/v1/models 若给出该值，必须是多少",
    "limits file for the throughput gate: relative to the inventory, else one that is shipped": "throughput 关卡的限值文件：相对于清单，否则为自带的",
    "what it was made for; it is refused elsewhere": "它为什么而写；在别处会被拒绝",
    "What a profile was made for. Elsewhere it is refused, with the reason.": "profile 为什么而写。在别处会被拒绝，并说明理由。",
    "bounds on the engine's version: ['>=0.5.10', '<0.6']": "引擎版本的界限：['>=0.5.10', '<0.6']",
    "model_type of config.json, for example deepseek_v3 (R1, V3, V3.1)": "config.json 的 model_type，例如 deepseek_v3（R1、V3、V3.1）",
    "product names: H20 is not H200 and not H20-3e": "产品名：H20 不是 H200，也不是 H20-3e",
    "how many nodes; default: any number": "几个节点；默认：不限",
    "node: glob of the logs of its prefill or decode servers (Mooncake, NIXL, UCX), where the endpoint is the router of a prefill/decode "
    "split": "节点：其 prefill 或 decode 服务日志的通配路径（Mooncake、NIXL、UCX），用于端点是 prefill/decode 分离之路由器的情况",
    "URLs of the engines behind a router: they are asked for version and context, which a gateway does not pass on, with the same API "
    "key": "路由器后面各引擎的 URL：网关不转告版本与上下文长度，就用同一个 API key 直接问它们",
    "what differs from the common `load`": "与公共的 `load` 不同之处",
    "Options of every engine container; the write-up's are the defaults.": "每个引擎容器的选项；默认值与原文相同。",
    "docker's --gpus; null: none": "docker 的 --gpus；null：不用",
    "docker's --network": "docker 的 --network",
    "docker's --ipc": "docker 的 --ipc",
    "docker's --shm-size; has no effect with ipc: host": "docker 的 --shm-size；ipc: host 时无效",
    "docker's --privileged": "docker 的 --privileged",
    "name: limit, or name: [soft, hard]; -1: unlimited": "名字：限制，或名字：[soft, hard]；-1：不限",
    "docker's --cap-add": "docker 的 --cap-add",
    "docker's --security-opt": "docker 的 --security-opt",
    "docker's --device, for example /dev/infiniband": "docker 的 --device，例如 /dev/infiniband",
    "host path: container path, ':ro' may follow": "主机路径：容器路径，后面可跟 ':ro'",
    "docker's --runtime, for example nvidia": "docker 的 --runtime，例如 nvidia",
    "What the throughput gate sends.": "throughput 关卡发送什么。",
    "default: the write-up's 13 levels": "默认：原文的 13 档",
    "pairs of input and output length; default: the write-up's 128/128 and 256/256": "输入与输出长度成对给出；默认：原文的 128/128 和 256/256",
    "'blog': as many requests as streams, one wave": "'blog'：请求数等于流数，一波",
    "of the random prompts, mixed with the id of the run; --h20-seed repeats one": "随机提示词的种子，与运行的 id 混合；--h20-seed 可重复某一次",
    "requests per cell, at least; default: by recipe": "每个测点至少多少请求；默认由 recipe 决定",
    "cells after those of concurrency and lengths; [] leaves all of them out": "concurrency 与 lengths 的单元之后再测的单元；[] 表示都不测",
    "tokens of the long answer, a quarter of the context at most": "长回答的 token 数，最多为上下文的四分之一",
    "part of each cell's requests, from 8 streams on, that ask something with a known answer; 0: none, and nobody knows what is answered "
    "under load": "从 8 个流起，每个测点中提出已知答案问题的请求所占比例；0：没有，那就没人知道负载下回答了什么",
    "'none' records without judging; such a run cannot be accepted": "'none' 只记录不判定；这样的运行不能通过验收",
    "ShareGPT file inside the container, for the engine's own benchmark": "容器里的 ShareGPT 文件，供引擎自带的基准测试使用",
    "requests must have at most this TTFT, ms (goodput counts those that do)": "请求的 TTFT 至多为此值，毫秒（goodput 只数达到的）",
    "requests must have at most this TPOT, ms": "请求的 TPOT 至多为此值，毫秒",
    "part of the requests of each cell that must keep what slo_* says": "每个测点中必须达到 slo_* 的请求比例",
    "How patient the endpoint's checks are.": "端点检查有多大耐心。",
    "seconds one ordinary answer may take": "一次普通应答最多可用的秒数",
    "most tokens one graded answer may take": "一道评分题最多可用的 token 数",
    "A running endpoint to test instead of starting one.": "测试一个正在运行的端点，而不是启动一个。",
    "for example http://10.63.65.207:8000": "例如 http://10.63.65.207:8000",
    "name of the environment variable that holds the API key": "存放 API key 的环境变量的名字",
    "node: glob of its NCCL logs (`*`, `?`, `[...]`; braces and `~` are taken as they are); those of processes that ended are left out": "节点："
    "其 NCCL 日志的通配符（`*`, `?`, `[...]`；花括号和 `~` 按字面处理）；已结束进程的日志不算在内",
}
