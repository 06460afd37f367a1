"""Ray Serve with the model of 1 ms: the peer that fronts are compared with.

`python -m benchmarks.ray_serve WAY REPLICAS HTTP_PORT GRPC_PORT` prints `ray ready` and serves until its standard
input ends. WAY is `plain`, as Ray Serve comes, or `fast`, as its documentation has it for high throughput: HAProxy
before the replicas and RAY_SERVE_THROUGHPUT_OPTIMIZED. Both answer POST /v1/embeddings, by a bare handler without a
framework in between, and JobService.Run. The only file here that imports ray for it, in a process of its own.
"""

import json
import os
import sys
from typing import Any

FAST = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
_QUEUED = 1_000  # requests in a replica, at most: all that are open wait side by side
_QUIET = {"enable_access_log": False, "log_level": "WARNING"}

os.environ |= {
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class Replica:
    """One of them, for both of its fronts."""

    async def __call__(self, request: Any) -> Any:
        """POST /v1/embeddings."""
        from starlette.responses import Response

        from benchmarks.timer import document, result, wait_s

        body = json.loads(await request.body())
        answer = document(result(await wait_s()), body["model"])
        return Response(answer, media_type="application/json")

    async def run(self, request: Any) -> Any:
        """JobService.Run."""
        from benchmarks.timer import result, wait_s
        from protos import jobs_pb2

        return jobs_pb2.RunResponse(results=[jobs_pb2.ItemResult(payload=result(await wait_s()))])

    Run = run  # Ray Serve looks for the name in the protocol


def main(way: str, replicas: int, http_port: int, grpc_port: int) -> None:
    """Serve until standard input ends."""
    if way == "fast":
        os.environ |= FAST  # before Ray is imported
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    try:
        servicer = "protos.jobs_pb2_grpc.add_JobServiceServicer_to_server"
        serve.start(
            http_options=HTTPOptions(host="127.0.0.1", port=http_port),
            grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=[servicer], enable_reflection=False),
            logging_config=_QUIET,
        )
        deployed: Any = serve.deployment(
            Replica,
            num_replicas=replicas,
            max_ongoing_requests=_QUEUED,
            logging_config=_QUIET,
            ray_actor_options={"num_cpus": 0.1},
        )
        serve.run(deployed.bind(), name="timer", route_prefix="/")
        print("ray ready", flush=True)
        sys.stdin.read()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
