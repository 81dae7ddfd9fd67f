from typing import Any

from orchestrator.artifact import Fingerprint, Manifest
from stages import STAGE_KINDS
from stages.provenance.declared import Declared, declared


def manifest(stage_kind: str, **provenance: Any) -> Manifest:
    return Manifest(
        kind="memory@1",
        stage_kind=stage_kind,
        fingerprint=Fingerprint("0" * 64),
        payload={},
        files=(),
        metrics={},
        provenance=provenance,
    )


def test_a_known_kind_says_what_its_artifacts_are() -> None:
    assert declared(manifest("train_mllm"), STAGE_KINDS) == Declared(is_learned=True, is_training=True)
    assert declared(manifest("export"), STAGE_KINDS) == Declared(is_learned=True)
    assert declared(manifest("extend_vocabulary"), STAGE_KINDS) == Declared(is_learned=True)
    assert declared(manifest("tokenize_images"), STAGE_KINDS) == Declared(rows_name_samples=True)
    assert declared(manifest("curate"), STAGE_KINDS) == Declared()


def test_of_a_kind_that_is_not_loaded_the_record_of_the_artifact_is_asked() -> None:
    trained = manifest("learn_words", learned={"from_samples": True, "is_model": True})
    assert declared(trained, STAGE_KINDS) == Declared(is_learned=True, is_training=True)
    merged = manifest("merge_words", learned={"from_samples": False, "is_model": True})
    assert declared(merged, STAGE_KINDS) == Declared(is_learned=True)
    assert declared(manifest("count_words"), STAGE_KINDS) == Declared()
