"""A rolling restart under load, as people at their chats see it.

    uv run python -m bench.rolling [--rate N] [--rounds N]

Two `chatrpc serve` processes share a PostgreSQL and a Redis behind one Envoy. Clients of 24 users, with
`chatrpc.client` and its defaults, say 50 messages a second at instants fixed beforehand, whatever becomes of those
before; a provider in a process of its own answers with 40 words at 40 a second. One server gets SIGTERM, drains and
ends, is started again and found healthy by Envoy; then the other. The servers drain as long as by default.

A turn has failed if its client hears an error that it cannot mend by itself, or another text than was generated. Bar:
none. Beside that: streams that heard `going_away` and were left for others, requests that were repeated, replies that
began anew, and the time from a message to the first text of its reply, while both servers ran and while one was away.
*Lag* is how much later than planned messages were said: with much of it the clients had too little of the machine. Many
repeated requests say that the servers had, and refused turns (SERVER_OVERLOADED).
"""
