"""Text streamed token by token equals the text decoded at once, and no half characters are shown."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hfjax_demo.inference.detokenizer import REPLACEMENT_CHARACTER, IncrementalDetokenizer

TEXTS = [
    "plain words, then  two spaces",
    "naïve café, Ελληνικά, 日本語",
    "family 👨‍👩‍👧‍👦 and flag 🇨🇭!",
    "tab\tand\nnew\r\nlines\n\n",
    "مرحبا بالعالم",
    "<img src=x onerror=alert(1)> ${1+1} `code`",
]


@pytest.fixture(scope="module")
def byte_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module")
def sentencepiece_like_tokenizer():
    words = ["▁", "▁the", "▁cat", "▁sat", "s", "▁on", "!", "▁a"]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges=[]))
    tokenizer.normalizer = normalizers.Prepend("▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def pieces_of(tokenizer, prompt_ids, ids):
    stream = IncrementalDetokenizer(tokenizer, prompt_ids)
    return [stream.add(token, is_last=index == len(ids) - 1) for index, token in enumerate(ids)]


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_pieces_join_to_the_text(byte_tokenizer, text):
    ids = byte_tokenizer(text)["input_ids"]
    pieces = pieces_of(byte_tokenizer, byte_tokenizer("prompt: ")["input_ids"], ids)
    assert "".join(pieces) == text
    assert not any(REPLACEMENT_CHARACTER in piece for piece in pieces)


def test_a_character_comes_whole_with_its_last_byte(byte_tokenizer):
    ids = byte_tokenizer("a日b")["input_ids"]
    assert pieces_of(byte_tokenizer, [], ids) == ["a", "", "", "日", "b"]


def test_the_space_between_prompt_and_first_token_is_kept(sentencepiece_like_tokenizer):
    the, cat, sat = 1, 2, 3
    assert pieces_of(sentencepiece_like_tokenizer, [the], [cat, sat, 4]) == [" cat", " sat", "s"]


def test_a_character_cut_off_by_the_end_is_shown_as_the_replacement_character(byte_tokenizer):
    ids = byte_tokenizer("日")["input_ids"][:2]
    assert "".join(pieces_of(byte_tokenizer, [], ids)) == REPLACEMENT_CHARACTER


def test_finish_gives_out_what_an_end_of_sequence_token_held_back(byte_tokenizer):
    stream = IncrementalDetokenizer(byte_tokenizer, [])
    first = byte_tokenizer("é")["input_ids"][0]
    assert stream.add(first) == ""
    assert stream.finish() == REPLACEMENT_CHARACTER
