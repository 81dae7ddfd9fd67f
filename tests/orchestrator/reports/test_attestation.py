import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from orchestrator.errors import RecipeError
from orchestrator.reports.attestation import PAYLOAD_TYPE, STATEMENT_TYPE, sign, statement


def write_key(folder: Path, key: Ed25519PrivateKey | X25519PrivateKey) -> Path:
    file = folder / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file


def test_a_signature_verifies_over_the_dsse_encoding_and_over_nothing_else(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    document = statement([("model", "a" * 64)], predicate_type="https://x/y", predicate={"size": 1, "name": "é"})
    envelope = json.loads(json.dumps(sign(document, write_key(tmp_path, key))))
    payload = base64.b64decode(envelope["payload"])
    assert json.loads(payload) == document
    assert (document["_type"], envelope["payloadType"]) == (STATEMENT_TYPE, PAYLOAD_TYPE)
    public = key.public_key()
    (signature,) = envelope["signatures"]
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert signature["keyid"] == hashlib.sha256(raw).hexdigest()
    encoded = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    public.verify(base64.b64decode(signature["sig"]), encoded)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature["sig"]), payload)


def test_an_independent_library_of_dsse_verifies_the_signature_and_misses_a_change(tmp_path: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    document = statement([("model", "a" * 64)], predicate_type="https://x/y", predicate={"name": "é", "share": 0.5})
    signed = sign(document, write_key(tmp_path, key))
    envelope = Envelope.from_dict(json.loads(json.dumps(signed)))
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    trusted = SSlibKey.from_crypto(key.public_key(), keyid=hashlib.sha256(raw).hexdigest())
    assert list(envelope.verify([trusted], threshold=1)) == [trusted.keyid]
    assert json.loads(envelope.payload) == document
    with pytest.raises(VerificationError):
        envelope.verify([SSlibKey.from_crypto(other.public_key(), keyid=trusted.keyid)], threshold=1)
    envelope.payload = envelope.payload.replace(b"0.5", b"0.6")
    with pytest.raises(VerificationError):
        envelope.verify([trusted], threshold=1)


def test_a_file_without_an_ed25519_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="found a key of another type"):
        sign({}, write_key(tmp_path, X25519PrivateKey.generate()))
    (tmp_path / "text").write_text("no key")
    with pytest.raises(RecipeError, match="give an Ed25519 private key as PEM"):
        sign({}, tmp_path / "text")
    with pytest.raises(RecipeError, match="absent"):
        sign({}, tmp_path / "absent")
