"""Quix Streams with a dataframe that only counts: one Python call a message, values left as bytes."""

from quixstreams import Application, message_context

from bench.tally import Job, Tally, job_from_arguments


def consume(job: Job) -> None:
    """Run the application until the tally ends the process; a checkpoint a second commits what is done."""
    tally = Tally(job)
    app = Application(
        broker_address=job.bootstrap,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        commit_interval=1.0,
        auto_create_topics=False,
        state_dir=job.scratch,
        loglevel="WARNING",
    )
    topic = app.topic(job.topic, key_deserializer="bytes", value_deserializer="bytes")

    def count(_value: bytes) -> None:
        context = message_context()
        tally.done(context.partition, context.offset, 1)

    app.dataframe(topic).update(count)
    app.run()


if __name__ == "__main__":
    consume(job_from_arguments())
