"""Token files: text tokenizer, vocabulary, conversations, image codes."""
