"""The outside world: queues, stores, files, AWS. Nothing here knows Faust."""
