"""Secrets in text, in plain data and in identities; what is no secret stays as it is."""

import json
import time

import pytest

from orchestrator.artifact import JSON
from orchestrator.redaction.formats import TOKENS
from orchestrator.redaction.masking import mask_config, mask_formats, mask_secrets, mask_text, remember_secret

A34, UPPER16, HEX32, HEX40 = "aB3dE6gH9" * 4, "ABCDEFGH12345678", "0123456789abcdef" * 2, "0123456789" * 4
EXAMPLES = {  # one of each kind of token, all invented
    "AWS access key": f"AKIA{UPPER16}",
    "AWS session token": f"IQoJb3JpZ2luX2VjE{A34}{A34}==",
    "Google API key": f"AIza{A34[:35]}",
    "Google OAuth token": f"ya29.{A34}",
    "Google client secret": f"GOCSPX-{A34[:28]}",
    "Google HMAC key": f"GOOG1E{UPPER16}{UPPER16}",
    "Azure client secret": f"abc8Q~{A34[:34]}",
    "Azure signature": "sig=abCdefgh12345678%2Bij%3D",
    "Hugging Face token": f"hf_{A34}",
    "GitHub token": f"ghp_{A34}",
    "GitLab token": f"glpat-{A34[:20]}",
    "OpenAI or Anthropic key": f"sk-proj-{A34}",
    "Slack token": "xoxb-1234567890-abcdefghij",
    "Slack webhook": "https://hooks.slack.com/services/T0001/B0001/abcdefgh",
    "Weights & Biases key": f"local-{HEX40}",
    "Databricks token": f"dapi{HEX32}",
    "Replicate token": f"r8_{A34}A",
    "PyPI token": f"pypi-{A34}{A34}",
    "npm token": f"npm_{A34}",
    "Docker token": f"dckr_pat_{A34[:27]}",
    "Vault token": f"hvs.CAES{A34}",
    "SendGrid key": f"SG.{A34[:22]}.{A34}{A34[:7]}",
    "Telegram token": f"1234567890:AA{A34[:33]}",
    "Twilio key": f"SK{HEX32}",
    "Stripe key": "sk_live_abcdefgh12345678",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "bearer token": "Bearer abcdefghijklmnop1234",
}


def test_the_examples_are_complete() -> None:
    assert set(EXAMPLES) == set(TOKENS)


@pytest.mark.parametrize("token", EXAMPLES.values(), ids=EXAMPLES)
def test_every_kind_of_token_is_masked_wherever_it_stands(token: str) -> None:
    secret = token.removeprefix("https://hooks.slack.com/").removeprefix("Bearer ")
    for text in (token, f"refused: {token}.", f'{{"message": "{token}"}}', f"/data/{token}/x.txt", f"({token})\n"):
        masked = mask_text(text)
        assert secret not in masked
        assert "***" in masked
        assert mask_text(masked) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:hunter2@db.local/runs", "postgresql://me:***@db.local/runs"),
        ("postgresql+psycopg://me:p@ss@db/runs", "postgresql+psycopg://me:***@db/runs"),
        ("connect to https://:token@host:8080 now", "connect to https://:***@host:8080 now"),
        ("s3://bucket/key?X-Amz-Signature=abc123&part=1", "s3://bucket/key?X-Amz-Signature=***&part=1"),
        ("https://x.blob/a?sp=r&sig=a%2Bb&se=1", "https://x.blob/a?sp=r&sig=***&se=1"),
        ("https://h/p?access_token=secret#top", "https://h/p?access_token=***#top"),
        ("Authorization: Bearer abcdefghijklmnop1234", "Authorization: ***"),
        ("'Authorization': 'Basic dXNlcjpwdw=='", "'Authorization': '***'"),
        ("AccountName=x;AccountKey=abC+/12==;EndpointSuffix=core", "AccountName=x;AccountKey=***;EndpointSuffix=core"),
        ("host=db password=hunter2 user=me", "host=db password=*** user=me"),
        ("Config(api_key='hunter2', x=1)", "Config(api_key='***', x=1)"),
        ('{"client_secret": "hunter2", "n": 1}', '{"client_secret": "***", "n": 1}'),
        (r'"{\"password\": \"hunter2\"}"', r'"{\"password\": \"***\"}"'),
        ("AWS_SECRET_ACCESS_KEY=wJalr/XUtnFEMI+K7", "AWS_SECRET_ACCESS_KEY=***"),
        ("ran: tool --api-key abcd1234efgh --n 12345678", "ran: tool --api-key *** --n 12345678"),
        ("Command '['tool', '--hub-token', 'abcd1234efgh']' failed", "Command '['tool', '--hub-token', '***']' failed"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\nabc\n-----END RSA PRIVATE KEY----- end", "*** end"),
        ("-----BEGIN PRIVATE KEY-----\nMIIabc and no end", "***"),
    ],
)
def test_secrets_in_text_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "10:30 at me@example.org, see https://example.org/a:b",
        "s3://bucket/prefix?endpoint=http://127.0.0.1:9000",
        "password: expected a text",
        "secret = get_secret(name)",
        "https://host/v1?max_tokens=512&next=3",
        "max_tokens=5, pad_token='<pad>', trained_tokens=12",
        "`--password` or --api-key instead, --token names what --max-tokens 12345678 does",
        "sk-learn-based-classifier, ghost_writer, local-0123",
        f"sha256 {HEX32}{HEX32}, commit {HEX40}",
        "config.tokenizer: 2e-5 -> 1e-5",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "x" * 300_000,
        "?token" * 50_000,
        "a://b:" * 50_000,
        "s3://" + "k:" * 150_000,
        "password_" * 40_000 + "=",
        "x-" * 150_000 + "token:",
        "eyJ" * 100_000,
        "password='" * 30_000,
        "authorization:" * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 10_000,
        "8Q~" * 100_000,
        "bearer " * 40_000,
        "--token " * 40_000,
        "--" + "a-" * 150_000 + "token x1234567",
        "IQoJb3JpZ2lu" * 30_000,
    ],
)
def test_masking_takes_linear_time(text: str) -> None:
    started = time.monotonic()
    mask_text(text)
    assert time.monotonic() - started < 5.0  # some 0.5 s; quadratic time would be minutes


def test_values_under_secret_names_are_masked_at_any_depth() -> None:
    data: JSON = {
        "store": {"secret_access_key": "abc", "region": "eu", "awsSecretAccessKey": "abc"},
        "logins": [{"password": "abc", "user": "me"}],
        "credentials": {"user": "me", "keys": ["abc", "def"]},
        "trained_tokens": 12,
        "pad_token": "<pad>",
        "token": "<image>",
        "key": "a",
        "api_key": None,
        "password": "",
    }
    assert mask_secrets(data) == {
        "store": {"secret_access_key": "***", "region": "eu", "awsSecretAccessKey": "***"},
        "logins": [{"password": "***", "user": "me"}],
        "credentials": {"user": "***", "keys": ["***", "***"]},
        "trained_tokens": 12,
        "pad_token": "<pad>",
        "token": "<image>",
        "key": "a",
        "api_key": None,
        "password": "",
    }
    assert mask_secrets({"token": A34}) == {"token": "***"}
    assert json.dumps(mask_secrets({EXAMPLES["GitHub token"]: 1})) == '{"***": 1}'


def test_a_secret_of_this_process_is_masked_where_nothing_shows_that_it_is_one_but_not_in_identities() -> None:
    remember_secret("correct-horse-7")
    assert mask_text("tried correct-horse-7 in vain") == "tried *** in vain"
    assert mask_formats("tried correct-horse-7") == "tried correct-horse-7"
    assert mask_config({"a": "correct-horse-7"}) == {"a": "correct-horse-7"}
    remember_secret("horse")
    remember_secret("/run/secrets/token")
    assert mask_text("a horse in /run/secrets/token") == "a horse in /run/secrets/token"
