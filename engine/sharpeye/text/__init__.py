"""Text: which training examples taught a language model what it says; influence over its LoRA parameters."""
