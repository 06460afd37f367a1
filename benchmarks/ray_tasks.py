"""Ray tasks that return their payload: a peer that dispatch is compared with.

`python -m benchmarks.ray_tasks SECONDS REPEATS ITEMS` prints one JSON object: rates in tasks a second one at a
time, 64 at a time and all at once, and seconds of the median task one at a time; a list with one of each for
every repeat. The only file here that imports ray for it, run in a process of its own.
"""

import json
import os
import sys
import time
from statistics import median
from typing import Any

from benchmarks.payloads import payloads

os.environ |= {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def main(seconds: float, repeats: int, items: int) -> dict[str, list[float]]:
    """Measure, after as long a warm-up."""
    import ray

    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    try:
        echo = ray.remote(_echo)
        figures: dict[str, list[float]] = {"one_s": [], "one_per_s": [], "many_per_s": [], "bulk_per_s": []}
        _many(ray, echo, 64, seconds)
        for _ in range(repeats):
            figures["many_per_s"].append(_many(ray, echo, 64, seconds))
            one_per_s, one_s = _one(ray, echo, seconds)
            figures["one_per_s"].append(one_per_s)
            figures["one_s"].append(one_s)
            figures["bulk_per_s"].append(_bulk(ray, echo, items))
        return figures
    finally:
        ray.shutdown()


def _echo(payload: bytes) -> bytes:
    return payload


def _one(ray: Any, echo: Any, seconds: float) -> tuple[float, float]:
    latencies_s: list[float] = []
    begun_s = now_s = time.perf_counter()
    for payload in payloads():
        if now_s - begun_s > seconds:
            break
        _check(ray.get(echo.remote(payload)), payload)
        latencies_s.append(time.perf_counter() - now_s)
        now_s += latencies_s[-1]
    return len(latencies_s) / (now_s - begun_s), median(latencies_s)


def _many(ray: Any, echo: Any, width: int, seconds: float) -> float:
    fresh = payloads()
    open_tasks = {echo.remote(payload): payload for payload, _ in zip(fresh, range(width), strict=False)}
    done = 0
    begun_s = time.perf_counter()
    while open_tasks:
        ready, _ = ray.wait(list(open_tasks), num_returns=1)
        for task, answer in zip(ready, ray.get(ready), strict=True):
            _check(answer, open_tasks.pop(task))
            done += 1
            if time.perf_counter() - begun_s < seconds:
                payload = next(fresh)
                open_tasks[echo.remote(payload)] = payload
    return done / (time.perf_counter() - begun_s)


def _bulk(ray: Any, echo: Any, items: int) -> float:
    sent = [payload for payload, _ in zip(payloads(), range(items), strict=False)]
    begun_s = time.perf_counter()
    answers = ray.get([echo.remote(payload) for payload in sent])
    elapsed_s = time.perf_counter() - begun_s
    _check(answers, sent)
    return items / elapsed_s


def _check(answer: Any, wanted: Any) -> None:
    if answer != wanted:
        sys.exit("Ray answered with something else than the payload")


if __name__ == "__main__":
    print(json.dumps(main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))), flush=True)
