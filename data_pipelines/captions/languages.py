"""Detects the language of a caption: by its script where that is enough, else by a model of letter sequences.

Nothing is downloaded. The model is that of py3langid, 97 languages; it takes 2 microseconds per letter. Of a few words
it guesses wildly, so short captions are English if their words are (see `english_words.py`), else undetermined.
"""

import functools
import unicodedata
from collections import Counter

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from data_pipelines.captions.english_words import is_english

UNDETERMINED = "und"  # ISO 639-2: undetermined
ENGLISH = "en"
MIN_LETTERS = 20  # of a caption that the model classifies; for less it guesses wildly
MAX_CHARS = 120  # of a caption that are read
MIN_CONFIDENCE = 0.5  # 0..1; real captions of a line reach 0.7 and more, lists of names less
MAX_CACHED = 1 << 14  # captions whose language is cached, as one caption often serves many records
# Scripts in which almost everything is written in one language, by the first word of Unicode's character names.
_SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "THAI": "th", "GREEK": "el", "HEBREW": "he", "GEORGIAN": "ka",
    "ARMENIAN": "hy", "TAMIL": "ta", "TELUGU": "te", "KANNADA": "kn", "MALAYALAM": "ml", "GUJARATI": "gu",
    "GURMUKHI": "pa", "ORIYA": "or", "SINHALA": "si", "KHMER": "km", "LAO": "lo", "MYANMAR": "my", "ETHIOPIC": "am",
}  # fmt: skip
_MIN_SHARE = 0.5  # of the letters that must be of one script for it to decide
_MIN_KANA_SHARE = 0.1  # Japanese mixes kana with Chinese characters


@functools.lru_cache(MAX_CACHED)
def detect_language(text: str) -> str:
    """ISO 639-1 code of the text's language, "und" if it is too short or too mixed to decide."""
    letters = [character for character in text[:MAX_CHARS] if character.isalpha()]
    if not letters:
        return UNDETERMINED
    by_script = _by_script(letters) if not text.isascii() else None
    if by_script is not None:
        return by_script
    if len(letters) < MIN_LETTERS:
        return ENGLISH if is_english(text) else UNDETERMINED
    language, confidence = _model().classify(text[:MAX_CHARS])
    if confidence >= MIN_CONFIDENCE:
        return str(language)
    return ENGLISH if is_english(text[:MAX_CHARS]) else UNDETERMINED


def _by_script(letters: list[str]) -> str | None:
    scripts = Counter(unicodedata.name(letter, "").split(" ", 1)[0] for letter in letters)
    if scripts["HIRAGANA"] + scripts["KATAKANA"] >= _MIN_KANA_SHARE * len(letters):
        return "ja"
    script, count = scripts.most_common(1)[0]
    if count < _MIN_SHARE * len(letters):
        return None
    return "zh" if script == "CJK" else _SCRIPTS.get(script)


@functools.cache
def _model() -> LanguageIdentifier:
    """The model of py3langid, loaded once in each process, which takes a second."""
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages([label for label in model.labels if len(label) == 2])
    return model
