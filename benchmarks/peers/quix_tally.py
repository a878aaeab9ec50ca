"""What one would write with Quix Streams: counters of each job in a store with a changelog. `quix_tally.py BOOTSTRAP GROUP TOPIC STATE`"""

import sys
from typing import Any

from quixstreams import Application


def count(record: dict[str, Any], state: Any) -> None:
    counters = state.get("counters", [0, 0, 0])
    for result in record.get("results", ()):
        counters[0 if result["outcome"] == "SUCCEEDED" else 1] += 1
        counters[2] += result["bytes"]
    state.set("counters", counters)


def main(bootstrap: str, group: str, topic: str, state: str) -> None:
    app = Application(
        broker_address=bootstrap,
        consumer_group=group,
        auto_offset_reset="earliest",
        state_dir=state,
        commit_interval=1.0,
        loglevel="WARNING",
        auto_create_topics=True,
        producer_extra_config={"acks": "all", "compression.type": "lz4"},
    )
    frame = app.dataframe(app.topic(topic, value_deserializer="json", key_deserializer="str"))
    frame.update(count, stateful=True)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
