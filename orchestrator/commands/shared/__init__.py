"""What several commands share: options, targets, questions, texts, the live view."""
