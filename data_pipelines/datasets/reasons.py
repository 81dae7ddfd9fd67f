"""Every reason for which a record can be dropped, so that a bound on an unknown reason is refused before a run."""

READING = (
    "absolute_path", "ambiguous_sample", "bad_schema", "bad_tar_member",
    "broken_json", "broken_parquet", "broken_tar", "caption_missing",
    "missing_file", "not_regular_file", "path_traversal", "placeholder_mismatch", "remote_url", "truncated_archive",
    "truncated_tar_member", "unsafe_path",
)  # fmt: skip
IMAGES = (
    "blank_image", "corrupt_image", "decompression_bomb", "extreme_aspect", "format_not_allowed", "low_quality",
    "noise_image", "not_an_image", "opted_out", "too_large", "too_small", "truncated_image", "unmatched_aspect",
    "zero_byte",
)  # fmt: skip
CAPTIONS = (
    "caption_bad_encoding", "caption_boilerplate", "caption_control_chars", "caption_empty", "caption_filename",
    "caption_gibberish", "caption_html", "caption_mojibake", "caption_pii", "caption_prompt_injection",
    "caption_special_tokens", "caption_too_long", "caption_too_short", "caption_url",
    "language_not_allowed",
)  # fmt: skip
COPIES = ("same_record", "same_bytes", "same_pixels", "similar_image", "mirrored_image", "similar_meaning")
SCORES = ("score_missing", "score_too_high", "score_too_low")
RULES = ("contaminated", "license_not_allowed", "quarantined", "taken_down")
# Reasons in ledgers of before, by the name that they had.
RENAMED_REASONS = {"similar_picture": "similar_image", "mirrored_picture": "mirrored_image"}
REASONS = (*READING, *IMAGES, *CAPTIONS, *COPIES, *SCORES, *RULES)
