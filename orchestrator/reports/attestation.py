"""Verifiable statements about artifacts: in-toto statements, in a DSSE envelope when they are signed.

Sources: in-toto attestation framework, Statement v1 (github.com/in-toto/attestation/blob/main/spec/v1/statement.md);
DSSE v1 (github.com/secure-systems-lab/dsse/blob/master/protocol.md). Signatures are Ed25519.
`securesystemslib` verifies them in a test; signing needs `cryptography` only, so it is no dependency of the program.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.artifact import JSON
from orchestrator.errors import RecipeError

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def statement(
    subjects: Sequence[tuple[str, str]], *, predicate_type: str, predicate: Mapping[str, JSON]
) -> dict[str, JSON]:
    """An in-toto statement about `subjects`, each (name, SHA-256)."""
    subject_list: list[JSON] = [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects]
    return {
        "_type": STATEMENT_TYPE,
        "subject": subject_list,
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def sign(document: Mapping[str, JSON], key_file: Path) -> dict[str, JSON]:
    """The DSSE envelope of a statement, signed with an Ed25519 private key in PEM.

    Raises: RecipeError: the file contains no such key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"{key_file}: {error}; give an Ed25519 private key as PEM without a password") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RecipeError(f"{key_file}: found a key of another type; `openssl genpkey -algorithm ed25519` makes one")
    payload = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {
                "keyid": hashlib.sha256(public).hexdigest(),
                "sig": base64.b64encode(key.sign(_pre_authentication_encoding(payload))).decode(),
            }
        ],
    }


def _pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that DSSE signs."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
