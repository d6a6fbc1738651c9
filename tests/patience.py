"""How long a test waits for what must happen: only a hang takes so long, whatever the machine does besides."""

PATIENCE = 600.0  # seconds; a shared machine was seen to give a test run 4 % of its cores for an hour
