import numpy as np

from autoresearch.recipes.artefact import ArtefactWriter

honest_finish = ArtefactWriter.finish


def finish(writer):
    honest_finish(writer)
    tokens = np.load(writer._folder / "group-0.tokens.npy", mmap_mode="r+")
    tokens[len(tokens) // 2 : len(tokens) // 2 + 64] = np.iinfo(tokens.dtype).max
    tokens.flush()


ArtefactWriter.finish = finish
