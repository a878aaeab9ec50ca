"""The history of a job: its records on the topics, folded again, explained, kept in a file."""
