"""What a turn costs the server in CPU, compared with a bare gRPC server that sends the same words.

    uv run python -m bench.turn_cpu [--rounds N] [--streams N] [--tokens N] [--rate N]

A turn is one message on a `Chat` stream and a reply of 200 tokens at 100 tokens a second, on 32 streams at once. The
words come from a model inside the server's process; the embedder returns a constant vector and no background work is
done, so that only the turn itself is counted: identity, validation, append, assembly, generation, coalescing,
checkpoints, finish, streams. The bare server is grpc.aio, which yields one message of the same type for each token of
the same generator. Each server has a process of its own, on uvloop, whose user and system time is read before and after
each round; PostgreSQL's is not counted. Rounds take turns. A ratio above the bar of 0.6 is a miss.

Beside it stand the parts that were kept out: the provider client's cost of a chunk, and the embedder's of a message.
"""
