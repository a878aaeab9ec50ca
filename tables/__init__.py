"""The memory of the pipeline: changelog-backed Faust tables, written only through the fold."""
