"""`python -m coordinator`: serve until SIGTERM."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

# Read when grpc is first imported. Its poller threads cost a wake-up an event that grpc.aio does not need: without
# them a request takes a quarter less time (measured with 1.81; look again with every newer one).
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_poller_for_python")

from coordinator.config import MEMORY, Config, ConfigError, read_config
from coordinator.keys import KeyFileError, Keys, read_keys
from coordinator.server import CannotServe, serve

_LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


def main() -> int:
    """Run the coordinator in this process; the exit code."""
    parser = argparse.ArgumentParser("python -m coordinator", description="Serve the coordinator of a fleet.")
    parser.add_argument("--host", help="address to serve on (127.0.0.1; any other needs --api-keys)")
    parser.add_argument("--grpc-port", type=int, help="0 for any")
    parser.add_argument("--http-port", type=int, help="0 for any")
    parser.add_argument("--metrics-port", type=int, help="0 for any")
    parser.add_argument("--api-keys", type=Path, metavar="FILE", help="TOML file of keys")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings")
    parser.add_argument("--state", metavar="DIR", help=f"keeps jobs (a temporary folder; {MEMORY} writes nothing)")
    parser.add_argument("--stop-at-eof", action="store_true", help="stop when standard input ends")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = read_config(
            given.config,
            state=given.state,
            host=given.host,
            grpc_port=given.grpc_port,
            http_port=given.http_port,
            metrics_port=given.metrics_port,
        )
        keys = read_keys(given.api_keys) if given.api_keys else Keys()
        if config.listen.host not in _LOCAL_HOSTS and keys.holders is None:
            raise ConfigError(f"--host {config.listen.host} is open to others: it needs --api-keys FILE")
    except (ConfigError, KeyFileError) as error:
        print(f"coordinator: {error}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_serve(config, keys, given.stop_at_eof))
    except CannotServe as error:
        print(f"coordinator: {error}", file=sys.stderr)
        return 2


def _spare_the_collector() -> None:
    """What is here at the start stays: a full collection need not walk it, and one comes less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _serve(config: Config, keys: Keys, stop_at_eof: bool) -> int:
    _spare_the_collector()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if stop_at_eof:
        os.set_blocking(0, False)

        def read() -> None:
            if not os.read(0, 1024):
                loop.remove_reader(0)
                stop.set()

        loop.add_reader(0, read)
    await serve(config, keys, stop, lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
