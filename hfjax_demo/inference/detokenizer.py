"""Token ids to text, as they come. Knows nothing of models or requests.

A token can end in the middle of a character's bytes, and some tokenizers drop the leading space of whatever they decode
first. So a short window of earlier tokens is decoded along, and text is given out only when its last character is whole.
Source: the prefix/read offset scheme of Hugging Face's text-generation-inference.
"""

from collections.abc import Sequence
from typing import Any

REPLACEMENT_CHARACTER = "\ufffd"
PROMPT_WINDOW = 6


class IncrementalDetokenizer:
    """Turns a stream of token ids into a stream of text. Not thread-safe."""

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int]) -> None:
        """Starts after `prompt_ids`, whose last tokens give the first piece its right leading space."""
        self._tokenizer = tokenizer
        self._ids: list[int] = list(prompt_ids[-PROMPT_WINDOW:])
        self._window_start = 0
        self._shown = len(self._ids)

    def add(self, token_id: int, is_last: bool = False) -> str:
        """The text that `token_id` completes; empty while the last character's bytes are incomplete.

        Args:
            token_id: the next token.
            is_last: no token follows: give out what is left, an incomplete character as U+FFFD.
        """
        self._ids.append(token_id)
        shown = self._decode(self._ids[self._window_start : self._shown])
        text = self._decode(self._ids[self._window_start :])
        if not is_last and (len(text) <= len(shown) or text.endswith(REPLACEMENT_CHARACTER)):
            return ""
        self._window_start, self._shown = self._shown, len(self._ids)
        return text[len(shown) :]

    def finish(self) -> str:
        """What is still held back when the text ended without a last token's text (at an end-of-sequence id)."""
        shown = self._decode(self._ids[self._window_start : self._shown])
        text = self._decode(self._ids[self._window_start :])
        self._window_start, self._shown = self._shown, len(self._ids)
        return text[len(shown) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, ...]:
    """Each of `token_ids` as text: a special token's name; a character at the token that completes it, else nothing."""
    stream = IncrementalDetokenizer(tokenizer, ())
    special = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tuple(stream.add(token_id) or special.get(token_id, "") for token_id in token_ids)
