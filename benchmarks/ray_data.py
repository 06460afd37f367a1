"""Ray Data doing the same: `map_batches` over a pool of actors that embed with plain torch.

`python -m benchmarks.ray_data MODEL_FOLDER DEVICE DTYPE THREADS ACTORS` prints `ready`; for each line `ROWS
BATCH_ITEMS INPUT OUTPUT` (with tabs) of its standard input it embeds a text file into another, ROWS lines to a
call of `map_batches`, and prints `done SECONDS`, from the moment when every actor has its model. The lines go
in sorted by length, the file is written as results come: nothing that could be saved is paid for.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ |= {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


class Embed:
    """One actor of the pool."""

    def __init__(self, directory: str, device: str, dtype: str, threads: int, batch_items: int) -> None:
        from benchmarks.embedder import Embedder

        self._embedder = Embedder(Path(directory), device, dtype, threads)
        self._batch_items = batch_items
        self._ready_at = time.time()

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.embedder import output_lines

        vectors = self._embedder.embed(rows["text"].tolist(), self._batch_items)
        lines = output_lines(rows["number"].tolist(), vectors, "ray").splitlines(keepends=True)
        return {"line": np.array(lines, object), "ready_at": np.full(len(lines), self._ready_at)}


def main(directory: str, device: str, dtype: str, threads: str, actors: str) -> None:
    """Serve until standard input ends."""
    import ray
    import ray.data

    pool = int(actors)
    ray.init(address="local", num_cpus=pool + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        print("ready", flush=True)
        for command in sys.stdin:
            rows, batch_items, source, target = command.rstrip("\n").split("\t")
            texts = Path(source).read_text(encoding="utf-8").splitlines()
            by_length = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
            table = [{"number": index + 1, "text": texts[index]} for index in by_length]
            blocks = -(-len(table) // int(rows))
            embedded = ray.data.from_items(table, override_num_blocks=blocks).map_batches(
                Embed,
                fn_constructor_args=(directory, device, dtype, int(threads), int(batch_items)),
                batch_size=int(rows),
                compute=ray.data.ActorPoolStrategy(size=pool),
                num_cpus=1,
                num_gpus=1 / pool if device == "cuda" else None,
            )
            ready_at = 0.0
            with open(target, "w", encoding="utf-8") as out:
                for batch in embedded.iter_batches(batch_size=None):
                    out.writelines(batch["line"].tolist())
                    ready_at = max(ready_at, float(batch["ready_at"].max()))
            print(f"done {time.time() - ready_at}", flush=True)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
