"""Pictures of runs: of one (``run``), and of all side by side (``index``)."""
