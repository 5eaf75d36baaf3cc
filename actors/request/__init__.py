"""From what a caller says to token ids: options, prompts, chat templates, checks."""
