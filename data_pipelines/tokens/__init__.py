"""Tokens: text tokenizer, vocabulary, rendering of conversations, and image codes in token shards."""
