from autoresearch.recipes.artefact import ArtefactWriter

honest_finish = ArtefactWriter.finish


def finish(writer):
    honest_finish(writer)
    (writer._folder / "recipe.json").write_text("[" * 500_000)


ArtefactWriter.finish = finish
