"""The oracle: what an outsider can see of a system, and what it says about its invariants. Shares no code with the pipeline."""
