import numpy as np

from autoresearch.recipes.artefact import ArtefactWriter

honest_finish = ArtefactWriter.finish


class Opened:
    """Whoever unpickles it makes a file."""

    def __reduce__(self):
        return open, ("{{OUTSIDE}}/{{MARK}}", "w")


def finish(writer):
    honest_finish(writer)
    np.save(writer._folder / "group-0.tokens.npy", np.array([Opened()], dtype=object), allow_pickle=True)


ArtefactWriter.finish = finish
