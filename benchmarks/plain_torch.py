"""One process of the plain torch baseline: its share of a text file, embedded into a file of its own.

`python -m benchmarks.plain_torch MODEL_FOLDER DEVICE DTYPE THREADS PART PARTS` prints `ready`; for each line
`BATCH_ITEMS INPUT OUTPUT` (with tabs) of its standard input it does the work and prints `done ITEMS`.
"""

import sys
from pathlib import Path

from benchmarks.embedder import Embedder, output_lines


def main(directory: str, device: str, dtype: str, threads: str, part: str, parts: str) -> None:
    """Serve until standard input ends."""
    embedder = Embedder(Path(directory), device, dtype, int(threads))
    print("ready", flush=True)
    for command in sys.stdin:
        batch_items, source, target = command.rstrip("\n").split("\t")
        texts = Path(source).read_text(encoding="utf-8").splitlines()
        by_length = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        mine = sorted(by_length[int(part) :: int(parts)])  # every share has as much of each length
        vectors = embedder.embed([texts[index] for index in mine], int(batch_items))
        lines = output_lines([index + 1 for index in mine], vectors, "plain")
        Path(target).write_text(lines, encoding="utf-8")
        print(f"done {len(mine)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
