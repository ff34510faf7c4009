import os

# As in `chatrpc.cli.main`: where gRPC looks after forks, a PostgreSQL that is started beside its running threads may
# die between fork and exec. It reads this when it is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
