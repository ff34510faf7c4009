"""What becomes of a server that is offered three times what it can do.

    uv run python -m bench.overload [--seconds N] [--times X]

One server process as `chatrpc.server` puts it together, but for a language model that answers at once inside the
process, an embedder that returns a constant vector, and no background work. So all the time from a call of SendMessage
to the first event with text is the server's own. Two processes of clients call it, on connections of their own.

First its capacity is measured: turns a second that 32 callers get who each say their next message once they have their
reply, with admission control off. Then messages are said at instants fixed beforehand (a Poisson process), whatever
becomes of those before: a tenth of the capacity for the unloaded times, then three times the capacity, with admission
control and without. Bars: p99 of accepted turns at most twice the unloaded p99; refusals within 50 ms, p99.

Clients, server and PostgreSQL share the machine. *Lag* is how much later than planned the clients said their messages;
where its p99 is not far below the times beside it, the clients had too little of the machine, and the figures are worth
little.
"""
