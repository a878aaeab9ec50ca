import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.ByteBuffer;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.Stores;

/** What one would write with Kafka Streams: counters of each job (succeeded, others, bytes) in a store with a changelog. */
public class StreamsTally {
    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], application = args[1], topic = args[2], state = args[3];
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("application.id", application);
        settings.put("state.dir", state);
        settings.put("commit.interval.ms", "1000");
        settings.put("num.stream.threads", "1");
        settings.put("auto.offset.reset", "earliest");
        settings.put("producer.acks", "all");
        settings.put("producer.compression.type", "lz4");
        ObjectMapper json = new ObjectMapper();
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.String(), Serdes.ByteArray()))
            .groupByKey()
            .aggregate(
                () -> new byte[24],
                (job, record, counters) -> {
                    try {
                        ByteBuffer before = ByteBuffer.wrap(counters);
                        long succeeded = before.getLong(), others = before.getLong(), bytes = before.getLong();
                        for (JsonNode result : json.readTree(record).path("results")) {
                            if (result.path("outcome").asText().equals("SUCCEEDED")) succeeded++;
                            else others++;
                            bytes += result.path("bytes").asLong();
                        }
                        return ByteBuffer.allocate(24).putLong(succeeded).putLong(others).putLong(bytes).array();
                    } catch (java.io.IOException error) {
                        throw new RuntimeException(error);
                    }
                },
                Materialized.<String, byte[]>as(Stores.inMemoryKeyValueStore("jobs"))
                    .withKeySerde(Serdes.String()).withValueSerde(Serdes.ByteArray()));
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        Thread.currentThread().join();
    }
}
