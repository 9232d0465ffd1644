"""Planted secrets never survive; what checks are judged on always does."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_h20.core.errors import UsageError
from pytest_h20.core.redact import MASK, Redactor, redact, secret_name

ALPHABET = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
SECRETS = st.text(ALPHABET, min_size=12, max_size=40).filter(lambda s: any(c.isdigit() for c in s) and any(c.isalpha() for c in s))
ODD_SECRETS = st.text(ALPHABET + "!#$%^*-_=+.~|/:?@,;", min_size=12, max_size=40).map(lambda s: "q7" + s + "Z9")

PLACES = [
    "HF_TOKEN={}",
    "export HF_TOKEN={}",
    "x HF_TOKEN={} vllm serve /models/r1",
    '"Env":["HF_TOKEN={}","PATH=/usr/bin"]',
    "vllm serve /m --api-key {} --tensor-parallel-size 16",
    "vllm serve /m --api-key={}",
    "['--api-key', '{}', '--tp', '16']",
    '["--api-key", "{}"]',
    '{{"api_key": "{}", "n": 1}}',
    r'{{"outer": "{{\"api_key\": \"{}\"}}"}}',
    "{{'password': '{}'}}",
    "api_key={}",
    "apiKey: {}",
    "client_secret: '{}'",
    "AWS_SECRET_ACCESS_KEY={}",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    '"Authorization": "Bearer {}"',
    "curl -H 'Authorization: Bearer {}' http://node-a:30000/health",
    "curl -H 'X-Api-Key: {}' http://node-a:30000/health",
    "Cookie: session={}",
    "http://user:{}@10.0.0.1:30000/v1",
    "https://10.0.0.1/v1?api_key={}&x=1",
    "password: {}",
    "sshpass -p {} ssh root@node-a",
    "curl -u admin:{} http://x",
    "the password is {}",
    "got header bearer {}",
    "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY-----\\n{}",
    "sk-{0}{0}",
    "token hf_{0}{0} was refused",
    "ghp_{0}{0}",
    "eyJhbGciOiJIUzI1NiJ9.{}.sig",
]


@pytest.mark.parametrize("place", PLACES)
@given(secret=SECRETS)
def test_a_planted_secret_is_gone_and_redacting_twice_changes_nothing(place: str, secret: str) -> None:
    out = redact(f"line before\n{place.format(secret)}\nline after GID 0000:0000:0000:0000:0000:ffff:0a63:0101")
    assert secret not in out
    assert out.startswith("line before\n")
    assert redact(out) == out


@given(secret=ODD_SECRETS)
def test_odd_characters_in_env_dumps_json_and_quoted_arguments(secret: str) -> None:
    assert secret not in redact(f"PATH=/usr/bin\nDB_PASSWORD={secret}\nHOME=/root")
    assert secret not in redact(json.dumps({"password": secret, "gid": 3}))
    assert secret not in redact("vllm serve --api-key " + shlex.quote(secret) + " --port 8000")


@given(secret=ODD_SECRETS, before=st.text(max_size=30), after=st.text(max_size=30))
def test_a_known_secret_goes_wherever_it_stands(secret: str, before: str, after: str) -> None:
    out = Redactor(secrets=[secret]).text(before + secret + after)
    assert secret not in out


@given(
    name=st.sampled_from(["api_key", "password", "HF_TOKEN", "clientSecret"]),
    secret=st.text(min_size=8, max_size=30).map("Q8".__add__),
)
def test_data_keeps_its_shape_and_loses_its_secrets(name: str, secret: str) -> None:
    data = {"a": [{"deep": {name: secret}}], "argv": ["serve", "--api-key", secret], "tokens": 5, "eos_token": "<e>"}
    out = Redactor().data(data)
    assert secret not in json.dumps(out, ensure_ascii=False)
    assert out["tokens"] == 5
    assert out["eos_token"] == "<e>"
    assert out["argv"][:2] == ["serve", "--api-key"]


@given(secret=st.text(min_size=1, max_size=40).map("Q8".__add__))
def test_env_values_of_secret_names_go_whole(secret: str) -> None:
    out = Redactor().env({"HF_TOKEN": secret, "NCCL_IB_GID_INDEX": "3", "EMPTY_TOKEN": ""})
    assert out == {"HF_TOKEN": MASK, "NCCL_IB_GID_INDEX": "3", "EMPTY_TOKEN": ""}


HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('{"auths": {"registry": {"auth": "cGxhbnRlZDpwbGFudGVk"}}}', "cGxhbnRlZDpwbGFudGVk"),
        ('"identitytoken": "planted-identity"', "planted-identity"),
        ("    client-key-data: cGxhbnRlZGtleQ==", "cGxhbnRlZGtleQ"),
        ("GET https://x.blob.core.windows.net/m?sv=2022&sig=planted%3D&x=1", "planted"),
        ("https://b.s3.amazonaws.com/x?X-Amz-Signature=planted0123", "planted0123"),
        ("machine hf.co login me password planted-netrc", "planted-netrc"),
        ("SSHPASS=planted-pass ssh root@node", "planted-pass"),
    ],
)
def test_keys_to_stores_registries_and_clusters(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert MASK in redact(text)
    assert "cGxhbnRlZDpwbGFudGVk" not in json.dumps(Redactor().data({"auths": {"r": {"auth": "cGxhbnRlZDpwbGFudGVk"}}}))
    assert redact('"auth": "none", ?signal=3&design=x') == '"auth": "none", ?signal=3&design=x'


@given(digest=HEX)
def test_digests_stay(digest: str) -> None:
    text = f"registry/vllm@sha256:{digest} id {digest} file model-00001.safetensors {digest[:40]} {digest[:12]}"
    assert redact(text) == text


@given(uuid=st.uuids(), gid=st.lists(st.integers(0, 0xFFFF), min_size=8, max_size=8))
def test_uuids_and_gids_stay(uuid: object, gid: list[int]) -> None:
    text = f"GPU-{uuid} GID[3] " + ":".join(f"{part:04x}" for part in gid) + " mlx5_1/1"
    assert redact(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "completion_tokens=128 prompt_tokens: 7",
        "--max-num-batched-tokens 8192 --tokenizer /models/r1 --trust-remote-code",
        "eos_token: <|end_of_sentence|>, bos_token_id: 0",
        "time per output token: 12.34 ms, first token 0.5",
        "tokens/s: 1234.5",
        "docker run -u 1000:1000 --shm-size 128g image",
        "http://10.99.0.1:30000/v1/models, mail root@node-a",
        "/etc/passwd: No such file or directory",
        "Permission denied (publickey,password).",
        "SHA256:nThbg6kXUpJWGl7E1IGOCspRomTxdCARLviKw6E5SY8 ssh-ed25519",
        "node-a NCCL INFO Channel 00/0 : 0[0] -> 8[0] [send] via NET/IB/0/GDRDMA",
        "IdentityFile ~/.ssh/id_ed25519 key_file=/root/.ssh/id",
        "PWD=/root\nOLDPWD=/tmp\nTERM=xterm",
        '{"token":"Co","logprob":-0.0043,"bytes":[67,11]}',
        "password=None, api_key=None",
        "HF_TOKEN=${HF_TOKEN}",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "unset token limit; token limit reached",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_any_text_is_taken_and_the_second_pass_changes_nothing(text: str) -> None:
    out = redact(text)
    assert redact(out) == out


@given(st.binary())
def test_bytes_that_are_not_text_come_through(data: bytes) -> None:
    assert Redactor().bytes(data + b" HF_TOKEN=abcdef12").endswith(b"HF_TOKEN=" + MASK.encode())


def test_the_tail_of_a_private_key_goes_too() -> None:
    text = "log line\nAAAABBBBCCCCDDDDEEEE1111\nZZZZYYYY2222==\n-----END RSA PRIVATE KEY-----\nnext"
    assert redact(text) == f"log line\n{MASK}\nnext"


def test_json_stays_json() -> None:
    text = json.dumps({"api_key": 'a"b', "list": {"passwords": ["x", "y"]}, "n": "HF_TOKEN=abc"})
    assert json.loads(redact(text)) == {"api_key": MASK, "list": {"passwords": [MASK]}, "n": f"HF_TOKEN={MASK}"}


def test_user_patterns() -> None:
    redactor = Redactor(patterns=[r"ticket (?P<secret>T-\d+)", r"intern\w+"])
    assert redactor.text("ticket T-123 for internals") == f"ticket {MASK} for {MASK}"


@pytest.mark.parametrize("pattern", ["(", "a*"])
def test_a_bad_user_pattern_is_one_clear_line(pattern: str) -> None:
    with pytest.raises(UsageError, match="redaction pattern"):
        Redactor(patterns=[pattern])


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("hf-token", True),
        ("eos_token", False),
        ("tokenizer", False),
        ("max_tokens", False),
        ("api-key", True),
        ("sshKey", True),
        ("host_key", False),
        ("PWD", False),
        ("DB_PASS", True),
        ("passed", False),
        ("MYSQL_PWD", True),
    ],
)
def test_names(name: str, secret: bool) -> None:
    assert secret_name(name) is secret


def test_recorded_server_transcripts_lose_only_credentials() -> None:
    folder = Path(__file__).parents[4] / "shared" / "transcripts"
    if not folder.is_dir():
        pytest.skip("the recorded transcripts are not beside this checkout")
    for path in sorted(folder.rglob("*.json"))[:200]:
        text = path.read_text(errors="replace")
        before, after = text.splitlines(), redact(text).splitlines()
        changed = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
        assert all("key" in b.lower() or "authorization" in b.lower() for b, _ in changed), (path, changed)


@pytest.mark.parametrize("letters", ["authorızation", "AUTHORİZATION", "coo\u212aie", "BEARER"])
def test_no_spelling_gets_past_the_quick_look(letters: str) -> None:
    """What a pattern that ignores case takes for one of its letters, the look before it takes for it too."""
    between = " " if letters == "BEARER" else ": "
    assert "Kx9-secret-77aQ" not in Redactor().text(f"{letters}{between}Kx9-secret-77aQ")
