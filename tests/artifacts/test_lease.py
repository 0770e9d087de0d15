"""Leases in a bucket: one holder, whatever happens to it and to the network."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time

import pytest
from fault_proxy import fault_proxy
from s3 import STORE_BUCKET as BUCKET

from rayml.artifacts.lease import LeaseLost, Leases

TTL_S = 2.0


@pytest.fixture
def leases(store):
    return Leases(store.bucket, TTL_S)


@pytest.fixture
def rivals(other):
    return Leases(other.bucket, TTL_S)


def test_a_lease_has_one_holder_and_passes_on_when_released(leases, rivals):
    held = leases.acquire("runs/digits-1")
    assert rivals.acquire("runs/digits-1") is None
    assert rivals.holder("runs/digits-1").pid == os.getpid()
    started = time.monotonic()
    assert rivals.acquire("runs/digits-1", watch_s=10) is None, "a sign of life ends the wait"
    assert time.monotonic() - started < TTL_S
    held.release()
    assert leases.holder("runs/digits-1") is None
    mine = rivals.acquire("runs/digits-1")
    assert mine.number > held.number
    mine.release()


def test_of_many_contenders_one_wins(store, leases):
    leases.acquire("raced").release()
    barrier, won = threading.Barrier(12), []

    def contend():
        each = Leases(store.bucket, 30)
        barrier.wait()
        won.append(each.acquire("raced"))

    threads = [threading.Thread(target=contend) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [lease for lease in won if lease is not None]
    assert len(held) == 1
    held[0].check()
    held[0].release()


def test_a_living_holder_is_never_overtaken(leases, rivals):
    held = leases.acquire("alive")
    end = time.monotonic() + 1.5 * TTL_S
    while time.monotonic() < end:
        assert rivals.acquire("alive") is None
        time.sleep(0.1)
    held.check()
    held.release()


HOLDER = """
import time
from pathlib import Path
from rayml.artifacts.lease import Leases
from rayml.artifacts.bucket import Bucket
lease = Leases(Bucket({bucket!r}, {prefix!r}), {ttl_s}).acquire("dead")
print(lease.number, flush=True)
time.sleep(60)
"""


def test_the_lease_of_a_killed_holder_is_taken_over(leases, prefix):
    program = HOLDER.format(bucket=BUCKET, prefix=prefix, ttl_s=TTL_S)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        assert leases.acquire("dead") is None
        process.kill()
    killed = time.monotonic()
    lease = leases.acquire("dead", watch_s=10)
    while lease is None:  # it may have been renewed once after it was first seen
        assert time.monotonic() - killed < 10
        lease = leases.acquire("dead", watch_s=10)
    assert lease.number == 2, "no other holder came between"
    lease.release()


@pytest.mark.parametrize("how", ["cut", "silent"])
def test_a_holder_that_is_cut_off_learns_it_before_another_may_hold(server, how, leases, rivals, prefix, monkeypatch):
    with fault_proxy(int(server.url.rpartition(":")[2])) as proxy:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
            told = threading.Event()
            lease = leases.acquire("cut off", on_lost=told.set)
            lease._renew()  # the client exists now, and goes through the proxy
        lease.check()
        if how == "cut":
            proxy.cut()
        else:
            proxy.delay_s = 60
        taken = None
        end = time.monotonic() + 10
        while taken is None and time.monotonic() < end:
            taken = rivals.acquire("cut off")
            time.sleep(0.02)
        assert taken is not None
        assert lease.lost.is_set() and told.is_set()
        with pytest.raises(LeaseLost, match="no longer holds the lease"):
            lease.check()
        lease.release()
        taken.check()
        taken.release()


def test_a_holder_that_slept_learns_it_at_its_next_step(leases, rivals):
    """As after SIGSTOP: its thread did not run, another took over, and then it wakes."""
    lease = leases.acquire("slept")
    lease._ended.set()
    lease._thread.join()
    taken = rivals.acquire("slept", watch_s=10)
    with pytest.raises(LeaseLost):
        lease.check()
    with pytest.raises(LeaseLost):
        lease._renew()
    taken.check()
    taken.release()


def test_an_error_of_a_lease_pickles(leases):
    lease = leases.acquire("pickled")
    error = pickle.loads(pickle.dumps(lease._loss()))
    lease.release()
    assert type(error) is LeaseLost
    assert error.exit_code == 5
    assert error.where.endswith("pickled/lease-00000001.json")
