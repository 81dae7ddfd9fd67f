"""What a vocabulary can be made from."""

import pytest

from orchestrator.errors import PrecheckError
from orchestrator.stage import Location
from stages.extend_vocabulary import EXTEND_VOCABULARY, ExtendVocabularyConfig, sources


def test_a_text_tokenizer_cannot_be_trained_on_nothing() -> None:
    assert EXTEND_VOCABULARY.precheck is not None
    with pytest.raises(PrecheckError, match="needs datasets"):
        EXTEND_VOCABULARY.precheck(ExtendVocabularyConfig(resolutions=(64,), text_vocabulary=300), {})


@pytest.mark.parametrize("given", [{}, {"text_vocabulary": 300, "text_tokenizer": Location("tokenizer.json")}])
def test_the_text_tokenizer_is_either_trained_or_adopted(given: dict[str, int | Location]) -> None:
    with pytest.raises(ValueError, match="give either text_vocabulary"):
        ExtendVocabularyConfig(resolutions=(64,), **given)  # type: ignore[arg-type]  # by name


def test_only_an_adopted_tokenizer_is_a_source() -> None:
    assert sources(ExtendVocabularyConfig(resolutions=(64,), text_vocabulary=300)) == {}
    adopted = sources(ExtendVocabularyConfig(resolutions=(64,), text_tokenizer=Location("here/tokenizer.json")))
    assert {name: str(path) for name, path in adopted.items()} == {"tokenizer.json": "here/tokenizer.json"}
