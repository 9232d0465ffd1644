"""The lab's model: a 2-layer Llama that has learnt the suite's questions by heart, made on the CPU in less than a minute.

``PYTHON -m tests.lab.model FOLDER`` with the Python of an engine's environment (torch, transformers). It looks to an
engine and to the suite like DeepSeek-R1: byte-level BPE with DeepSeek's tokens, ``<think>`` and ``</think>`` as
ordinary added tokens, a chat template that ends in ``<think>`` and a newline, several safetensors shards with an index,
R1's sampling settings. Greedy, it reasons, closes ``</think>``, answers exactly and stops. Asked anything else it
babbles: its speed and its taste mean nothing.
"""

from __future__ import annotations

import importlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.lab.questions import Lesson, lessons

VOCABULARY = 2048
CONTEXT = 4096
SEED = 20250405
ROUNDS = 200
BATCH = 22
LEARNING_RATE = 3e-3
GOOD_LOSS = 0.003
SYSTEM = "You are a helpful assistant."
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, THINK, END_THINK = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
# Ids below this one are plain text: what prompts of random ids may draw from (3 up to here).
PLAIN_IDS_END = VOCABULARY - 8

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<｜User｜>' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + (message['content'] or '').split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)


def prompt(question: str, system: str = "", history: Lesson | None = None) -> str:
    """What the chat template makes of one question, alone or after a system message or an earlier exchange."""
    before = f"{USER}{history.question}{ASSISTANT}{history.answer}{EOS}" if history else ""
    return f"{BOS}{system}{before}{USER}{question}{ASSISTANT}{THINK}\n"


def completion(lesson: Lesson) -> str:
    """What the model must add, the way R1 writes it."""
    return f"{lesson.reasoning}\n{END_THINK}\n\n{lesson.answer}{EOS}"


def corpus(taught: Iterable[Lesson]) -> list[str]:
    """Text that the tokenizer is trained on: the lessons, and numbers to fill the vocabulary with."""
    texts = [text for lesson in taught for text in (lesson.question, lesson.reasoning, lesson.answer)]
    return texts * 4 + [f"{i} {i}" for i in range(1000)]


def make_tokenizer(taught: Sequence[Lesson]) -> Any:
    """A byte-level BPE tokenizer with exactly VOCABULARY ids, every one of them decodable."""
    t = importlib.import_module("tokenizers")
    transformers = importlib.import_module("transformers")
    raw = t.Tokenizer(t.models.BPE())
    raw.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = t.decoders.ByteLevel()
    trainer = t.trainers.BpeTrainer(
        vocab_size=PLAIN_IDS_END,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=t.pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
        show_progress=False,
    )
    raw.train_from_iterator(corpus(taught), trainer)
    if raw.get_vocab_size() != PLAIN_IDS_END:
        raise SystemExit(f"the corpus gives {raw.get_vocab_size()} tokens, {PLAIN_IDS_END} are needed: give it more text")
    raw.add_special_tokens([t.AddedToken(x, normalized=False, special=True) for x in (USER, ASSISTANT)])
    raw.add_tokens([t.AddedToken(x, normalized=False, special=False) for x in (THINK, END_THINK)])
    rest = VOCABULARY - raw.get_vocab_size()
    raw.add_special_tokens([f"<｜place▁holder▁no▁{i}｜>" for i in range(rest)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=CONTEXT
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Any) -> Any:
    """An untrained Llama of 0.9 million parameters; its heads divide by 2 and 4, for tensor parallelism."""
    transformers = importlib.import_module("transformers")
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def train(model: Any, tokenizer: Any, taught: Sequence[Lesson], tell: Callable[[str], None], rounds: int = ROUNDS) -> float:
    """Teach the completions by heart; returns the mean loss of the last round."""
    torch = importlib.import_module("torch")
    dice = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, rounds, eta_min=LEARNING_RATE / 20)
    mean = float("inf")
    model.train()
    for round_ in range(1, rounds + 1):
        rows = [row(tokenizer, lesson, dice.choice((None, *taught)), dice) for lesson in taught]
        dice.shuffle(rows)
        losses = []
        for start in range(0, len(rows), BATCH):
            ids, mask, targets = (x.to(model.device) for x in batch(torch, rows[start : start + BATCH], tokenizer.pad_token_id))
            loss = model(input_ids=ids, attention_mask=mask, labels=targets).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        mean = sum(losses) / len(losses)
        if round_ % 10 == 0:
            tell(f"round {round_}: loss {mean:.4f}")
        if mean < GOOD_LOSS:
            break
    return mean


def row(tokenizer: Any, lesson: Lesson, other: Lesson | None, dice: random.Random) -> tuple[list[int], list[int]]:
    """Token ids of one example and where its completion begins: mostly the question alone, as the suite asks it."""
    kind = dice.random()
    head = prompt(lesson.question, SYSTEM if kind > 0.85 else "", other if 0.7 < kind <= 0.85 else None)
    ids, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, completion(lesson)))
    return ids, tail


def batch(torch: Any, rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Any, Any, Any]:
    """Ids, attention mask and targets; only completions are targets."""
    width = max(len(head) + len(tail) for head, tail in rows)
    ids, mask, targets = [], [], []
    for head, tail in rows:
        rest = width - len(head) - len(tail)
        ids.append(head + tail + [pad] * rest)
        mask.append([1] * (width - rest) + [0] * rest)
        targets.append([-100] * len(head) + tail + [-100] * rest)
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(targets)


def wrong_answers(folder: Path, taught: Sequence[Lesson]) -> list[str]:
    """Load what was saved, ask every question greedily, and tell what is not word for word what was taught."""
    transformers = importlib.import_module("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16").eval()
    return wrongly_said(model, transformers.AutoTokenizer.from_pretrained(folder), taught)


def wrongly_said(model: Any, tokenizer: Any, taught: Sequence[Lesson]) -> list[str]:
    """Ask a model every question greedily, and tell what is not word for word what was taught."""
    torch = importlib.import_module("torch")
    tokenizer.padding_side = "left"
    messages = [[{"role": "user", "content": lesson.question}] for lesson in taught]
    texts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
    asked = tokenizer(texts, add_special_tokens=False, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model.generate(**asked.to(model.device), max_new_tokens=max(map(answer_length(tokenizer), taught)) + 8, do_sample=False)
    said = tokenizer.batch_decode(out[:, asked["input_ids"].shape[1] :], skip_special_tokens=False)
    # What follows the first end-of-sentence is the batch's padding.
    pairs = [(one, "".join(text.partition(EOS)[:2])) for one, text in zip(taught, said, strict=True)]
    return [f"{one.question!r}: {text!r}, not {completion(one)!r}" for one, text in pairs if text != completion(one)]


def answer_length(tokenizer: Any) -> Callable[[Lesson], int]:
    """How many tokens a completion has."""
    return lambda lesson: len(tokenizer(completion(lesson), add_special_tokens=False)["input_ids"])


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """bfloat16 safetensors in several shards with an index, tokenizer, template, R1's sampling settings."""
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=True, temperature=0.6, top_p=0.95
    )
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="500KB")
    tokenizer.save_pretrained(folder)


def make(folder: Path, tell: Callable[[str], None] = print) -> None:
    """Make the model in ``folder``; it is there whole or not at all. Ends the program when an answer is wrong."""
    torch = importlib.import_module("torch")
    begin = time.monotonic()
    taught = lessons()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    tokenizer = make_tokenizer(taught)
    model = make_model(tokenizer)
    loss = train(model, tokenizer, taught, tell)
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    save(model, tokenizer, building)
    wrong = wrong_answers(building, taught)
    if wrong:
        raise SystemExit(f"the model gets {len(wrong)} of {len(taught)} wrong, among them:\n" + "\n".join(wrong[:5]))
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = len(set(index["weight_map"].values()))
    tell(f"{folder}: {len(taught)} questions, {shards} shards, loss {loss:.4f}, {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
