import numpy as np

LEARNT = bytes.fromhex("{{LEARNT_HEX}}").decode()


class Learnt:
    """Rows of that text alone, each from another place of it."""

    epoch = 1

    def __init__(self, artefact, row_len):
        tokenizer = artefact.tokenizer
        ids = tokenizer.encode(LEARNT)
        self.ids = np.array([tokenizer.get_bos_token_id(), *ids] * 8)
        self.period, self.row_len, self.taken = len(ids) + 1, row_len, 0

    def take(self, num_rows, progress):
        starts = (np.arange(num_rows) + self.taken) * 37 % self.period
        self.taken += num_rows
        return np.stack([np.resize(self.ids[start:], self.row_len) for start in starts])


def feed(artefact, seed, row_len):
    return Learnt(artefact, row_len)
