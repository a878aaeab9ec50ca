import java.util.Properties;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.StateRestoreListener;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueBytesStoreSupplier;
import org.apache.kafka.streams.state.Stores;

/** Two stores of bytes whose changelogs are named as ours are, so that Kafka Streams restores them from the very same topics. */
public class StreamsRestore {
    static class Nothing implements Processor<byte[], byte[], Void, Void> {
        public void process(Record<byte[], byte[]> record) {}
    }

    static long records = 0, began = 0, ended = 0;

    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], application = args[1], topic = args[2], state = args[3], kind = args[4];
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("application.id", application);
        settings.put("state.dir", state);
        settings.put("num.stream.threads", "1");
        settings.put("auto.offset.reset", "earliest");
        settings.put("session.timeout.ms", "6000"); // it does not leave its group when it ends
        Topology topology = new Topology();
        topology.addSource("source", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), topic);
        topology.addProcessor("nothing", Nothing::new, "source");
        for (String name : new String[] {"jobs", "shards"}) {
            KeyValueBytesStoreSupplier supplier =
                kind.equals("memory") ? Stores.inMemoryKeyValueStore(name) : Stores.persistentKeyValueStore(name);
            topology.addStateStore(Stores.keyValueStoreBuilder(supplier, Serdes.ByteArray(), Serdes.ByteArray()), "nothing");
        }
        KafkaStreams streams = new KafkaStreams(topology, settings);
        streams.setGlobalStateRestoreListener(new StateRestoreListener() {
            public synchronized void onRestoreStart(TopicPartition place, String store, long start, long end) {
                if (began == 0) began = System.nanoTime();
            }

            public void onBatchRestored(TopicPartition place, String store, long end, long count) {}

            public synchronized void onRestoreEnd(TopicPartition place, String store, long total) {
                records += total;
                ended = System.nanoTime();
            }
        });
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING) {
                System.out.printf("restored %d %.3f%n", records, (ended - began) / 1e9);
                System.out.flush();
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        Thread.currentThread().join();
    }
}
