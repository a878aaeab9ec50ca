"""One file a step of the pipeline, in data-flow order: plan, download, tally, callback, snapshot."""
