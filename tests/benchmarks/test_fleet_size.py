"""The fleet-size benchmark, end to end."""

from pathlib import Path

from tests.benchmarks.running import measured, samples


def test_a_fleet_is_idle_restarted_and_lost_for_a_while(tmp_path: Path) -> None:
    fleet = ("--vehicles", 101, "--lots", 2)
    work = ("--live", 500, "--take-overs", 1)
    document = measured(tmp_path, "fleet-size", *fleet, "--idle-s", 1, "--restarts", 2, "--losses", 1, *work)
    assert 0 <= samples(document, "coordinator's share of a core, idle")[0] < 1
    assert samples(document, "coordinator's resident memory")[0] > 10
    assert len(samples(document, "all back after a restart's exec")) == 2
    assert 5 < samples(document, "a silent lot noticed after")[0] < 15
    (ready_s,) = samples(document, "exec to ready, 500 live jobs, all at work")
    assert 0 < ready_s < samples(document, "exec to all lots back, leases taken over")[0]
    (held,), (taken_over,) = samples(document, "leases held at the kill"), samples(document, "taken over")
    assert 0.98 * held <= taken_over <= held
