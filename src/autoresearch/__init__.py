"""autoresearch: the autonomous pretraining researcher whose record can be believed."""

__version__ = "0.1.0"
