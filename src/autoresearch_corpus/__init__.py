"""The embedded corpus: public-domain English as parquet, in a folder of its own that a sandbox can hide.

Data only, importing does nothing. `autoresearch.contract.corpora` reads it, PROVENANCE.md says where every text comes
from, manifest.json which chapter is in which file, and build.py makes it all again.
"""
