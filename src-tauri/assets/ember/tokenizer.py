"""Ember's tokenizer: byte-level BPE, 2,048 tokens, single digits, newlines never merged. Called by train.py --fresh.

A newline is always a token of its own, so a conversation has the same ids whether it is encoded whole (as an engine
does) or turn by turn (as training does).
"""
import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import chatml
import corpus

SIZE = 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
CONVERSATIONS = 40_000


def load_or_train(path):
    if path.exists():
        return Tokenizer.from_file(str(path))
    out = Tokenizer(models.BPE())
    out.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "isolated"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    out.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    texts = ("".join(text for text, _ in chatml.render(corpus.conversation(rng))) for _ in range(CONVERSATIONS))
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    out.train_from_iterator(texts, trainer)
    out.save(str(path))
    return out
