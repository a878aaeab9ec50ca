"""The pipes: topics, the Faust app, confirmed publishing, the ack window, and the worker that wires all of it."""
