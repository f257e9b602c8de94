"""A text as HTML, with the words marked that another one lacks."""

import re
from html import escape

WORD = re.compile(r"\w+|\W+")


def marked(text: str, other: str) -> str:
    """The text, its words that do not occur in `other` marked."""
    known = {word.lower() for word in WORD.findall(other)}
    parts = []
    for word in WORD.findall(text):
        lacking = word.lower() not in known and any(letter.isalnum() for letter in word)
        parts.append(f"<mark>{escape(word)}</mark>" if lacking else escape(word))
    return "".join(parts)


def example(prompt: str, completion: str) -> str:
    """HTML of an example: the prompt, and under it the completion; both are HTML already."""
    style = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0"
    line = "border-left:3px solid #0b6f66;padding-left:.6rem;margin-top:.4rem"
    return f'<p style="{style};opacity:.75">{prompt}</p><p style="{style};{line}">{completion}</p>'
