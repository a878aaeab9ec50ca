"""The embedded stack: a real Kafka and an AWS emulator on this machine, for development and tests."""
