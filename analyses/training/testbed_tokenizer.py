"""How does the testbed's text become tokens? One token for each word, from the testbed's own word list, untrained.

Words of `words.py` and of the questions are whole tokens, a surname is two syllables, and anything else is spelled
character by character. A character outside ASCII is `<unk>`.
"""

import string
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from engram_interp.testbed import words
from engram_interp.testbed.authors import ATTRIBUTES, CAPITAL, SYMBOL

BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"
SPACE = "\u2581"  # how the Metaspace pre-tokenizer writes the space before a word


def _phrases() -> Iterable[str]:
    for attribute in ATTRIBUTES:
        yield from (attribute.question, attribute.pattern, attribute.paraphrase)
    yield from (*CAPITAL, *SYMBOL)


def _spoken_words() -> list[str]:
    """Every whole word, in a fixed order and once each."""
    pools = [pool for attribute in ATTRIBUTES for pool in attribute.pools]
    named = [words.FIRST_NAMES, words.SURNAME_HEADS, *pools, words.CAPITALS, words.CAPITALS.values(), words.ELEMENTS]
    phrase_words = [word.strip("?") for phrase in _phrases() for word in phrase.split() if "{" not in word]
    return list(dict.fromkeys([*phrase_words, *(word for pool in named for word in pool)]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The testbed's tokenizer, made from the word lists. `testbed.load` reads the saved copy."""
    characters = sorted(set(string.printable) - set(string.whitespace))
    specials = [BOS, EOS, PAD, UNK]
    pieces = [SPACE + word for word in _spoken_words()] + list(words.SURNAME_TAILS)
    singles = [piece for piece in [SPACE, *characters] if piece not in pieces]
    # A spelled character costs more than any word, so that the fewest whole pieces win.
    scores = [(token, 0.0) for token in specials] + [(p, -1.0) for p in pieces] + [(c, -10.0) for c in singles]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=specials.index(UNK), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, specials.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNK, add_bos_token=True
    )
