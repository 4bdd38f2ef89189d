"""The emulated link is as fast and as slow as it says: ratios to nominal within one run, loose bounds."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from emulate_link import Direction, Link, running_link
from link_options import LinkSpec, rate_bps, seconds, size_bytes

LOOPBACK = ("127.0.0.1", 0)
SPEC = LinkSpec(rate_bps=40e6, rtt_s=0.04, queue_bytes=100_000)
FAST = LinkSpec(rate_bps=1e9, rtt_s=0.0, queue_bytes=100_000)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(LOOPBACK) as server:
        server.settimeout(10)
        yield server


def dial(address: tuple[str, int], listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    near = socket.create_connection(address, timeout=10)
    far, _ = listener.accept()
    far.settimeout(10)
    return near, far


def pour(sock: socket.socket, num_bytes: int) -> threading.Thread:
    thread = threading.Thread(target=sock.sendall, args=(bytes(num_bytes),))
    thread.start()
    return thread


def take(sock: socket.socket, num_bytes: int) -> None:
    while num_bytes:
        num_bytes -= len(sock.recv(min(num_bytes, 1 << 16)))


def send_until_stopped(sock: socket.socket, at_most: int) -> int:
    sent = 0
    while sent < at_most:
        try:
            sent += sock.send(bytes(1 << 14))
        except TimeoutError:
            break
    return sent


def test_a_direction_serves_in_order_and_reports_when_its_queue_is_full() -> None:
    direction = Direction(LinkSpec(rate_bps=8000, rtt_s=0.5, queue_bytes=1000))
    assert direction.admit(10.0, 500) == 10.75
    assert direction.admit(10.0, 500) == 11.25
    assert direction.wait_s(10.0) == 0.0
    direction.admit(10.0, 250)
    assert direction.wait_s(10.0) == pytest.approx(0.25)
    assert direction.admit(20.0, 1000) == 21.25


def test_bytes_arrive_at_the_nominal_rate(listener: socket.socket) -> None:
    num_bytes = 1_500_000
    with running_link(SPEC) as link:
        near, far = dial(link.map(LOOPBACK, listener.getsockname()), listener)
        with near, far:
            thread = pour(near, num_bytes)
            take(far, 1)
            start = time.perf_counter()
            take(far, num_bytes - 1)
            rate = num_bytes * 8 / (time.perf_counter() - start)
            thread.join()
    assert rate / SPEC.rate_bps == pytest.approx(1.0, abs=0.15)


def test_two_connections_share_one_rate(listener: socket.socket) -> None:
    num_bytes = 600_000
    with running_link(SPEC) as link:
        address = link.map(LOOPBACK, listener.getsockname())
        pairs = [dial(address, listener) for _ in range(2)]
        start = time.perf_counter()
        threads = [pour(near, num_bytes) for near, _ in pairs]
        threads += [threading.Thread(target=take, args=(far, num_bytes)) for _, far in pairs]
        for thread in threads[2:]:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
        for sock in (*pairs[0], *pairs[1]):
            sock.close()
    nominal = 2 * num_bytes * 8 / SPEC.rate_bps + SPEC.rtt_s / 2
    assert elapsed / nominal == pytest.approx(1.0, abs=0.15)


def test_a_byte_and_its_answer_take_one_round_trip(listener: socket.socket) -> None:
    times = []
    with running_link(SPEC) as link:
        near, far = dial(link.map(LOOPBACK, listener.getsockname()), listener)
        with near, far:
            for _ in range(5):
                start = time.perf_counter()
                near.sendall(b"a")
                take(far, 1)
                far.sendall(b"b")
                take(near, 1)
                times.append(time.perf_counter() - start)
    assert 1.0 <= min(times) / SPEC.rtt_s < 1.15


def test_a_full_queue_stops_the_sender(listener: socket.socket) -> None:
    with running_link(SPEC) as link:
        near, far = dial(link.map(LOOPBACK, listener.getsockname()), listener)
        with near, far:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            near.settimeout(0.5)
            sent = send_until_stopped(near, 50_000_000)
    # Nobody reads at the far end: what was taken is the queue, what is in flight, and kernel buffers.
    assert sent < 10_000_000


def test_the_end_of_a_stream_travels_and_the_other_half_stays_open(listener: socket.socket) -> None:
    with running_link(FAST) as link:
        near, far = dial(link.map(LOOPBACK, listener.getsockname()), listener)
        with near, far:
            near.sendall(b"question")
            near.shutdown(socket.SHUT_WR)
            take(far, 8)
            assert far.recv(1) == b""
            far.sendall(b"answer")
            take(near, 6)


def test_reset_breaks_connections_and_new_ones_work(listener: socket.socket) -> None:
    with running_link(FAST) as link:
        address = link.map(LOOPBACK, listener.getsockname())
        near, far = dial(address, listener)
        with near, far:
            link.do(Link.reset)
            for sock in (near, far):
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
        again, far = dial(address, listener)
        with again, far:
            again.sendall(b"x")
            take(far, 1)


def test_a_cut_link_refuses_until_it_is_restored(listener: socket.socket) -> None:
    with running_link(FAST) as link:
        address = link.map(LOOPBACK, listener.getsockname())
        link.do(Link.cut)
        # The reset may come before the dialler's kernel has said that it is connected.
        with pytest.raises(ConnectionResetError), socket.create_connection(address, timeout=10) as refused:
            refused.recv(1)
        link.do(Link.restore)
        near, far = dial(address, listener)
        with near, far:
            near.sendall(b"x")
            take(far, 1)


def test_a_target_that_refuses_resets_the_dialler() -> None:
    with socket.create_server(LOOPBACK) as server:
        dead = server.getsockname()
    with (
        running_link(FAST) as link,
        pytest.raises(ConnectionResetError),
        socket.create_connection(link.map(LOOPBACK, dead), timeout=10) as near,
    ):
        near.recv(1)


def test_a_paused_link_delivers_nothing_until_it_resumes(listener: socket.socket) -> None:
    with running_link(FAST) as link:
        near, far = dial(link.map(LOOPBACK, listener.getsockname()), listener)
        with near, far:
            link.do(Link.pause)
            near.sendall(b"x")
            far.settimeout(0.1)
            with pytest.raises(TimeoutError):
                far.recv(1)
            link.do(Link.resume)
            far.settimeout(10)
            take(far, 1)


def test_closing_a_link_leaves_no_connection_and_no_task() -> None:
    async def run() -> tuple[int, int]:
        link = Link(FAST)
        with socket.create_server(LOOPBACK) as server:
            near = socket.create_connection(await link.map(LOOPBACK, server.getsockname()))
            while not link.num_connections:
                await asyncio.sleep(0)
            await link.close()
            near.close()
        return link.num_connections, len(asyncio.all_tasks()) - 1

    assert asyncio.run(run()) == (0, 0)


def test_quantities_need_a_unit_that_fits() -> None:
    assert (rate_bps("100Mbps"), seconds("50ms"), size_bytes("1.25MB")) == (100e6, 0.05, 1_250_000)
    for parse, text in ((rate_bps, "100"), (rate_bps, "0Mbps"), (seconds, "5MB"), (size_bytes, "-1MB")):
        with pytest.raises(Exception, match=r"not a number|above zero"):
            parse(text)
